"""The pass over classes says what the definitions in float64 say of each class alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dgemma_kernels import Draws, class_order
from dgemma_kernels.class_statistics import (
    TILE,
    class_maxima,
    class_maxima_reference,
    class_statistics,
    class_statistics_reference,
)

CAP = 30.0


def random_logits(rows: int, vocabulary: int, seed: int = 0, spread: float = 6.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + vocabulary)
    return torch.randn(rows, vocabulary, generator=generator) * spread


def random_classes(vocabulary: int, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(vocabulary, generator=generator) ** 6  # the first classes are the largest
    return (share * count).int()


def draws_of(rows: int, proposal: float = 1.0, uniform: float | None = None) -> Draws:
    spread = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    chosen = spread if uniform is None else torch.full_like(spread, uniform)
    return Draws(torch.linspace(0.3, 1.4, rows), torch.full((rows,), proposal), chosen)


def test_the_best_token_of_each_class_is_found() -> None:
    logits = random_logits(5, 300, spread=2).round().div(2)  # ties are common
    classes = random_classes(300, 9)
    classes[classes == 4] = 5  # class 4 is empty
    found = class_maxima_reference(logits, class_order(classes, 9))
    for row in range(5):
        for name in range(9):
            members = [i for i in range(300) if classes[i] == name]
            best = max(members, key=lambda i: (logits[row, i].item(), -i), default=-1)
            assert found.token[row, name] == best
            assert found.logit[row, name] == (logits[row, best] if members else -torch.inf)


@pytest.mark.parametrize("proposal", [1.0, 0.5, 1.7, 0.0])
@pytest.mark.parametrize(("vocabulary", "count"), [(1, 1), (7, 3), (900, 12), (5000, 40)])
def test_statistics_are_as_the_formulas_say(vocabulary: int, count: int, proposal: float) -> None:
    logits, classes = random_logits(6, vocabulary), random_classes(vocabulary, count)
    draws = draws_of(6, proposal)
    found = class_statistics_reference(logits, class_order(classes, count), draws)
    assert found.finite.all()
    for name in range(count):
        ids = (classes == name).nonzero()[:, 0]
        if not len(ids):
            assert (found.log_total[:, name] == -torch.inf).all()
            assert (found.log_proposal[:, name] == -torch.inf).all()
            assert (found.entropy[:, name] == 0).all()
            assert (found.sample[:, name] == -1).all()
            continue
        own = logits[:, ids].double() / draws.temperature.double()[:, None]
        share = own.log_softmax(-1)
        assert torch.allclose(found.log_total[:, name].double(), own.logsumexp(-1), atol=1e-5)
        entropy = -(share.exp() * share).sum(-1)
        assert torch.allclose(found.entropy[:, name].double(), entropy, atol=1e-5)
        place = torch.searchsorted(ids, found.sample[:, name].contiguous())
        assert torch.equal(ids[place], found.sample[:, name])
        if proposal == 0:
            assert torch.equal(found.sample[:, name], found.token[:, name])
            continue
        factored = own / proposal
        total = factored.logsumexp(-1)
        assert torch.allclose(found.log_proposal[:, name].double(), total, rtol=1e-6, atol=1e-5)
        edges = torch.nn.functional.pad(factored.softmax(-1).cumsum(-1), (1, 0))
        below, upto = (edges.gather(1, place[:, None] + i)[:, 0] for i in (0, 1))
        assert ((below <= draws.uniform + 1e-6) & (draws.uniform <= upto + 1e-6)).all()
        assert (upto > below).all()


def test_a_class_far_below_the_others_keeps_all_its_digits() -> None:
    logits = torch.full((1, 3000), 29.0)
    logits[0, 5:8] = torch.tensor([-30.0, -30.0, -29.0])
    classes = torch.zeros(3000).int()
    classes[5:8] = 1
    draws = Draws(torch.tensor([0.05]), torch.ones(1), torch.tensor([0.5]).double())
    found = class_statistics_reference(logits, class_order(classes, 2), draws)
    own = logits[0, 5:8].double() / 0.05
    assert abs(found.log_total[0, 1] - own.logsumexp(0)) < 1e-4
    share = own.log_softmax(0)
    assert abs(found.entropy[0, 1] + (share.exp() * share).sum()) < 1e-9


@given(
    weights=st.lists(st.integers(0, 3), min_size=2, max_size=40).filter(lambda w: sum(w[::2]) > 0)
)
def test_every_token_of_a_class_is_drawn_in_proportion(weights: list[int]) -> None:
    # Every other token is of another class, heavier by far; a weight of 0 underflows.
    known = torch.tensor(weights)
    logits = torch.where(known > 0, known.double().log(), -500.0).float()
    logits[1::2] = 20.0
    own = known.clone()
    own[1::2] = 0
    total = int(own.sum())
    uniform = (torch.arange(total, dtype=torch.float64) + 0.5) / total
    draws = Draws(torch.ones(total), torch.ones(total), uniform)
    order = class_order(torch.arange(len(weights)) % 2, 2)
    found = class_statistics_reference(logits.expand(total, -1), order, draws)
    assert torch.bincount(found.sample[:, 0], minlength=len(weights)).tolist() == own.tolist()


@pytest.mark.parametrize("uniform", [2.0**-33, 1 - 2.0**-33])
def test_the_ends_of_the_unit_interval_draw_tokens_with_weight(uniform: float) -> None:
    logits = random_logits(4, 3000)
    logits[:, ::3] = -2000  # no weight at all
    order = class_order(random_classes(3000, 9), 9)
    found = class_statistics_reference(logits, order, draws_of(4, uniform=uniform))
    assert (logits.gather(1, found.sample) > -2000).all()


@pytest.mark.parametrize("rows", [1, 40])
def test_the_whole_operation_is_that_of_written_out_logits(rows: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, 24, generator=generator) * 3
    table = torch.randn(5000, 24, generator=generator)
    logits = CAP * (hidden @ table.t() / CAP).tanh()
    order, draws = class_order(random_classes(5000, 30), 30), draws_of(rows)
    expected = class_statistics_reference(logits, order, draws)
    found = class_statistics(hidden, table, CAP, order, draws)
    for one, two in zip(found, expected, strict=True):
        assert torch.allclose(one, two, atol=2e-4)
    maxima = class_maxima(hidden, table, CAP, order)
    assert torch.equal(maxima.logit, found.logit)
    assert torch.equal(maxima.token, found.token)


def test_rows_come_out_the_same_however_many_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, table = random_logits(7, 8), random_logits(700, 8, spread=1)
    order, draws = class_order(random_classes(700, 5), 5), draws_of(7, proposal=0.5)
    together = class_statistics(hidden, table, CAP, order, draws)
    for name in ("_MAXIMA_ELEMENTS", "_STATISTICS_ELEMENTS", "_PRODUCT_ELEMENTS"):
        monkeypatch.setattr(f"dgemma_kernels.class_statistics.{name}", 2 * 700)
    apart = class_statistics(hidden, table, CAP, order, draws)
    for one, two in zip(apart, together, strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    maxima = class_maxima(hidden, table, CAP, order)
    assert torch.equal(maxima.token, together.token)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_marked_and_no_other(poison: float) -> None:
    hidden, table = random_logits(5, 8), random_logits(700, 8)
    hidden[3, 2] = poison
    order = class_order(random_classes(700, 5), 5)
    found = class_statistics(hidden, table, CAP, order, draws_of(5))
    assert found.finite.tolist() == [True, True, True, False, True]
    assert ((found.sample >= 0) & (found.sample < 700)).all()
    maxima = class_maxima(hidden, table, CAP, order)
    assert maxima.logit.isnan().any(dim=1).tolist() == [False, False, False, True, False]
    assert ((maxima.token >= 0) & (maxima.token < 700)).all()


def test_the_order_of_classes_holds_each_token_once_in_tiles_of_its_class() -> None:
    classes = torch.arange(5000).mul(7).remainder(11).int()
    classes[classes == 3] = 4
    order = class_order(classes, 12)
    assert torch.equal(order.token.sort().values, torch.arange(5000))
    assert torch.equal(classes[order.token].long(), order.of)
    assert order.classes == 12
    for name in range(12):
        own = (classes == name).nonzero()[:, 0]
        assert torch.equal(order.token[order.first[name] : order.first[name + 1]], own)
        tiles = order.tiles[order.first_tile[name] : order.first_tile[name + 1]]
        assert len(tiles) == max(1, -(-len(own) // TILE))
        assert torch.equal(tiles[tiles >= 0], own.int())
