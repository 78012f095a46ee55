"""The class kernels give what the reference gives, and the definitions."""

import pytest
import torch
from torch import Tensor

from dgemma_kernels import ClassStatistics, Draws, class_order
from dgemma_kernels.class_statistics import (
    TILE,
    class_maxima_reference,
    class_statistics_reference,
)
from dgemma_kernels.class_statistics_triton import (
    class_maxima_of,
    class_maxima_triton,
    class_statistics_of,
    class_statistics_triton,
)
from dgemma_kernels.vocab import softcap_reference

CAP = 30.0
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def raw_logits(
    rows: int, vocabulary: int, device: str, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Before the softcap."""
    generator = torch.Generator().manual_seed(vocabulary)
    return (torch.randn(rows, vocabulary, generator=generator) * 6).to(device, dtype)


def random_classes(vocabulary: int, count: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    share = torch.rand(vocabulary, generator=generator) ** 6  # the first classes are the largest
    return (share * count).int().to(device)


def draws_of(rows: int, device: str, proposal: float = 1.0, uniform: float = 0.0) -> Draws:
    spread = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    chosen = torch.full_like(spread, uniform) if uniform else spread
    temperature = torch.linspace(0.3, 1.4, rows)
    made = temperature, torch.full((rows,), proposal), chosen
    return Draws(*(each.to(device) for each in made))


def softcapped(raw: Tensor) -> Tensor:
    return softcap_reference(raw.to(torch.float32, copy=True), CAP)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("vocabulary", "count"), [(1, 1), (7, 3), (TILE - 1, 1), (TILE, 1), (TILE + 1, 1), (4000, 20)]
)
def test_the_best_token_of_each_class_is_found(
    vocabulary: int, count: int, dtype: torch.dtype, kernel_device: str
) -> None:
    raw = raw_logits(5, vocabulary, kernel_device, dtype).round().div(2)  # ties are common
    order = class_order(random_classes(vocabulary, count, kernel_device), count)
    found = class_maxima_of(raw, CAP, order)
    expected = class_maxima_reference(softcapped(raw), order)
    assert torch.equal(found.token, expected.token)
    assert torch.allclose(found.logit, expected.logit, atol=1e-5)


def check(found: ClassStatistics, expected: ClassStatistics, tolerance: float) -> None:
    for name in ("logit", "log_total", "entropy", "log_proposal"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=tolerance), name
    for name in ("token", "finite"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("proposal", [1.0, 0.5, 1.7, 0.0])
@pytest.mark.parametrize(("vocabulary", "count"), [(1, 1), (7, 3), (TILE + 1, 1), (4000, 20)])
def test_statistics_are_those_of_the_reference(
    vocabulary: int, count: int, proposal: float, kernel_device: str
) -> None:
    raw = raw_logits(4, vocabulary, kernel_device)
    order = class_order(random_classes(vocabulary, count, kernel_device), count)
    draws = draws_of(4, kernel_device, proposal)
    found = class_statistics_of(raw, CAP, order, draws)
    expected = class_statistics_reference(softcapped(raw), order, draws)
    check(found, expected, 3e-5)
    # Where a number falls next to an edge, rounding may choose its neighbour.
    assert (found.sample != expected.sample).float().mean() <= 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(dtype: torch.dtype, kernel_device: str) -> None:
    raw = raw_logits(4, 3000, kernel_device, dtype)
    order = class_order(random_classes(3000, 9, kernel_device), 9)
    draws = draws_of(4, kernel_device)
    found = class_statistics_of(raw, CAP, order, draws)
    check(found, class_statistics_reference(softcapped(raw), order, draws), 3e-5)


def test_tokens_are_drawn_in_proportion_in_every_tile(kernel_device: str) -> None:
    rows, vocabulary = 24, 3 * TILE + 100
    raw = raw_logits(1, vocabulary, kernel_device).mul_(0.05).expand(rows, -1).contiguous()
    order = class_order(torch.zeros(vocabulary, dtype=torch.int32, device=kernel_device), 1)
    draws = draws_of(rows, kernel_device)._replace(temperature=torch.ones(rows).to(kernel_device))
    found = class_statistics_of(raw, CAP, order, draws).sample[:, 0]
    edges = softcapped(raw[0]).double().softmax(-1).cumsum(-1)
    below = torch.where(found > 0, edges[(found - 1).clamp_min(0)], 0.0)
    assert ((below <= draws.uniform + 2e-6) & (draws.uniform <= edges[found] + 2e-6)).all()


def test_a_class_may_be_empty_or_hold_one_token(kernel_device: str) -> None:
    classes = torch.full((3000,), 4, device=kernel_device)
    classes[17], classes[2999] = 1, 6
    raw, order = raw_logits(5, 3000, kernel_device), class_order(classes, 9)
    draws = draws_of(5, kernel_device)
    found = class_statistics_of(raw, CAP, order, draws)
    check(found, class_statistics_reference(softcapped(raw), order, draws), 2e-5)
    empty = [0, 2, 3, 5, 7, 8]
    assert (found.sample[:, empty] == -1).all()
    assert (found.token[:, empty] == -1).all()
    assert (found.log_total[:, empty] == -torch.inf).all()
    assert (found.sample[:, 1] == 17).all()


def test_of_equal_logits_the_lowest_id_stands_for_its_class(kernel_device: str) -> None:
    raw = torch.zeros(2, 3 * TILE, device=kernel_device)
    order = class_order(torch.arange(3 * TILE, device=kernel_device).remainder(2), 2)
    assert class_maxima_of(raw, CAP, order).token.tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("uniform", [2.0**-33, 1 - 2.0**-33])
def test_the_ends_of_the_unit_interval_draw_tokens_with_weight(
    uniform: float, kernel_device: str
) -> None:
    raw = raw_logits(4, 3000, kernel_device).abs_()
    raw[:, ::3] = -2000  # next to no weight: e^-200 of the best
    order = class_order(random_classes(3000, 9, kernel_device), 9)
    draws = draws_of(4, kernel_device, uniform=uniform)._replace(
        temperature=torch.full((4,), 0.1, device=kernel_device)
    )
    found = class_statistics_of(raw, CAP, order, draws)
    assert (raw.gather(1, found.sample) > -2000).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_marks_its_row_and_its_class_alone(
    poison: float, kernel_device: str
) -> None:
    raw = raw_logits(5, 3000, kernel_device)
    classes = random_classes(3000, 6, kernel_device)
    raw[3, 2900] = poison
    order, draws = class_order(classes, 6), draws_of(5, kernel_device)
    found = class_statistics_of(raw, CAP, order, draws)
    assert found.finite.tolist() == [True, True, True, False, True]
    marked = found.logit.isnan().nonzero().tolist()
    assert marked == [[3, int(classes[2900])]]
    assert ((found.sample >= 0) & (found.sample < 3000)).all()
    assert torch.equal(class_maxima_of(raw, CAP, order).logit.isnan(), found.logit.isnan())


def test_rows_may_lie_apart_and_the_same_logits_give_the_same_bits(kernel_device: str) -> None:
    raw = raw_logits(6, 3000, kernel_device)
    order = class_order(random_classes(2400, 7, kernel_device), 7)
    draws = draws_of(3, kernel_device)
    apart = class_statistics_of(raw[::2, 100:2500], CAP, order, draws)
    together = class_statistics_of(raw[::2, 100:2500].contiguous(), CAP, order, draws)
    for one, two in zip(apart, together, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_operation_rounds_logits_to_the_tables_dtype(
    dtype: torch.dtype, kernel_device: str
) -> None:
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(3, 32, generator=generator).to(kernel_device)
    table = torch.randn(2000, 32, generator=generator).to(kernel_device, dtype)
    order, draws = (
        class_order(random_classes(2000, 9, kernel_device), 9),
        draws_of(3, kernel_device),
    )
    raw = hidden.to(dtype) @ table.t()
    found = class_statistics_triton(hidden, table, CAP, order, draws)
    for one, two in zip(found, class_statistics_of(raw, CAP, order, draws), strict=True):
        assert torch.equal(one, two)
    maxima = class_maxima_triton(hidden, table, CAP, order)
    assert torch.equal(maxima.logit, found.logit)
    assert torch.equal(maxima.token, found.token)
