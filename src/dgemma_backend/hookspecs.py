"""Every hook a plugin may implement, and the records it answers with.

A plugin is a module (or an object) named by an entry point of the group `dgemma_backend`:

    from dgemma_backend.hookspecs import StopRuleRecord, hookimpl

    @hookimpl
    def dgemma_stop_rules():
        return [StopRuleRecord("patient", "my_plugin.rule:Patient", summary="waits longer")]

A record says where a part is, as `"package.module:attribute"`; the module is imported when the
part is first asked for. So a plugin's own module should import nothing but this one: every
`dgemma` command and every engine loads it.

Hooks are called by keyword, so a plugin may leave out arguments it does not need, and later
versions may add some.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import pluggy

from dgemma_backend.errors import PluginError

GROUP = "dgemma_backend"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Record:
    """A part that a plugin offers under a name.

    Raises PluginError at once for a name or factory that could never be used.

    Attributes:
        name: What a user asks for. Letters, digits, `_`, `.` and `-`; "auto" is taken.
        factory: Where the part is: `"package.module:attribute"`.
        summary: One line for `dgemma plugins`.
        replaces: Take the place of a part of the same name. Without it, a name that another
            plugin already gave is refused.
    """

    kind: ClassVar[str] = "part"

    name: str
    factory: str
    summary: str = ""
    replaces: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name == "auto":
            raise PluginError(
                f"{self.kind} name {self.name!r} must be made of letters, digits, '_', '.' and "
                "'-', and may not be 'auto'"
            )
        if not isinstance(self.factory, str) or not _FACTORY.fullmatch(self.factory):
            raise PluginError(
                f"factory {self.factory!r} of {self.kind} {self.name!r} must read "
                "'package.module:attribute'"
            )


@dataclass(frozen=True)
class EngineRecord(Record):
    """A kind of engine.

    `factory(model, *, plugins, quantization, device, dtype, kernels, **options)` opens one.
    """

    kind: ClassVar[str] = "engine"


@dataclass(frozen=True)
class KernelsRecord(Record):
    """An implementation of the operations; `factory() -> dgemma_kernels.Kernels`."""

    kind: ClassVar[str] = "kernels"


@dataclass(frozen=True)
class QuantizationRecord(Record):
    """A format of quantized weights; `factory()` is asked once for each load.

    What it returns has the record's `name` and one method, `matrix_for(name)`. It is asked for
    every matrix that may be quantized, by its name in the model:

        layers.N.experts.gate_up_proj, .down_proj           (experts, rows, columns)
        layers.N.self_attn.{q,k,v,o}_proj.weight            (rows, columns)
        layers.N.mlp.{gate,up,down}_proj.weight
        self_conditioning.{gate,up,down}_proj.weight

    and answers None, to leave that matrix in full precision, or a callable. The callable gets
    one dense matrix `(rows, columns)` at a time, on the device where the model will be: of
    experts, one after another, so that they are never all there in full precision. It returns
    an `Fp8Matrix`, `Int4Matrix` or `Fp4Matrix` of `dgemma_kernels.quantized`, of the same kind
    for all experts of a matrix and for a first try with zeros. It raises ValueError for weights
    it cannot quantize. `dgemma_backend.weights.formats` has ours.
    """

    kind: ClassVar[str] = "quantization"


@dataclass(frozen=True)
class SamplerRecord(Record):
    """A canvas sampler; `factory(settings)` with the request's DecodingSettings."""

    kind: ClassVar[str] = "sampler"


@dataclass(frozen=True)
class StopRuleRecord(Record):
    """A rule that ends a canvas; `factory(settings)` with the request's DecodingSettings."""

    kind: ClassVar[str] = "stop rule"


@dataclass(frozen=True)
class ChatProtocolRecord(Record):
    """A chat format; `factory(tokenizer)` with the checkpoint's ChatTokenizer."""

    kind: ClassVar[str] = "chat protocol"


@dataclass(frozen=True)
class ProviderRecord(Record):
    """A framework adapter; `factory(**options)` is what `dgemma_backend.provider` returns.

    Attributes:
        requires: Distributions it needs, with versions: `("langchain-core>=1.6.10,<2",)`.
        extra: The extra of dgemma-backend that installs them, for ours only.
    """

    kind: ClassVar[str] = "provider"

    requires: tuple[str, ...] = ()
    extra: str = ""


@hookspec
def dgemma_engines() -> Iterable[EngineRecord]:  # type: ignore[empty-body]
    """Kinds of engine to offer. Asked once, when plugins are loaded."""


@hookspec
def dgemma_kernels() -> Iterable[KernelsRecord]:  # type: ignore[empty-body]
    """Implementations of the operations to offer. Asked once, when plugins are loaded."""


@hookspec
def dgemma_quantizations() -> Iterable[QuantizationRecord]:  # type: ignore[empty-body]
    """Formats of quantized weights to offer. Asked once, when plugins are loaded."""


@hookspec
def dgemma_samplers() -> Iterable[SamplerRecord]:  # type: ignore[empty-body]
    """Canvas samplers to offer. Asked once, when plugins are loaded."""


@hookspec
def dgemma_stop_rules() -> Iterable[StopRuleRecord]:  # type: ignore[empty-body]
    """Stop rules to offer. Asked once, when plugins are loaded."""


@hookspec
def dgemma_chat_protocols() -> Iterable[ChatProtocolRecord]:  # type: ignore[empty-body]
    """Chat formats to offer. Asked once, when plugins are loaded."""


@hookspec
def dgemma_providers() -> Iterable[ProviderRecord]:  # type: ignore[empty-body]
    """Framework adapters to offer. Asked once, when plugins are loaded."""


@hookspec
def dgemma_on_step(step: Any) -> None:
    """Look at a denoising step, a `diffusion.denoise.DenoiseStep`; what you return is ignored.

    Called where the engine runs, up to `max_denoising_steps` times per canvas. Tensors in `step`
    live on the device: reading one (`.tolist()`) makes a GPU wait. An observer that raises is
    named in a warning and not called again.
    """


@hookspec
def dgemma_on_canvas(canvas: Any) -> None:
    """Look at a canvas that has just become final, an `events.CanvasCommitted`."""


@hookspec
def dgemma_request_finished(info: Any) -> None:
    """Look at a request that is over, a `runtime.engine.RequestRecord`; for metrics.

    Told also of requests that failed or whose reader left; not of those refused at the door.
    """


RECORD_HOOKS: dict[str, type[Record]] = {
    "dgemma_engines": EngineRecord,
    "dgemma_kernels": KernelsRecord,
    "dgemma_quantizations": QuantizationRecord,
    "dgemma_samplers": SamplerRecord,
    "dgemma_stop_rules": StopRuleRecord,
    "dgemma_chat_protocols": ChatProtocolRecord,
    "dgemma_providers": ProviderRecord,
}
OBSERVER_HOOKS = ("dgemma_on_step", "dgemma_on_canvas", "dgemma_request_finished")
