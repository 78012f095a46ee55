"""One pass over the vocabulary gives what the plain formulas in float64 give."""

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dgemma_kernels.vocab import Draws, VocabularyPass
from dgemma_kernels.vocab_pass import vocabulary_pass

CAP = 30.0
EXTREMES = (2.0**-33, 2.0**-24, 0.5, 1 - 2.0**-24, 1 - 2.0**-33)


class Exact(NamedTuple):
    """All in float64."""

    argmax: Tensor
    entropy: Tensor
    log_total: Tensor
    cumulative: Tensor  # (N, V) of the proposals' distribution
    guess: Tensor


def exact_pass(hidden: Tensor, table: Tensor, cap: float, draws: Draws) -> Exact:
    """The formulas as they are written."""
    logits = cap * (hidden.double() @ table.double().T / cap).tanh()
    tempered = logits / draws.temperature.double()[:, None]
    log_share = tempered.log_softmax(-1)
    factor = torch.where(draws.proposal == 0, 1.0, draws.proposal)[:, None]
    return Exact(
        logits.argmax(-1),
        -(log_share.exp() * log_share).sum(-1),
        tempered.logsumexp(-1),
        (tempered / factor).softmax(-1).cumsum(-1),
        log_share.exp() @ table.double(),
    )


def inputs(
    rows: int, vocabulary: int, width: int = 16, seed: int = 0, spread: float = 6.0
) -> tuple[Tensor, Tensor]:
    """Hidden states and a table whose logits before the softcap deviate by `spread`."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator)
    return hidden, torch.randn(vocabulary, width, generator=generator) * spread * width**-0.5


def draws_of(rows: int, temperature: Any = 0.6, proposal: Any = 1.0, uniform: Any = None) -> Draws:
    if uniform is None:
        uniform = (torch.arange(rows) + 0.5) / rows
    wanted = (temperature, torch.float32), (proposal, torch.float32), (uniform, torch.float64)
    return Draws(*(torch.as_tensor(x, dtype=kind).expand(rows).clone() for x, kind in wanted))


def check(
    found: VocabularyPass, exact: Exact, draws: Draws, tolerance: float = 2e-5, share: float = 2e-6
) -> None:
    """Numbers within `tolerance`; samples where the cumulative sum passes, within `share`."""
    assert torch.equal(found.argmax, exact.argmax)
    assert found.finite.all()
    assert found.entropy.dtype == found.log_total.dtype == torch.float32
    assert (found.entropy.double() - exact.entropy).abs().max() <= tolerance
    gap = (found.log_total.double() - exact.log_total).abs()  # float32 has seven digits
    assert (gap <= tolerance + 2.0**-23 * exact.log_total.abs()).all()
    if found.guess is not None and found.guess.dtype == torch.float32:
        assert (found.guess.double() - exact.guess).abs().max() <= tolerance
    drawn = draws.proposal != 0
    assert torch.equal(found.sample[~drawn], exact.argmax[~drawn])
    edges = torch.nn.functional.pad(exact.cumulative, (1, 0))
    below, upto = (edges.gather(1, found.sample[:, None] + i)[:, 0][drawn] for i in (0, 1))
    uniform = draws.uniform[drawn]
    assert ((below <= uniform + share) & (uniform <= upto + share)).all()
    assert (upto > below).all()


@pytest.mark.parametrize("vocabulary", [1, 2, 127, 128, 129, 1280, 4095, 4096, 4097, 8192, 9001])
def test_all_is_as_the_formulas_say_below_at_and_above_a_block_and_a_chunk(vocabulary: int) -> None:
    hidden, table = inputs(9, vocabulary, seed=vocabulary)
    draws = draws_of(9, proposal=torch.tensor([1.0, 0.6, 1.7]).repeat(3))
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    check(found, exact_pass(hidden, table, CAP, draws), draws)


@pytest.mark.parametrize("rows", [1, 2, 255, 600])
def test_any_number_of_rows_may_be_asked_for(rows: int) -> None:
    hidden, table = inputs(rows, 2500, seed=rows)
    draws = draws_of(rows, proposal=torch.linspace(1.0, 0.5, rows))
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    check(found, exact_pass(hidden, table, CAP, draws), draws)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.2, 0.4, 0.8, 1.0, 1.5])
def test_every_temperature_is_exact(temperature: float) -> None:
    hidden, table = inputs(40, 6000, seed=3)
    draws = draws_of(40, temperature)
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    # A logit of 30 is known to a millionth at best, and the temperature divides that.
    unit = 4e-6 / min(temperature, 0.2)
    check(found, exact_pass(hidden, table, CAP, draws), draws, max(2e-5, unit), unit)


def test_each_row_has_its_own_temperature_factor_and_uniform() -> None:
    hidden, table = inputs(1, 5000, seed=1)
    hidden = hidden.expand(12, -1)
    draws = draws_of(
        12,
        torch.linspace(0.3, 1.4, 12),
        torch.tensor([0.0, 0.5, 1.0, 2.0]).repeat(3),
        torch.linspace(0.02, 0.98, 12),
    )
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    check(found, exact_pass(hidden, table, CAP, draws), draws)
    assert (found.entropy.diff() > 0).all()


def test_a_factor_changes_the_sample_and_nothing_else() -> None:
    hidden, table = inputs(8, 5000, seed=2)
    plain = vocabulary_pass(hidden, table, CAP, draws_of(8), guess=True)
    factors = torch.tensor([1.0, 0.0, 3.0, 1.0, 0.1, 1.0, 1.5, 0.7])
    changed = vocabulary_pass(hidden, table, CAP, draws_of(8, proposal=factors), guess=True)
    assert torch.equal(plain.sample[factors == 1], changed.sample[factors == 1])
    assert not torch.equal(plain.sample, changed.sample)
    for name in ("argmax", "entropy", "log_total", "finite", "guess"):
        assert torch.equal(getattr(plain, name), getattr(changed, name))


@pytest.mark.parametrize("uniform", EXTREMES)
@pytest.mark.parametrize("temperature", [0.01, 0.6])
@pytest.mark.parametrize("vocabulary", [200, 5000])
def test_the_ends_of_the_unit_interval_draw_tokens_with_weight(
    uniform: float, temperature: float, vocabulary: int
) -> None:
    hidden, table = inputs(6, vocabulary, seed=5)
    draws = draws_of(6, temperature, torch.tensor([1.0, 1.0, 1.0, 0.5, 2.0, 1.0]), uniform)
    found = vocabulary_pass(hidden, table, CAP, draws, guess=False)
    exact = exact_pass(hidden, table, CAP, draws)
    check(found, exact, draws, tolerance=2e-4, share=3e-4 if temperature < 0.1 else 2e-6)
    below = exact.cumulative.gather(1, (found.sample - 1).clamp_min(0)[:, None])[:, 0]
    upto = exact.cumulative.gather(1, found.sample[:, None])[:, 0]
    assert (torch.where(found.sample > 0, upto - below, upto) > 2.0**-60).all()


@pytest.mark.parametrize("temperature", [0.1, 0.4, 1.0])
def test_rows_without_one_high_logit_are_as_exact_as_others(temperature: float) -> None:
    hidden, table = inputs(4, 6000, seed=6, spread=0.2)
    table[:, 0] -= 12
    hidden[:, 0] = torch.tensor([1.0, 4.0, 9.0, 20.0])  # the softcap holds all at -30
    draws = draws_of(4, temperature)
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    unit = 2e-6 / min(temperature, 0.2)
    exact = exact_pass(hidden, table, CAP, draws)
    check(found._replace(argmax=exact.argmax), exact, draws, 3 * unit, unit)
    assert (exact.entropy[-1] - torch.tensor(6000.0).log()).abs() < 1e-6


@pytest.mark.parametrize("peak", [0, 4095, 4096, 5999])
def test_a_row_may_put_all_its_weight_on_one_token(peak: int) -> None:
    hidden, table = inputs(3, 6000, seed=7, spread=0.5)
    table[peak] = hidden[1] * 10
    draws = draws_of(3, 0.4, uniform=torch.tensor([0.3, 2.0**-33, 1 - 2.0**-33]))
    draws = Draws(draws.temperature, draws.proposal, draws.uniform[[1, 1, 2]])
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    check(found, exact_pass(hidden, table, CAP, draws), draws)
    assert found.sample[1] == found.argmax[1] == peak
    assert 0 <= found.entropy[1] < 1e-6


@pytest.mark.parametrize("place", [(3, 7), (127, 128), (4095, 4096), (5, 8000)])
def test_of_equal_logits_the_lowest_id_is_the_argmax(place: tuple[int, int]) -> None:
    hidden, table = inputs(5, 9000, seed=8, spread=1.0)
    table[list(place)] = hidden[2] * 3
    found = vocabulary_pass(hidden, table, CAP, draws_of(5), guess=False)
    assert found.argmax[2] == place[0]
    same = vocabulary_pass(hidden, torch.ones(9000, 16), CAP, draws_of(5), guess=False)
    assert (same.argmax == 0).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("vocabulary", [3, 1280, 9000])
def test_a_row_that_is_not_finite_is_marked_and_leaves_the_others_alone(
    poison: float, vocabulary: int
) -> None:
    hidden, table = inputs(6, vocabulary, seed=9)
    draws = draws_of(6, proposal=torch.tensor([1.0, 0.5, 1.0, 1.0, 0.0, 1.0]))
    clean = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    hidden[3] = poison
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    assert found.finite.tolist() == [True, True, True, False, True, True]
    for ids in (found.sample, found.argmax):
        assert ((ids >= 0) & (ids < vocabulary)).all()
    others = torch.arange(6) != 3
    for before, after in zip(clean, found, strict=True):
        assert before is not None
        assert after is not None
        assert torch.equal(before[others], after[others])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("token", [0, 5000])
def test_a_damaged_table_marks_every_row(poison: float, token: int) -> None:
    hidden, table = inputs(3, 6000)
    table[token, 2] = poison
    found = vocabulary_pass(hidden, table, CAP, draws_of(3), guess=True)
    assert not found.finite.any()
    assert (found.sample < 6000).all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    hidden, table = inputs(8, 6000, seed=10)
    found = vocabulary_pass(hidden, table, CAP, draws_of(8), guess=True)
    others = hidden * torch.tensor([1.0, 3, -2, 0, 9, -1, 0.1, 7])[:, None]
    changed = draws_of(8, torch.linspace(0.6, 1.4, 8), uniform=torch.linspace(1 / 16, 0.9, 8))
    again = vocabulary_pass(others, table, CAP, changed, guess=True)
    for one, other in zip(found, again, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one[0], other[0])


@pytest.mark.parametrize("vocabulary", [1000, 6000])
def test_a_bfloat16_table_is_read_exactly_and_the_guess_rounded_once(vocabulary: int) -> None:
    hidden, table = (x.bfloat16() for x in inputs(7, vocabulary, seed=11))
    draws = draws_of(7)
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    exact = exact_pass(hidden, table, CAP, draws)
    check(found, exact, draws)
    assert found.guess is not None
    assert found.guess.dtype == torch.bfloat16
    assert torch.allclose(found.guess.double(), exact.guess, rtol=2.0**-8, atol=2e-5)


def test_rows_and_tables_may_be_strided_and_want_gradients() -> None:
    hidden, table = inputs(5, 3000, width=32, seed=12)
    hidden, table = hidden[:, ::2], torch.nn.Parameter(table[:, ::2])
    draws = draws_of(5)
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    check(found, exact_pass(hidden, table.detach(), CAP, draws), draws)
    assert found.guess is not None
    assert not found.guess.requires_grad


@given(
    rows=st.integers(1, 5),
    vocabulary=st.integers(1, 700),
    temperature=st.floats(0.1, 1.5),
    factor=st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    uniform=st.floats(2.0**-33, 1 - 2.0**-33),
    spread=st.floats(0.0, 20.0),
)
def test_any_mixture_is_as_the_formulas_say(
    rows: int, vocabulary: int, temperature: float, factor: float, uniform: float, spread: float
) -> None:
    hidden, table = inputs(rows, vocabulary, width=4, seed=rows * vocabulary, spread=spread)
    draws = draws_of(rows, temperature, factor, uniform)
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    unit = 4e-6 / min(temperature, 0.2)
    exact = exact_pass(hidden, table, CAP, draws)
    check(found._replace(argmax=exact.argmax), exact, draws, unit, unit)


class Work(TorchDispatchMode):
    """Counts elements of exponentials and multiplications of products; the largest result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.exponentials = self.multiplications = self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in {"exp", "exp_"}:
            self.exponentials += out.numel()
        if name in {"mm", "addmm", "addmm_"}:
            left, right = [x for x in args if isinstance(x, Tensor)][-2:]
            self.multiplications += left.shape[0] * right.numel()
        known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in known:
                self.largest = max(self.largest, x.numel())
        return out


def work_of(hidden: Tensor, table: Tensor, draws: Draws) -> Work:
    work = Work()
    with work:
        vocabulary_pass(hidden, table, CAP, draws, guess=True)
    return work


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_no_tensor_as_large_as_a_quarter_of_the_logits_is_ever_made(factor: float) -> None:
    rows, vocabulary = 64, 40_000
    hidden, table = inputs(rows, vocabulary, width=4)
    work = work_of(hidden, table, draws_of(rows, proposal=factor))
    assert 0 < work.largest < rows * vocabulary / 4


def test_each_logit_is_exponentiated_once_where_proposals_are_plain() -> None:
    rows, vocabulary = 16, 9000
    hidden, table = inputs(rows, vocabulary)
    plain = work_of(hidden, table, draws_of(rows)).exponentials
    assert rows * vocabulary <= plain < 1.05 * rows * vocabulary
    greedy = work_of(hidden, table, draws_of(rows, proposal=0.0)).exponentials
    assert greedy == plain
    factors = torch.ones(rows)
    factors[:2] = 0.5
    mixed = work_of(hidden, table, draws_of(rows, proposal=factors)).exponentials
    assert mixed == plain + 2 * vocabulary


def sure_of_a_token_of_the_first_chunk() -> tuple[Tensor, Tensor]:
    hidden, table = inputs(16, 40_000, 32, seed=13, spread=1.0)
    table[:16] = hidden * 0.8
    return hidden, table


@pytest.mark.parametrize("temperature", [0.4, 1.0])  # at 1 the rest weighs a hundred-thousandth
def test_products_that_are_left_out_would_have_been_rounded_away(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, table = sure_of_a_token_of_the_first_chunk()
    draws = draws_of(16, temperature)
    found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    check(found, exact_pass(hidden, table, CAP, draws), draws)
    monkeypatch.setattr("dgemma_kernels.vocab_pass._NEGLIGIBLE", 0.0)
    whole = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    assert found.guess is not None
    assert whole.guess is not None
    assert (found.guess - whole.guess).abs().max() < 1e-6


def test_products_that_would_be_rounded_away_are_left_out() -> None:
    hidden, table = sure_of_a_token_of_the_first_chunk()
    draws, both = draws_of(16, 0.4), 2 * hidden.shape[0] * table.numel()
    assert work_of(hidden, table, draws).multiplications < 0.6 * both
    assert work_of(hidden * 0.01, table, draws).multiplications >= both
