"""The one pass over the vocabulary says what the plain formulas in float64 say."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dgemma_kernels.vocab import (
    invert_cdf,
    soft_embedding_reference,
    softcap_reference,
    vocabulary_statistics_reference,
)


def random_logits(rows: int, vocabulary: int, seed: int, spread: float = 5.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=generator) * spread


@pytest.mark.parametrize("vocabulary", [1, 2, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("temperature", [0.05, 0.4, 1.0])
def test_statistics_equal_the_plain_formulas(vocabulary: int, temperature: float) -> None:
    logits = random_logits(7, vocabulary, seed=vocabulary)
    uniform = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)
    found = vocabulary_statistics_reference(logits.clone(), torch.full((7,), temperature), uniform)
    exact = (logits.double() / temperature).log_softmax(-1)
    entropy = -(exact.exp() * exact).sum(-1)
    assert torch.equal(found.argmax, logits.argmax(-1))
    assert torch.allclose(found.entropy.double(), entropy, atol=2e-5)
    total = (logits.double() / temperature).logsumexp(-1)
    assert torch.allclose(found.log_total.double(), total, rtol=1e-6, atol=1e-5)
    assert found.finite.all()
    cumulative = exact.exp().cumsum(-1)
    below = torch.where(
        found.sample > 0, cumulative.gather(1, (found.sample - 1).clamp_min(0)[:, None])[:, 0], 0
    )
    upto = cumulative.gather(1, found.sample[:, None])[:, 0]
    assert ((below <= uniform + 1e-6) & (uniform <= upto + 1e-6)).all()


def test_each_row_has_its_own_temperature() -> None:
    logits = random_logits(1, 50, seed=1).expand(3, 50).contiguous()
    temperatures = torch.tensor([0.2, 0.7, 1.5])
    uniform = torch.full((3,), 0.5, dtype=torch.float64)
    found = vocabulary_statistics_reference(logits, temperatures, uniform)
    assert found.entropy[0] < found.entropy[1] < found.entropy[2]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("vocabulary", [3, 3000])
def test_a_row_with_a_value_that_is_not_finite_is_marked_and_no_other(
    poison: float, vocabulary: int
) -> None:
    logits = random_logits(5, vocabulary, seed=0)
    logits[3, 1] = poison
    uniform = torch.full((5,), 0.5, dtype=torch.float64)
    found = vocabulary_statistics_reference(logits, torch.ones(5), uniform)
    assert found.finite.tolist() == [True, True, True, False, True]
    assert ((found.sample >= 0) & (found.sample < vocabulary)).all()


def test_of_equal_logits_the_lowest_id_is_the_argmax() -> None:
    logits = torch.tensor([[1.0, 4.0, 4.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    uniform = torch.full((2,), 0.5, dtype=torch.float64)
    assert vocabulary_statistics_reference(logits, torch.ones(2), uniform).argmax.tolist() == [1, 0]


@given(
    weights=st.lists(st.integers(0, 5), min_size=1, max_size=3000).filter(any),
    uniform=st.floats(1e-12, 1 - 1e-12),
)
def test_a_token_without_weight_is_never_drawn(weights: list[int], uniform: float) -> None:
    found = invert_cdf(torch.tensor([weights]).float(), torch.tensor([uniform]).double())
    assert weights[int(found)] > 0


@given(weights=st.lists(st.integers(0, 2), min_size=1, max_size=1300).filter(any))
def test_every_token_is_drawn_in_proportion(weights: list[int]) -> None:
    total = sum(weights)
    uniform = (torch.arange(total, dtype=torch.float64) + 0.5) / total
    rows = torch.tensor([weights]).float().expand(total, -1)
    counts = torch.bincount(invert_cdf(rows, uniform), minlength=len(weights))
    assert counts.tolist() == weights


@pytest.mark.parametrize("vocabulary", [5, 4096, 4097, 9000])
def test_the_soft_embedding_is_the_expected_embedding(vocabulary: int) -> None:
    logits = random_logits(6, vocabulary, seed=3)
    table = random_logits(vocabulary, 10, seed=4, spread=1.0)
    temperature = torch.linspace(0.3, 1.0, 6)
    tempered = logits.double() / temperature[:, None].double()
    found = soft_embedding_reference(logits, temperature, tempered.logsumexp(-1).float(), table)
    assert torch.allclose(found.double(), tempered.softmax(-1) @ table.double(), atol=2e-5)


def test_the_softcap_works_in_place_without_gradients_and_out_of_place_with() -> None:
    logits = torch.tensor([0.0, 30.0, -300.0])
    capped = softcap_reference(logits, 30.0)
    assert capped.data_ptr() == logits.data_ptr()
    assert torch.allclose(capped, torch.tensor([0.0, 22.8478, -30.0]), atol=1e-3)
    wanted = torch.ones(3, requires_grad=True)
    softcap_reference(wanted * 1, 30.0).sum().backward()
    assert wanted.grad is not None
    assert (wanted.grad > 0.99).all()


class LargestResult(TorchDispatchMode):
    """Remembers the elements of the largest fresh tensor any operation returned."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {each.untyped_storage().data_ptr() for each in args if isinstance(each, Tensor)}
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor) and each.untyped_storage().data_ptr() not in given:
                self.elements = max(self.elements, each.numel())
        return out


def test_no_second_tensor_as_large_as_the_logits_is_ever_made() -> None:
    rows, vocabulary = 64, 40_000
    logits, table = random_logits(rows, vocabulary, seed=0), random_logits(vocabulary, 4, seed=1)
    temperature, uniform = torch.full((rows,), 0.7), torch.full((rows,), 0.5, dtype=torch.float64)
    with LargestResult() as seen:
        softcap_reference(logits, 30.0)
        found = vocabulary_statistics_reference(logits, temperature, uniform)
        soft_embedding_reference(logits, temperature, found.log_total, table)
    assert 0 < seen.elements < rows * vocabulary / 4
