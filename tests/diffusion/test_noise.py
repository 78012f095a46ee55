"""Noise is Philox, keyed by (seed, canvas, step, position) and by nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend.diffusion.noise import CanvasNoise, philox

CPU = torch.device("cpu")

# Counter, key and output words of the known-answer file published with Random123.
KNOWN = [
    (
        "00000000 00000000 00000000 00000000",
        "0000000000000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffffffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "299f31d0a4093822",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_philox_gives_the_published_known_answers(counter: str, key: str, output: str) -> None:
    words = tuple(torch.tensor([int(word, 16)]) for word in counter.split())
    found = philox(words, int(key, 16))  # type: ignore[arg-type]
    assert [f"{int(word):08x}" for word in found] == output.split()


@given(
    seed=st.integers(0, 2**63 - 1), canvas=st.integers(0, 1000), vocabulary=st.integers(1, 2**18)
)
def test_draws_lie_inside_their_ranges(seed: int, canvas: int, vocabulary: int) -> None:
    noise = CanvasNoise(seed, canvas, 2, 5, vocabulary, CPU)
    draws = noise.step(2)
    assert ((draws.uniform > 0) & (draws.uniform < 1)).all()
    for ids in (noise.first, draws.renoise):
        assert ((ids >= 0) & (ids < vocabulary)).all()


def test_a_longer_canvas_or_more_steps_change_no_earlier_draw() -> None:
    small, large = CanvasNoise(7, 3, 2, 4, 100, CPU), CanvasNoise(7, 3, 9, 16, 100, CPU)
    assert torch.equal(small.first, large.first[:4])
    assert torch.equal(small.step(2).uniform, large.step(2).uniform[:4])
    assert torch.equal(small.step(1).renoise, large.step(1).renoise[:4])


def test_seed_canvas_step_and_position_each_change_the_draws() -> None:
    base = CanvasNoise(1, 0, 2, 64, 1 << 18, CPU)
    others = [
        CanvasNoise(2, 0, 2, 64, 1 << 18, CPU).step(1).renoise,
        CanvasNoise(1 + (1 << 40), 0, 2, 64, 1 << 18, CPU).step(1).renoise,
        CanvasNoise(1, 1, 2, 64, 1 << 18, CPU).step(1).renoise,
        base.step(2).renoise,
        base.step(1).renoise.roll(1),
    ]
    for other in others:
        assert (base.step(1).renoise != other).float().mean() > 0.9


def test_draws_are_uniform() -> None:
    noise = CanvasNoise(5, 0, 63, 1024, 16, CPU)
    ids = torch.cat([noise.step(step).renoise for step in range(1, 64)])
    uniform = torch.cat([noise.step(step).uniform for step in range(1, 64)])
    expected = ids.numel() / 16
    for counts in (torch.bincount(ids, minlength=16), uniform.histc(16, 0, 1)):
        chi_square = ((counts.double() - expected).square() / expected).sum()
        assert chi_square < 37.7  # 15 degrees of freedom: exceeded once in a thousand seeds
    assert abs(torch.corrcoef(torch.stack((ids.double(), uniform)))[0, 1]) < 0.02
