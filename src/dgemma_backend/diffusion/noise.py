"""Counter-based noise: every draw is a pure function of (seed, canvas, step, position).

No generator state exists, so neither other requests, nor timing, nor the order of work can
change what a request draws. The generator is Philox4x32-10 (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", 2011), which GPUs compute in registers too.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, seed: int) -> Words:
    """Four int64 tensors of 32-bit words and a 64-bit key -> four words, uniform on 2**32."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK, seed >> 32 & _MASK
    for _ in range(_ROUNDS):
        # The product wraps in int64, yet its 64 bits are those of the unsigned product.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> 32 & _MASK) ^ c1 ^ k0,
            second & _MASK,
            (first >> 32 & _MASK) ^ c3 ^ k1,
            first & _MASK,
        )
        k0, k1 = k0 + _KEY_STEPS[0] & _MASK, k1 + _KEY_STEPS[1] & _MASK
    return c0, c1, c2, c3


class StepDraws(NamedTuple):
    """What one denoising step may use: ids `renoise (L,)`, and two sets of float64 in (0, 1).

    `uniform (L,)` draws a token, or a class of tokens and then `inner (L,)` the token in it.
    """

    uniform: Tensor
    renoise: Tensor
    inner: Tensor


class CanvasNoise:
    """All draws of one canvas, made before its first step.

    `first (L,)` is the canvas to start from; `step(n)`, n from 1, are the draws of step n.
    Ids are uniform on the vocabulary up to a bias of V / 2**32 (exact for powers of two).
    """

    def __init__(
        self, seed: int, canvas: int, steps: int, length: int, vocabulary: int, device: torch.device
    ) -> None:
        shape = (steps + 1, length)
        position = torch.arange(length, device=device).expand(shape)
        step = torch.arange(steps + 1, device=device).unsqueeze(1).expand(shape)
        words = philox(
            (position, step, torch.full(shape, canvas, device=device), torch.zeros_like(step)), seed
        )
        self._uniform, self._inner = ((word.double() + 0.5) * 2.0**-32 for word in words[::2])
        self._ids = words[1] * vocabulary >> 32
        self.first = self._ids[0]

    def start_from(self, draft: Tensor) -> None:
        """Begin with `draft`, ids of at most the canvas' length, and noise behind it."""
        first = torch.cat((draft.to(self.first), self.first[draft.numel() :]))
        self._ids = torch.cat((first.unsqueeze(0), self._ids[1:]))
        self.first = self._ids[0]

    def pin(self, pinned: Tensor) -> None:
        """Where `pinned (L,)` is not negative, every canvas holds that id from the beginning."""
        self._ids = torch.where(pinned >= 0, pinned, self._ids)
        self.first = self._ids[0]

    def step(self, number: int) -> StepDraws:
        """The draws of step `number`, counted from 1."""
        return StepDraws(self._uniform[number], self._ids[number], self._inner[number])

    def all_steps(self) -> StepDraws:
        """Every step's draws, each `(steps + 1, L)`; row 0 belongs to no step."""
        return StepDraws(self._uniform, self._ids, self._inner)
