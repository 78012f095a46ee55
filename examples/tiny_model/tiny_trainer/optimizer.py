"""Muon for matrices, AdamW for the rest, one schedule for both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

MUON_RATE = 0.02
ADAM_RATE = 3e-3
WARM_UP_STEPS = 50
WEIGHT_DECAY = 0.01
_MOMENTUM = 0.95
# Coefficients of the quintic Newton-Schulz step: Jordan et al. 2024, "Muon".
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def rate_factor(step: int, left: float, cool_down: float) -> float:
    """Share of the full learning rate: warm-up by steps, constant, linear fall at the end.

    `left` and `cool_down` are minutes to the end, and those in which the rate falls.
    """
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * (min(1.0, max(0.0, left / cool_down)) if cool_down else 1.0)


class Muon:
    """Momentum whose step is made orthogonal, matrix by matrix; experts are a batch of matrices."""

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self._by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for weight in weights:
            self._by_shape[tuple(weight.shape[-2:])].append(weight)
        self.momenta = {
            shape: torch.zeros(sum(_count(weight) for weight in group), *shape)
            for shape, group in self._by_shape.items()
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every weight; gradients must be there."""
        for shape, group in self._by_shape.items():
            gradients = torch.cat([_gradient(weight).reshape(-1, *shape) for weight in group])
            momentum = self.momenta[shape].lerp_(gradients, 1 - _MOMENTUM)
            update = orthogonal(gradients.lerp(momentum, _MOMENTUM))
            update *= max(1.0, shape[0] / shape[1]) ** 0.5
            parts = update.split([_count(weight) for weight in group])
            for weight, part in zip(group, parts, strict=True):
                weight.mul_(1 - rate * WEIGHT_DECAY).add_(part.view_as(weight), alpha=-rate)


def orthogonal(matrices: Tensor) -> Tensor:
    """`(N, R, C)` -> the nearest half-orthogonal matrices, roughly, by Newton-Schulz."""
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, beta=1.0, alpha=c) @ x
    found: Tensor = x.mT if tall else x
    return found


def _count(weight: nn.Parameter) -> int:
    return weight.shape[0] if weight.dim() == 3 else 1


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad


class Optimizers:
    """Both optimizers of a model behind one step."""

    def __init__(self, model: nn.Module) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, weight in model.named_parameters():
            plain = weight.dim() == 1 or "embed_tokens" in name or "router" in name
            (others if plain else matrices).append(weight)
        self.muon = Muon(matrices)
        self.adam = AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)

    def step(self, factor: float) -> None:
        """One step at `factor` of the full rates."""
        for group in self.adam.param_groups:
            group["lr"] = ADAM_RATE * factor
        self.adam.step()
        self.muon.step(MUON_RATE * factor)

    def state_dict(self) -> dict[str, object]:
        """What `load_state_dict` needs to go on."""
        return {"muon": list(self.muon.momenta.items()), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a saved state."""
        momenta, adam = state["muon"], state["adam"]
        assert isinstance(momenta, list)
        assert isinstance(adam, dict)
        self.muon.momenta = {tuple(shape): momentum for shape, momentum in momenta}
        self.adam.load_state_dict(adam)
