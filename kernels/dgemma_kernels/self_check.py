"""Is each kernel right on this very device? Asked once, before any is used.

A compiler that miscompiles, a driver that differs from the one a kernel was written on: the
answer would be fluent nonsense. So every operation runs on a small random input beside its plain
torch reference, and one that disagrees gives its place in the table to the reference.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dgemma_kernels.attention_rows import AttentionRow, AttentionRows
from dgemma_kernels.backend import Kernels, reference_kernels
from dgemma_kernels.class_statistics import class_order
from dgemma_kernels.quantized import Fp4Matrix, Fp8Matrix, Int4Matrix, Matrix
from dgemma_kernels.vocab import Draws

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
_FP8_ACTIVATIONS = 8e-2  # kernels may round activations to FP8 where weights are

Run = Callable[[Kernels], tuple[Tensor, ...]]


class Case(NamedTuple):
    """One operation on one input; the results of any two right tables are close."""

    operation: str
    what: str
    tolerance: float
    run: Run


def checked(
    kernels: Kernels, device: torch.device, dtype: torch.dtype
) -> tuple[Kernels, list[str]]:
    """`kernels` with every operation that fails on `device` replaced by its reference.

    Returns the table and a sentence for each replaced operation. `dtype` is the model's.
    """
    reference, problems = reference_kernels(), {}
    for case in _cases(device, dtype):
        if case.operation not in problems and (why := _fault(case, kernels, reference)):
            problems[case.operation] = f"{kernels.name} kernel {case.operation!r} {why}"
    plain = {name: getattr(reference, name) for name in problems}
    return replace(kernels, **plain), list(problems.values())


def _fault(case: Case, kernels: Kernels, reference: Kernels) -> str:
    try:
        found = case.run(kernels)
    except Exception as error:  # noqa: BLE001 - whatever it is, the reference takes over
        return f"failed on {case.what}: {type(error).__name__}: {str(error)[:200]}"
    for part, (mine, wanted) in enumerate(zip(found, case.run(reference), strict=True)):
        exact = wanted.double()
        off = float((mine.double() - exact).norm() / exact.norm().clamp_min(1e-30))
        if not off <= case.tolerance:  # NaN too
            return (
                f"is wrong on {case.what}: result {part} is off by {off:.2g} of its size, "
                f"{case.tolerance:.2g} allowed"
            )
    return ""


def _cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    near = _TOLERANCE[dtype]
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)

    width, eps = 96, 1e-6
    x, y, z = (randn(5, width) for _ in range(3))
    w = [randn(width) for _ in range(4)]
    scalar = randn(1)
    yield Case("rms_norm", "rows", near, lambda k: (k.rms_norm(x, w[0], eps),))
    yield Case("rms_norm", "rows without a weight", near, lambda k: (k.rms_norm(x, None, eps),))
    yield Case(
        "post_attention", "rows", near, lambda k: k.post_attention(x, y, w[0], w[1], w[2], eps)
    )
    yield Case(
        "layer_tail", "rows", near, lambda k: k.layer_tail(x, y, z, *w[:3], scalar, w[3], eps)
    )
    yield Case("geglu", "rows", near, lambda k: (k.geglu(x),))
    yield from _head_cases(randn, near)
    yield from _attention_cases(randn, near)
    yield from _expert_cases(randn, near)
    yield from _vocabulary_cases(randn, near, generator)


def _head_cases(randn: Callable[..., Tensor], near: float) -> Iterator[Case]:
    q, k, v = randn(5, 4, 64), randn(5, 2, 64), randn(5, 2, 64)
    wq, wk, angle = randn(64), randn(64), randn(5, 32).float()
    cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
    yield Case("heads", "values", near, lambda t: t.heads(q, k, v, wq, wk, cos, sin, 1e-6))
    yield Case("heads", "shared keys", near, lambda t: t.heads(q, k, None, wq, wk, cos, sin, 1e-6))


def _attention_cases(randn: Callable[..., Tensor], near: float) -> Iterator[Case]:
    for width in (64, 256, 512):
        q, k, v = randn(40, 4, width, scale=width**-0.25), randn(40, 2, width), randn(40, 2, width)
        keys, values = randn(2, 150, width, scale=width**-0.25), randn(2, 150, width)
        rows = AttentionRows(
            [
                AttentionRow(0, 17, keys[:, :0], values[:, :0]),
                AttentionRow(17, 40, keys[:, 8:145], values[:, 8:145]),
            ]
        )

        def attend(t: Kernels, causal: bool, window: int | None) -> tuple[Tensor, ...]:
            return (t.attention(q, k, v, rows, causal, window),)  # noqa: B023 - run at once

        what = f"heads of {width}"
        yield Case("attention", f"{what}, canvas", near, lambda t: attend(t, False, None))
        yield Case("attention", f"{what}, causal", near, lambda t: attend(t, True, None))
        yield Case("attention", f"{what}, sliding", near, lambda t: attend(t, True, 30))


def _expert_cases(randn: Callable[..., Tensor], near: float) -> Iterator[Case]:
    tokens, experts, hidden, width = 40, 6, 128, 64
    x, proj, scale, each = (
        randn(tokens, hidden),
        randn(experts, hidden),
        randn(hidden),
        randn(experts),
    )

    def route(t: Kernels) -> tuple[Tensor, ...]:
        found = t.route(x, scale, proj, each, 2, 1e-6)
        dense = torch.zeros_like(found.probabilities).scatter(
            1, found.experts.long(), found.weights
        )
        return found.probabilities, dense

    yield Case("route", "rows", near, route)
    weights, ids, _ = reference_kernels().route(x, scale, proj, each, 2, 1e-6)
    gate_up, down = randn(experts, 2 * width, hidden), randn(experts, hidden, width)
    kinds: dict[str, Callable[[Tensor], Matrix]] = {
        "dense": lambda m: m,
        "fp8": Fp8Matrix.quantize,
        "int4": Int4Matrix.quantize,
        "fp4": Fp4Matrix.quantize,
    }
    for name, quantize in kinds.items():
        allowed = max(near, _FP8_ACTIVATIONS) if name == "fp8" else near
        into, out, single = quantize(gate_up), quantize(down), quantize(down[0])
        yield Case(
            "experts",
            f"{name} weights",
            allowed,
            lambda t, a=into, b=out: (t.experts(x, weights, ids, a, b),),  # type: ignore[misc]
        )
        yield Case(
            "linear",
            f"{name} weights",
            allowed,
            lambda t, m=single: (t.linear(x[:, :width], m),),  # type: ignore[misc]
        )


def _vocabulary_cases(
    randn: Callable[..., Tensor], near: float, generator: torch.Generator
) -> Iterator[Case]:
    rows, vocabulary, hidden = 9, 1500, 64
    x, table = randn(rows, hidden), randn(vocabulary, hidden)
    temperature = torch.linspace(0.4, 0.9, rows).to(x.device)
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64).to(x.device)
    draws = Draws(temperature, torch.ones_like(temperature), uniform)

    def look(t: Kernels) -> tuple[Tensor, ...]:
        found = t.vocabulary(x, table, 30.0, draws, guess=True)
        assert found.guess is not None
        return found.entropy, found.log_total, found.guess, found.finite

    yield Case("vocabulary", "rows", near, look)

    # The first class takes two tiles, the last is empty.
    order = class_order((torch.arange(vocabulary, device=x.device) % 5 == 0).int(), 3)

    def classes(t: Kernels) -> tuple[Tensor, ...]:
        found = t.class_statistics(x, table, 30.0, order, draws)
        sums = found.log_total[:, :-1], found.entropy, found.log_proposal[:, :-1]
        return (*sums, found.logit[:, :-1], found.finite)

    def best(t: Kernels) -> tuple[Tensor, ...]:
        return (t.class_maxima(x, table, 30.0, order).logit[:, :-1],)

    yield Case("class_statistics", "rows", near, classes)
    yield Case("class_maxima", "rows", near, best)
