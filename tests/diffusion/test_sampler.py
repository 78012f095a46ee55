"""Acceptance follows the entropy bound; proposals come from the distribution they should."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend.diffusion import EntropyBoundSampler
from dgemma_backend.diffusion.sampler import restricted_sample
from dgemma_kernels import Draws

EIGHTHS = st.integers(0, 96).map(lambda n: n / 8)  # their sums are exact, and ties common


def sampler(bound: float) -> EntropyBoundSampler:
    return EntropyBoundSampler(SimpleNamespace(entropy_bound=bound))


def accepted_by_hand(entropy: list[float], bound: float) -> set[int]:
    """The rule as one says it aloud, one place at a time."""
    taken, spent = set(), 0.0
    for place in sorted(range(len(entropy)), key=entropy.__getitem__):
        if spent > bound:
            break
        taken.add(place)
        spent += entropy[place]
    return taken


@given(entropy=st.lists(EIGHTHS, min_size=1, max_size=40), bound=EIGHTHS)
def test_accepts_just_the_places_the_spoken_rule_accepts(
    entropy: list[float], bound: float
) -> None:
    mask = sampler(bound).accept(torch.tensor(entropy, dtype=torch.float64))
    assert set(mask.nonzero().flatten().tolist()) == accepted_by_hand(entropy, bound)


@pytest.mark.parametrize(
    ("entropy", "accepted"), [(0.005, 21), (0.02, 6), (0.04, 3), (0.1, 2), (0.15, 1)]
)
def test_equal_entropies_are_accepted_as_often_as_published(entropy: float, accepted: int) -> None:
    assert int(sampler(0.1).accept(torch.full((256,), entropy)).sum()) == accepted


def draws(temperature: float, proposal: float, uniform: torch.Tensor) -> Draws:
    filled = torch.full((2, uniform.shape[0]), temperature)
    filled[1] = proposal
    return Draws(filled[0], filled[1], uniform)


def test_temperature_zero_proposes_the_argmax() -> None:
    logits = torch.randn(50, 33, generator=torch.Generator().manual_seed(0))
    uniform = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert torch.equal(
        restricted_sample(logits, draws(0.7, 0, uniform), top_k=5), logits.argmax(-1)
    )


@given(
    seed=st.integers(0, 10_000),
    top_k=st.none() | st.integers(1, 12),
    top_p=st.none() | st.floats(0.05, 1.0),
)
def test_restricted_proposals_follow_the_cut_distribution(
    seed: int, top_k: int | None, top_p: float | None
) -> None:
    row = torch.randn(12, generator=torch.Generator().manual_seed(seed)) * 2
    probability = (row / 0.7).double().softmax(-1)
    order = sorted(range(12), key=lambda i: (-float(probability[i]), i))[: top_k or 12]
    mass = sum(float(probability[i]) for i in order)
    kept, reached = [], 0.0
    for place in order:
        if top_p is not None and reached >= top_p * mass - 1e-7:
            break
        kept.append(place)
        reached += float(probability[place])
    count = 200
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = restricted_sample(row.expand(count, 12), draws(1.4, 0.5, uniform), top_k, top_p)
    share = torch.bincount(found, minlength=12).double() / count
    expected = torch.zeros(12, dtype=torch.float64)
    expected[kept] = probability[kept] / probability[kept].sum()
    # Inverting the cumulative sum at evenly spread points misses each share by under two points.
    assert (share - expected).abs().max() <= 2 / count


def test_a_forbidden_token_is_never_proposed() -> None:
    row = torch.tensor([[1.0, 3.0, 2.0, 3.0]])
    uniform = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    found = restricted_sample(row.expand(200, 4), draws(1.0, 1.0, uniform), top_k=2)
    assert set(found.tolist()) == {1, 3}
