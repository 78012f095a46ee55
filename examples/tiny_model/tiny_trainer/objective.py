"""What the model learns: to restore answers from canvases of noise, and to go on with a text.

A canvas is a block of an answer with a share `t` of its tokens replaced by uniform random ids;
`t` is uniform in (0, 1), and 1 in three of ten canvases, since generation begins there. The loss
is the cross-entropy at all places of the canvas.

The second loss is the next token's, read by a matrix of its own from what the last layer reads of
the encoded tokens. It makes the encoder look up by itself what a canvas then finds in its keys.
The matrix is left behind when the checkpoint is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgemma_backend.model import DiffusionGemma
from tiny_trainer.packed_forward import Kept, PackedModel
from tiny_trainer.packing import Scene

ALL_NOISE_SHARE = 0.3
CLEAN_WEIGHT = 0.5
PAD_WEIGHT = 0.1
BALANCE_WEIGHT = 0.01
NO_GUESS_SHARE = 0.1
PROMPT_SHARE = 0.2  # of the prompts' tokens whose next token is asked for; of answers all are


class Learner(nn.Module):
    """The model with the matrix that only training needs."""

    def __init__(self, model: DiffusionGemma) -> None:
        super().__init__()
        self.model = model
        width = model.config.hidden_size
        self.next_token = nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.next_token.weight)

    def next_logits(self, hidden: Tensor) -> Tensor:
        """`(T, hidden)` -> `(T, V)`: what comes next."""
        logits: Tensor = self.model.embed_tokens.logits(self.next_token(hidden))
        return logits


@dataclass(frozen=True)
class Noise:
    """Canvases of all scenes of a batch, `(C, L)` each."""

    targets: Tensor
    noised: Tensor
    changed: Tensor


@dataclass(frozen=True)
class Losses:
    """What to minimise, and what to look at."""

    total: Tensor
    next_token: float  # cross-entropy of answer tokens
    next_right: float  # share of answer tokens that the encoder foresees
    restored: Tensor  # (C,) share of changed, unpadded tokens restored; nan where there is none


def add_noise(scenes: Sequence[Scene], vocabulary: int, generator: torch.Generator) -> Noise:
    """The scenes' canvases with a random share of their tokens replaced."""
    targets = torch.cat([scene.targets for scene in scenes])
    share = torch.rand(targets.shape[0], 1, generator=generator)
    share[torch.rand(share.shape, generator=generator) < ALL_NOISE_SHARE] = 1.0
    changed = torch.rand(targets.shape, generator=generator) < share
    random_ids = torch.randint(vocabulary, targets.shape, generator=generator)
    return Noise(targets, torch.where(changed, random_ids, targets), changed)


def batch_loss(
    learner: Learner,
    scenes: Sequence[Scene],
    noise: Noise,
    guessing: bool,
    next_weight: float,
    generator: torch.Generator,
) -> Losses:
    """All losses of a batch.

    With `guessing`, the model first denoises without a gradient and gets its own guess, at a
    random temperature, as the self-conditioning signal; a tenth of the canvases get none.
    """
    model = learner.model
    packed = PackedModel(model, scenes)
    model.router_probs.clear()
    model.record_router = True
    hidden, kept = packed.encode()
    guess = None
    if guessing:
        model.record_router = False
        guess = _own_guess(packed, noise.noised, kept, generator)
        model.record_router = True
    logits = packed.denoise(noise.noised, guess, kept)
    balance = _balances(model)
    restoring, restored = _restoring(logits, noise, model.config.pad_token_id)
    total = restoring + BALANCE_WEIGHT * balance
    if not next_weight:
        return Losses(total, 0.0, 0.0, restored)
    following, answer_loss, right = _following(learner, hidden, scenes, generator)
    return Losses(total + next_weight * following, answer_loss, right, restored)


def reading_loss(
    learner: Learner, scenes: Sequence[Scene], next_weight: float, generator: torch.Generator
) -> Losses:
    """The next-token loss alone, at half the cost: canvases are not denoised."""
    model = learner.model
    model.router_probs.clear()
    model.record_router = True
    hidden, _ = PackedModel(model, scenes).encode()
    following, answer_loss, right = _following(learner, hidden, scenes, generator)
    total = next_weight * following + BALANCE_WEIGHT * _balances(model)
    return Losses(total, answer_loss, right, torch.empty(0))


def _balances(model: DiffusionGemma) -> Tensor:
    """Mean load-balancing loss of the passes since the last call."""
    losses = [_balance(probabilities, model) for probabilities in model.router_probs]
    model.router_probs.clear()
    return torch.stack(losses).mean()


def _restoring(logits: Tensor, noise: Noise, pad: int) -> tuple[Tensor, Tensor]:
    losses = F.cross_entropy(logits.flatten(0, 1), noise.targets.flatten(), reduction="none")
    weight = torch.where(noise.changed, 1.0, CLEAN_WEIGHT)
    weight = torch.where(noise.targets == pad, weight * PAD_WEIGHT, weight).flatten()
    shown = noise.changed & (noise.targets != pad)
    right = (logits.detach().argmax(-1) == noise.targets) & shown
    return (losses * weight).sum() / weight.sum(), right.sum(1) / shown.sum(1)


def _following(
    learner: Learner, hidden: Tensor, scenes: Sequence[Scene], generator: torch.Generator
) -> tuple[Tensor, float, float]:
    """Mean next-token loss, that of answers alone, and the share of them that is foreseen."""
    offsets = torch.tensor([0, *(scene.ids.numel() for scene in scenes)]).cumsum(0)[:-1]
    edges = torch.cat(
        [scene.edges + torch.tensor([at, 0]) for scene, at in zip(scenes, offsets, strict=True)]
    )
    of_answer = torch.cat([scene.of_answer for scene in scenes])
    asked = of_answer | (torch.rand(of_answer.shape, generator=generator) < PROMPT_SHARE)
    edges, of_answer = edges[asked], of_answer[asked]
    logits = learner.next_logits(hidden.index_select(0, edges[:, 0]))
    losses = F.cross_entropy(logits, edges[:, 1], reduction="none")
    right = logits.detach().argmax(-1) == edges[:, 1]
    shown = losses.detach()[of_answer].mean().item()
    return losses.mean(), shown, right[of_answer].float().mean().item()


@torch.no_grad()
def _own_guess(
    packed: PackedModel, noised: Tensor, kept: Kept, generator: torch.Generator
) -> Tensor:
    logits = packed.denoise(noised, None, kept)
    temperature = 0.4 + 0.6 * torch.rand(noised.shape[0], generator=generator)
    guess = packed.model.guess(logits, temperature)
    guess[torch.rand(noised.shape[0], generator=generator) < NO_GUESS_SHARE] = 0.0
    return guess


def _balance(probabilities: Tensor, model: DiffusionGemma) -> Tensor:
    """Load-balancing loss of one layer, 1 when all experts get the same share (Fedus 2021)."""
    experts, top_k = model.config.num_experts, model.config.top_k_experts
    chosen = probabilities.detach().topk(top_k, dim=-1).indices
    share = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    return experts * (share * probabilities.mean(dim=0)).sum()
