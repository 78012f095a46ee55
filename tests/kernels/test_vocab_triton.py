"""The vocabulary kernels give what the plain formulas in float64 give, and the CPU's pass."""

from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from dgemma_kernels.vocab import Draws, soft_embedding_reference, softcap_reference
from dgemma_kernels.vocab_pass import vocabulary_pass
from dgemma_kernels.vocab_triton import (
    _first_reaching,
    product_parts,
    soft_embedding_triton,
    vocabulary_pass_triton,
    vocabulary_statistics_triton,
)

CAP = 30.0
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [1, 2, 1023, 1024, 1025, 2047, 2048, 2049, 5000]
UNIFORMS = (2.0**-33, 2.0**-24, 0.5, 1 - 2.0**-24, 1 - 2.0**-33)

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def logits_of(
    rows: int, vocabulary: int, device: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """Before the softcap."""
    generator = torch.Generator().manual_seed(seed + vocabulary)
    return (torch.randn(rows, vocabulary, generator=generator) * 6).to(device, dtype)


def draws_of(
    rows: int, device: str, temperature: Any = 0.6, proposal: Any = 1.0, uniform: Any = None
) -> Draws:
    if uniform is None:
        uniform = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    wanted = (temperature, torch.float32), (proposal, torch.float32), (uniform, torch.float64)
    return Draws(
        *(torch.as_tensor(x, dtype=kind).expand(rows).clone().to(device) for x, kind in wanted)
    )


def check(raw: Tensor, draws: Draws, tolerance: float = 2e-5, share: float = 2e-6) -> None:
    """The statistics of raw logits against float64; a sample is where the sum passes `uniform`."""
    found = vocabulary_statistics_triton(raw, CAP, draws)
    logits = CAP * (raw.double() / CAP).tanh()
    tempered = logits / draws.temperature.double()[:, None]
    log_share = tempered.log_softmax(-1)
    best = logits.gather(1, found.argmax[:, None])[:, 0]
    assert (best >= logits.amax(-1) - 1e-5).all()  # closer together float32 holds none apart
    assert found.finite.all()
    entropy = -(log_share.exp() * log_share).sum(-1)
    assert (found.entropy.double() - entropy).abs().max() <= tolerance
    total = tempered.logsumexp(-1)
    gap = (found.log_total.double() - total).abs()
    assert (gap <= tolerance + 2.0**-22 * total.abs()).all()
    drawn = draws.proposal != 0
    assert torch.equal(found.sample[~drawn], found.argmax[~drawn])
    factor = torch.where(drawn, draws.proposal, 1.0)[:, None]
    edges = torch.nn.functional.pad((tempered / factor).softmax(-1).cumsum(-1), (1, 0))
    below, upto = (edges.gather(1, found.sample[:, None] + i)[:, 0][drawn] for i in (0, 1))
    uniform = draws.uniform[drawn]
    assert ((below <= uniform + share) & (uniform <= upto + share) & (upto > below)).all()


@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [*((size, torch.float32) for size in SIZES), (2049, torch.float16), (2049, torch.bfloat16)],
)
def test_statistics_are_as_the_formulas_say(
    vocabulary: int, dtype: torch.dtype, kernel_device: str
) -> None:
    factors = torch.tensor([1.0, 0.0, 0.5, 1.7])
    temperatures = torch.tensor([0.4, 0.8, 1.5, 30.0])
    draws = draws_of(4, kernel_device, temperatures, factors)
    check(logits_of(4, vocabulary, kernel_device, dtype), draws)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.4])
def test_every_temperature_is_exact(temperature: float, kernel_device: str) -> None:
    unit = 4e-6 / min(temperature, 0.2)
    check(logits_of(3, 3000, kernel_device), draws_of(3, kernel_device, temperature), unit, unit)


def test_statistics_are_those_of_the_pass_on_a_cpu(kernel_device: str) -> None:
    raw = logits_of(4, 3000, kernel_device)
    factors = torch.tensor([1.0, 0.5, 2.0, 0.0])
    draws = draws_of(4, kernel_device, torch.linspace(0.3, 1.4, 4), factors)
    table = torch.eye(3000)
    on_cpu = vocabulary_pass(raw.cpu(), table, CAP, Draws(*(x.cpu() for x in draws)), guess=False)
    found = vocabulary_statistics_triton(raw, CAP, draws)
    for name in ("argmax", "sample", "finite"):
        assert torch.equal(getattr(found, name).cpu(), getattr(on_cpu, name))
    assert torch.allclose(found.entropy.cpu(), on_cpu.entropy, atol=1e-5)
    assert torch.allclose(found.log_total.cpu(), on_cpu.log_total, atol=1e-5)


@pytest.mark.parametrize(("temperature", "factor"), [(0.01, 1.0), (0.6, 1.0), (0.6, 0.5)])
def test_the_ends_of_the_unit_interval_draw_tokens_with_weight(
    temperature: float, factor: float, kernel_device: str
) -> None:
    rows = len(UNIFORMS)
    raw = logits_of(rows, 3000, kernel_device, seed=1)
    draws = draws_of(rows, kernel_device, temperature, factor, UNIFORMS)
    rough = temperature < 0.1
    check(raw, draws, 4e-4 if rough else 2e-5, 8e-4 if rough else 2e-6)


def _place(weight_ptr: Any, target_ptr: Any, place_ptr: Any, SIZE: tl.constexpr) -> None:
    weight = tl.load(weight_ptr + tl.arange(0, SIZE))
    place = _first_reaching(weight, tl.load(target_ptr + tl.program_id(0)), SIZE)
    tl.store(place_ptr + tl.program_id(0), place)


def test_a_place_without_weight_is_never_chosen_whatever_rounding_does(kernel_device: str) -> None:
    weight = torch.tensor([0.0, 0, 2, 0, 1, 3, 0, 0]).double().to(kernel_device)
    target = torch.tensor([-1e-9, 0.0, 1e-9, 2.0, 2.1, 6.0, 6.1, torch.nan]).double()
    place = torch.empty(8, dtype=torch.int32, device=kernel_device)
    triton.jit(_place)[(8,)](weight, target.to(kernel_device), place, SIZE=8)
    assert place.tolist() == [2, 2, 2, 2, 4, 5, 5, 5]


def test_low_rows_and_rows_with_one_peak_are_exact(kernel_device: str) -> None:
    raw = logits_of(4, 3000, kernel_device, seed=2) * 0.05
    raw[1] -= 60
    raw[2] -= 250  # the softcap holds all at -30
    raw[3, 2900] = 80
    check(raw, draws_of(4, kernel_device, 0.4), tolerance=3e-5)


@pytest.mark.parametrize("place", [(0, 1), (2047, 2048), (17, 2999)])
def test_of_equal_logits_the_lowest_id_is_the_argmax(
    place: tuple[int, int], kernel_device: str
) -> None:
    raw = logits_of(2, 3000, kernel_device)
    raw[1, list(place)] = 50
    found = vocabulary_statistics_triton(raw, CAP, draws_of(2, kernel_device))
    assert found.argmax[1] == place[0]
    level = vocabulary_statistics_triton(torch.zeros_like(raw), CAP, draws_of(2, kernel_device))
    assert level.argmax.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("poison", "dtype"),
    [(float("nan"), torch.float32), (float("inf"), torch.bfloat16), (-float("inf"), torch.float16)],
)
def test_a_row_that_is_not_finite_is_marked_and_leaves_the_others_alone(
    poison: float, dtype: torch.dtype, kernel_device: str
) -> None:
    raw = logits_of(6, 2049, kernel_device, dtype)
    draws = draws_of(6, kernel_device, proposal=torch.tensor([1.0, 0.5, 1.0, 0.5, 1.0, 0.0]))
    clean = vocabulary_statistics_triton(raw, CAP, draws)
    raw[1, 0] = raw[2, 2048] = raw[3] = raw[5, 7] = poison  # the last block is one column wide
    found = vocabulary_statistics_triton(raw, CAP, draws)
    assert found.finite.tolist() == [True, False, False, False, True, False]
    for ids in (found.sample, found.argmax):
        assert ((ids >= 0) & (ids < 2049)).all()
    for before, after in zip(clean, found, strict=True):
        assert torch.equal(before[found.finite], after[found.finite])


def test_rows_may_lie_apart_and_columns_too(kernel_device: str) -> None:
    raw = logits_of(4, 3000, kernel_device, torch.bfloat16)
    draws = draws_of(2, kernel_device)
    check(raw[::2, 100:2500], draws)
    check(raw[:2, ::2], draws)
    check(raw.t().contiguous().t()[:2], draws)


def test_the_same_logits_give_the_same_bits(kernel_device: str) -> None:
    raw, draws = logits_of(3, 3000, kernel_device), draws_of(3, kernel_device, proposal=0.7)
    first, second = (vocabulary_statistics_triton(raw, CAP, draws) for _ in range(2))
    alone = vocabulary_statistics_triton(raw[1:2], CAP, Draws(*(x[1:2] for x in draws)))
    for one, two, row in zip(first, second, alone, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one[1:2], row)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1, 2047, 2048, 2049, 5000])
def test_the_soft_embedding_is_the_expected_embedding(
    vocabulary: int, dtype: torch.dtype, kernel_device: str
) -> None:
    raw = logits_of(5, vocabulary, kernel_device, dtype)
    table = logits_of(vocabulary, 24, kernel_device, dtype, seed=3)
    temperature = torch.linspace(0.2, 1.4, 5, device=kernel_device)
    logits = CAP * (raw.double() / CAP).tanh()
    tempered = logits / temperature.double()[:, None]
    total = tempered.logsumexp(-1).float()
    reference = soft_embedding_reference(
        softcap_reference(raw.float().clone(), CAP), temperature, total, table
    )
    found = soft_embedding_triton(raw.clone(), CAP, temperature, total, table)
    exact = tempered.softmax(-1) @ table.double()
    assert found.dtype == dtype
    # Probability and result are rounded, by 2^-8 each; a log-sum-exp of 90 is known to 1e-5.
    bound = tempered.softmax(-1) @ table.double().abs()
    rounding = 2.0**-7 if dtype == torch.bfloat16 else 2e-5
    assert ((found.double() - exact).abs() <= rounding * bound + 1e-6).all()
    assert ((reference.double() - exact).abs() <= rounding * bound + 1e-6).all()


def test_probabilities_take_the_place_of_the_logits_in_their_rows_only(kernel_device: str) -> None:
    whole = logits_of(3, 3000, kernel_device)
    before = whole.clone()
    temperature = torch.ones(3, device=kernel_device)
    raw = whole[:, 200:2700]
    total = (CAP * (raw / CAP).tanh()).logsumexp(-1)
    soft_embedding_triton(raw, CAP, temperature, total, torch.ones(2500, 8, device=kernel_device))
    assert torch.equal(whole[:, :200], before[:, :200])
    assert torch.equal(whole[:, 2700:], before[:, 2700:])
    assert torch.allclose(raw.sum(-1), torch.ones(3, device=kernel_device), atol=1e-5)


def test_logits_that_cannot_be_overwritten_are_refused(kernel_device: str) -> None:
    raw, table = logits_of(2, 64, kernel_device), torch.ones(64, 8, device=kernel_device)
    ones = torch.ones(2, device=kernel_device)
    with pytest.raises(ValueError, match=r"float32 with strides .* the table's torch.bfloat16"):
        soft_embedding_triton(raw, CAP, ones, ones, table.bfloat16())
    with pytest.raises(ValueError, match=r"strides \(128, 2\)"):
        soft_embedding_triton(raw.repeat(1, 2)[:, ::2], CAP, ones, ones, table)


@pytest.mark.parametrize(
    ("rows", "width", "vocabulary", "parts"),
    [(256, 2816, 262144, 16), (1024, 2816, 262144, 4), (4096, 2816, 262144, 1), (9, 8, 33, 1)],
)
def test_the_product_is_cut_until_every_multiprocessor_has_work(
    rows: int, width: int, vocabulary: int, parts: int
) -> None:
    assert product_parts(rows, width, vocabulary, processors=132) == parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_pass_is_that_of_a_cpu(dtype: torch.dtype, kernel_device: str) -> None:
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(4, 32, generator=generator).to(dtype)
    table = torch.randn(3000, 32, generator=generator).to(dtype)
    draws = draws_of(4, "cpu", proposal=torch.tensor([1.0, 1.0, 0.0, 0.5]))
    theirs = vocabulary_pass(hidden, table, CAP, draws, guess=True)
    given = hidden.to(kernel_device), table.to(kernel_device)
    draws = Draws(*(x.to(kernel_device) for x in draws))
    found = vocabulary_pass_triton(*given, CAP, draws, guess=True)
    assert found.guess is not None
    assert theirs.guess is not None
    assert found.guess.dtype == dtype
    # Logits rounded to bfloat16 are off by up to a sixteenth, over a temperature of 0.6.
    atol = 0.1 if dtype == torch.bfloat16 else 2e-5
    assert torch.allclose(found.entropy.cpu(), theirs.entropy, atol=atol)
    assert torch.allclose(found.log_total.cpu(), theirs.log_total, atol=atol)
    assert torch.allclose(found.guess.cpu().float(), theirs.guess.float(), atol=atol)
    if dtype == torch.float32:
        assert torch.equal(found.argmax.cpu(), theirs.argmax)
        assert torch.equal(found.sample.cpu(), theirs.sample)
    assert vocabulary_pass_triton(*given, CAP, draws, guess=False).guess is None
