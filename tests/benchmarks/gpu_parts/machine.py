"""What runs here, and the two ceilings every figure is held against."""

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from .bench import Bench
from .roofline import Ceilings
from .timing import Timing

_MATRIX = 8192
_COPIED = 1 << 31  # bytes


def measure_machine(bench: Bench) -> None:
    """The ceilings, and how far two measurements of one thing are apart."""
    ceilings = bench.ceilings
    again = _bf16_product(bench)
    product = 2 * _side(bench) ** 3
    noise = abs(again.median - 1000 * product / ceilings.bf16) / again.median
    bench.journal.add("noise", what="bf16 product, measured twice", apart=round(noise, 4))


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Versions and device."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for name in ("triton", "transformers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if device.type != "cuda":
        return found | {"device": platform.processor() or platform.machine(), "gb": None}
    seen = torch.cuda.get_device_properties(device)
    return found | {
        "device": seen.name,
        "capability": f"{seen.major}.{seen.minor}",
        "multiprocessors": seen.multi_processor_count,
        "gb": round(seen.total_memory / 1e9, 1),
        "l2_mb": round(seen.L2_cache_size / 1e6, 1),
    }


def measured_ceilings(bench: Bench) -> Ceilings:
    """Copied bytes, and products of square matrices of random numbers."""
    size = _COPIED if bench.cuda else 1 << 20
    source = torch.randint(256, (size,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    copy = bench.stopwatch.measure(lambda: target.copy_(source), 20, graph=False, cold=False)
    product = 2 * _side(bench) ** 3
    bf16 = 1000 * product / _bf16_product(bench).median
    fp8 = _fp8_product(bench)
    if bench.cuda:
        cache = float(torch.cuda.get_device_properties(bench.device).L2_cache_size)
    else:
        cache = 50e6
    found = Ceilings(
        bandwidth=2000 * size / copy.median,
        bf16=bf16,
        # Where there are no such units, or torch has no product for them, as good as bfloat16.
        fp8=max(bf16, 1000 * product / fp8.median) if fp8 else bf16,
        cache=cache,
    )
    bench.journal.add(
        "ceilings",
        tb_per_s=round(found.bandwidth / 1e12, 3),
        bf16_tflops=round(found.bf16 / 1e12, 1),
        fp8_tflops=round(found.fp8 / 1e12, 1),
        fp8_measured=fp8 is not None,
    )
    return found


def _side(bench: Bench) -> int:
    return _MATRIX if bench.cuda else 128


def _bf16_product(bench: Bench) -> Timing:
    draw, side = bench.draw(), _side(bench)
    a, b = draw.normal(side, side), draw.normal(side, side)
    return _timed(bench, lambda: a @ b)


def _fp8_product(bench: Bench) -> Timing | None:
    if bench.capability < 89:
        return None
    draw, side = bench.draw(), _side(bench)
    a, b = (draw.normal(side, side).to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device=bench.device)

    def product() -> torch.Tensor:
        return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    try:
        return _timed(bench, product)
    except RuntimeError:
        return None


def _timed(bench: Bench, run: Callable[[], object]) -> Timing:
    return bench.stopwatch.measure(run, 10, graph=False, cold=False)
