"""What `dgemma doctor` looks at; each check looks at one thing and never raises."""

import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from dgemma_backend import __version__
from dgemma_backend.errors import DgemmaError
from dgemma_backend.plugins import Plugins

Status = Literal["ok", "absent", "problem"]

DISTRIBUTION = "dgemma-backend"
EXTRAS = ("langchain", "llama-index", "triton", "hub")
PUBLISHED, PUBLISHED_BYTES = "google/diffusiongemma-26B-A4B-it", 51_647_562_456  # its index, bf16
GIGABYTE = 1e9


@dataclass(frozen=True)
class Finding:
    """One thing looked at: "absent" is optional and not there, "problem" needs mending."""

    name: str
    status: Status
    detail: str
    mend: str = ""


def examine() -> list[Finding]:
    """All findings. A check that fails itself is a finding too."""
    found: list[Finding] = []
    for check in (_software, devices, _extras, _plugins, _tiny, _published):
        found += _guarded(check)
    return found


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - a doctor who faints helps nobody
        name = check.__name__.strip("_")
        yield Finding(name, "problem", f"{type(error).__name__}: {error}")


def _software() -> Iterator[Finding]:
    yield Finding(DISTRIBUTION, "ok", __version__)
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for name in ("torch", "safetensors", "tokenizers"):
        yield Finding(name, "ok", version(name))


def devices() -> Iterator[Finding]:
    """Processor and GPUs, and the memory of each."""
    import torch

    cores, memory = os.cpu_count(), _memory()
    size = f", {memory / GIGABYTE:.0f} GB of memory" if memory else ""
    yield Finding("cpu", "ok", f"{cores} cores, {torch.get_num_threads()} torch threads{size}")
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "none seen"
        yield Finding("cuda", "absent", why)
        return
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield Finding(
            f"cuda:{number}",
            "ok",
            f"{device.name}, {device.total_memory / GIGABYTE:.0f} GB, "
            f"capability {device.major}.{device.minor}, CUDA {torch.version.cuda}",
        )


def _memory() -> int:
    """Bytes of memory of this machine, 0 where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _extras() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        yield Finding("extras", "absent", "run from the source, without its installed metadata")
        return
    for extra in EXTRAS:
        needs = [
            each
            for each in wanted
            if each.marker and each.marker.evaluate({"extra": extra})
            and not each.marker.evaluate({"extra": ""}) and each.name != DISTRIBUTION
        ]  # fmt: skip
        yield _extra(extra, [(each.name, str(each.specifier)) for each in needs])


def _extra(extra: str, needs: list[tuple[str, str]]) -> Finding:
    from packaging.specifiers import SpecifierSet

    install = f"pip install '{DISTRIBUTION}[{extra}]'"
    seen = []
    for name, wanted in needs:
        try:
            found = version(name)
        except PackageNotFoundError:
            return Finding(f"[{extra}]", "absent", f"{name} is not installed", install)
        if not SpecifierSet(wanted).contains(found, prereleases=True):
            detail = f"{name} {found} is installed, {wanted} is needed"
            return Finding(f"[{extra}]", "problem", detail, install)
        seen.append(f"{name} {found}")
    return Finding(f"[{extra}]", "ok", ", ".join(seen) or f"nothing to install on {sys.platform}")


def _plugins() -> Iterator[Finding]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the findings tell the same
        listing = Plugins.load().listing()
    for plugin in listing:
        name = f"plugin {plugin.name}"
        if plugin.problems:
            yield Finding(name, "problem", "; ".join(plugin.problems))
        else:
            yield Finding(name, "ok", f"{plugin.source}, {len(plugin.offers)} parts")


def _tiny() -> Iterator[Finding]:
    """Runs the built-in model, which shows that everything from checkpoint to text works."""
    from dgemma_backend.runtime.opening import open_engine

    begun = time.perf_counter()
    try:
        engine = open_engine("tiny")
        opened = time.perf_counter()
        reply = engine.generate("Who are you?", settings={"seed": 0, "max_tokens": 32})
    except DgemmaError as error:
        yield Finding("model tiny", "problem", str(error), "install dgemma-backend anew")
        return
    yield Finding(
        "model tiny",
        "ok",
        f"{engine.info.parameters / 1e6:.1f} M parameters on {engine.info.device}; opened in "
        f"{opened - begun:.1f} s, answered in {time.perf_counter() - opened:.1f} s: {reply.text!r}",
    )


def places() -> dict[str, int]:
    """Bytes of memory where a model might go, the fastest place first."""
    import torch

    found = {}
    if torch.cuda.is_available():
        found = {
            f"cuda:{n}": torch.cuda.get_device_properties(n).total_memory
            for n in range(torch.cuda.device_count())
        }
    return found | {"memory": _memory()}


def _published() -> Iterator[Finding]:
    """Whether the weights of the published checkpoint fit anywhere; caches come on top."""
    there = places()
    need = f"{PUBLISHED_BYTES / GIGABYTE:.0f} GB of bfloat16 weights"
    room = next((place for place, size in there.items() if size > PUBLISHED_BYTES), None)
    if room is None:
        sizes = ", ".join(f"{place} {size / GIGABYTE:.0f} GB" for place, size in there.items())
        more = f"dgemma doctor --model {PUBLISHED} --quantization int4"
        yield Finding(PUBLISHED, "absent", f"{need} fit nowhere here: {sizes}", more)
    else:
        yield Finding(PUBLISHED, "ok", f"{need} fit {room}", f"dgemma pull {PUBLISHED}")
