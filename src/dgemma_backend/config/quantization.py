"""How a checkpoint's matrices are stored: `quantization_config` as a dataclass.

`dgemma quantize` names every matrix and how it is encoded. Published checkpoints name one scheme
for all linear layers and a list of layers it leaves out; the schemes of three are read:

    compressed-tensors, float-quantized    8-bit floats, one scale a row
    compressed-tensors, pack-quantized     4-bit integers, one scale for 32 or 64 columns
    modelopt, NVFP4                        4-bit floats, one scale for 16 columns and one over all

Activations stay as they are: a scheme that also quantises them is run with its weights alone,
which is the more exact of the two. So is one that asks for an 8-bit cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, NamedTuple

from dgemma_backend.config.reader import Facts, shown
from dgemma_backend.errors import ConfigError

Kind = Literal["fp8", "int4", "nvfp4"]
KINDS: tuple[Kind, ...] = ("fp8", "int4", "nvfp4")

OURS, COMPRESSED_TENSORS, MODELOPT = "dgemma", "compressed-tensors", "modelopt"
#: Of the layout in which `dgemma quantize` stores a matrix's parts.
VERSION = 1
INT4_GROUPS = (32, 64)
MAX_LEFT_OUT, MAX_PATTERNS = 20_000, 100
_FORMAT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,300}")
_GLOB = re.compile(r"[A-Za-z0-9_.*-]{1,300}")
_EXPRESSION = re.compile(r"re:\^?((?:[A-Za-z0-9_-]|\\\.|\.\*|\.)*)(\$?)")
# What a quantiser notes of its own work; it says nothing about what is stored.
_OBSERVATIONS = {"observer", "observer_kwargs", "scale_dtype", "zp_dtype"}


class Encoding(NamedTuple):
    """How one matrix is stored: its kind, and the columns a scale covers (0: a whole row)."""

    kind: Kind
    group: int


@dataclass(frozen=True)
class OwnQuantization:
    """What `dgemma quantize` wrote.

    Attributes:
        format: The format's name, as it was asked for.
        matrices: The stored name of each quantised matrix, and its encoding.
    """

    format: str
    matrices: Mapping[str, Encoding] = field(hash=False)

    def to_dict(self) -> dict[str, Any]:
        """The `quantization_config` that says this."""
        groups = []
        for encoding in sorted(set(self.matrices.values())):
            named = sorted(name for name, each in self.matrices.items() if each == encoding)
            groups.append({**encoding._asdict(), "matrices": named})
        return {"quant_method": OURS, "version": VERSION, "format": self.format, "groups": groups}


@dataclass(frozen=True)
class PublishedQuantization:
    """One scheme for every linear layer that is not left out.

    Attributes:
        left_out: Names of layers, and patterns in which `*` stands for any letters, `?` for one.
        input_scales: The scales of quantised inputs are stored too.
        declared: The `quantization_config` that says all this.
    """

    method: str
    encoding: Encoding
    left_out: tuple[str, ...] = field(repr=False)
    input_scales: bool
    declared: Mapping[str, Any] = field(repr=False, hash=False, compare=False)

    @property
    def format(self) -> str:
        """A name for the scheme."""
        return self.encoding.kind

    def encoding_of(self, layer: str) -> Encoding | None:
        """How the linear layer of that name is stored, None for one in full precision."""
        if layer in self._names or any(fnmatchcase(layer, each) for each in self._patterns):
            return None
        return self.encoding

    def to_dict(self) -> dict[str, Any]:
        """The `quantization_config` that says this."""
        return dict(self.declared)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(name for name in self.left_out if not _is_pattern(name))

    @cached_property
    def _patterns(self) -> tuple[str, ...]:
        return tuple(name for name in self.left_out if _is_pattern(name))


Quantization = OwnQuantization | PublishedQuantization


def read_quantization(facts: Facts) -> Quantization:
    """Read a `quantization_config`. Raises ConfigError for a scheme that is not read here."""
    readers: dict[object, Callable[[Facts], Quantization]] = {
        OURS: _read_own,
        COMPRESSED_TENSORS: _read_compressed_tensors,
        MODELOPT: _read_modelopt,
    }
    method = facts.take("quant_method") if facts.has("quant_method") else None
    if not isinstance(method, str) or method not in readers:
        raise ConfigError(
            f"{facts.where}: {facts.prefix}quant_method is {shown(method)}, must be "
            f"{_one_of(*readers)}. Other quantised variants are not read; take one of these, or "
            f"the bfloat16 checkpoint google/diffusiongemma-26B-A4B-it."
        )
    return readers[method](facts)


def _read_own(facts: Facts) -> OwnQuantization:
    facts.pin("version", VERSION)
    name, groups = facts.take("format"), facts.take("groups")
    if not isinstance(name, str) or not _FORMAT.fullmatch(name):
        facts.wrong("format", "the name of a format")
    if not isinstance(groups, list) or not groups:
        facts.wrong("groups", "a list of encodings with the matrices of each")
    facts.finish()
    matrices: dict[str, Encoding] = {}
    for index, group in enumerate(groups):
        each = Facts(group, facts.where, f"{facts.prefix}groups.{index}.")
        encoding = _read_encoding(each)
        names = each.take("matrices")
        each.finish()
        if not isinstance(names, list) or not names:
            each.wrong("matrices", "a list of names")
        for matrix in names:
            if not isinstance(matrix, str) or not _NAME.fullmatch(matrix) or matrix in matrices:
                raise ConfigError(
                    f"{facts.where}: {each.prefix}matrices names {shown(matrix)}, which is no "
                    f"matrix or was named before"
                )
            matrices[matrix] = encoding
    return OwnQuantization(name, matrices)


def _read_encoding(facts: Facts) -> Encoding:
    kind = facts.take("kind")
    groups = {"fp8": (0,), "int4": INT4_GROUPS, "nvfp4": (16,)}
    if not isinstance(kind, str) or kind not in groups:
        facts.wrong("kind", _one_of(*groups))
    facts.pin("group", *groups[kind])
    return Encoding(kind, facts.integer("group"))  # type: ignore[arg-type]


def _read_compressed_tensors(facts: Facts) -> PublishedQuantization:
    facts.pin("format", "float-quantized", "pack-quantized")
    form = facts.take("format")
    facts.pin("quantization_status", "compressed")
    for key in ("kv_cache_scheme", "sparsity_config", "transform_config"):
        facts.pin(key, None, {}, required=False)
    group = _only_group(facts)
    group.pin("format", form, None, required=False)
    group.pin("output_activations", None, required=False)
    inputs = group.take("input_activations") if group.has("input_activations") else None
    weights = group.section("weights")
    if form == "float-quantized":
        encoding = Encoding("fp8", 0)
        _pin_numbers(weights, num_bits=8, type="float", strategy="channel", dynamic=False)
        weights.pin("group_size", None, required=False)
        weights.pin("actorder", None, required=False)
        if inputs is not None:
            inputs = group.section("input_activations")
            _pin_numbers(inputs, num_bits=8, type="float", strategy="token", dynamic=True)
            for key in ("group_size", "actorder"):
                inputs.pin(key, None, required=False)
            inputs.finish(_OBSERVATIONS)
    else:
        group.pin("input_activations", None, required=False)
        _pin_numbers(weights, num_bits=4, type="int", strategy="group", dynamic=False)
        weights.pin("group_size", *INT4_GROUPS)
        # These orders were the quantiser's own; "group" would have moved the columns.
        weights.pin("actorder", None, "weight", "static", required=False)
        encoding = Encoding("int4", weights.take("group_size"))
    weights.finish(_OBSERVATIONS)
    group.finish()
    left_out = _read_left_out(facts, "ignore", expressions=True)
    facts.finish({"global_compression_ratio", "version"})
    return PublishedQuantization(
        COMPRESSED_TENSORS, encoding, left_out, input_scales=False, declared=facts.whole
    )


def _pin_numbers(facts: Facts, **wanted: object) -> None:
    """What a compressed-tensors file says of the numbers it stores."""
    for key, value in wanted.items():
        facts.pin(key, value)
    facts.pin("symmetric", True)
    facts.pin("block_structure", None, required=False)


def _read_modelopt(facts: Facts) -> PublishedQuantization:
    facts.pin("quant_algo", "NVFP4")
    facts.pin(  # it claims an 8-bit cache, and stores no scales for one: ours is not quantised
        "kv_cache_scheme", None, {"dynamic": False, "num_bits": 8, "type": "float"}, required=False
    )
    group = _only_group(facts)
    numbers = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
    group.pin("weights", numbers)
    group.pin("input_activations", numbers, None, required=False)
    inputs = group.has("input_activations") and group.take("input_activations") is not None
    group.finish()
    left_out = _read_left_out(facts, "ignore", expressions=False)
    facts.finish({"producer"})
    return PublishedQuantization(
        MODELOPT, Encoding("nvfp4", 16), left_out, input_scales=inputs, declared=facts.whole
    )


def read_modelopt_file(facts: Facts) -> PublishedQuantization:
    """Read a hf_quant_config.json, in which modelopt says the same in other words."""
    scheme = facts.section("quantization")
    facts.finish({"producer"})
    scheme.pin("quant_algo", "NVFP4")
    scheme.pin("group_size", 16)
    scheme.pin("kv_cache_quant_algo", None, "FP8", required=False)
    left_out = _read_left_out(scheme, "exclude_modules", expressions=False)
    scheme.finish()
    numbers = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
    group = {"input_activations": numbers, "weights": numbers, "targets": ["Linear"]}
    declared = {
        "quant_method": MODELOPT,
        "quant_algo": "NVFP4",
        "config_groups": {"group_0": group},
        "ignore": list(left_out),
    }
    return PublishedQuantization(
        MODELOPT, Encoding("nvfp4", 16), left_out, input_scales=True, declared=declared
    )


def _only_group(facts: Facts) -> Facts:
    """The one scheme a published checkpoint has, for all linear layers."""
    groups = facts.section("config_groups")
    names = groups.names()
    if len(names) != 1:
        facts.wrong("config_groups", "one scheme for all linear layers")
    group = groups.section(names[0])
    groups.finish()
    group.pin("targets", ["Linear"])
    return group


def _read_left_out(facts: Facts, key: str, *, expressions: bool) -> tuple[str, ...]:
    """Names of layers and patterns; `re:` expressions become patterns, where they are usual."""
    named = facts.take(key)
    if not isinstance(named, list) or len(named) > MAX_LEFT_OUT:
        facts.wrong(key, f"a list of at most {MAX_LEFT_OUT} layers")
    found = [_pattern(name, expressions) for name in named]
    for name, pattern in zip(named, found, strict=True):
        if pattern is None:
            raise ConfigError(
                f"{facts.where}: {facts.prefix}{key} holds {shown(name)}, which is neither a "
                f"layer's name nor a pattern of names and `.*` or `*`. Write the names out."
            )
    patterns = [each for each in found if each is not None]
    if sum(map(_is_pattern, patterns)) > MAX_PATTERNS:
        facts.wrong(key, f"a list of names with at most {MAX_PATTERNS} patterns")
    return tuple(patterns)


def _pattern(name: object, expressions: bool) -> str | None:
    """A name as it is, an expression as `*` writes it, None for anything else.

    Expressions of a file are not run: a wicked one would take forever.
    """
    if not isinstance(name, str):
        return None
    if expressions:
        if match := _EXPRESSION.fullmatch(name):
            body = match[1].replace(r"\.", "\0").replace(".*", "*").replace(".", "?")
            # compressed-tensors matches from the start, and not to the end unless told so
            return body.replace("\0", ".") + ("" if match[2] else "*")
        return name if _NAME.fullmatch(name) else None
    return name if _GLOB.fullmatch(name) else None


def _is_pattern(name: str) -> bool:
    return "*" in name or "?" in name


def _one_of(*words: object) -> str:
    return " or ".join(map(repr, words))
