"""What the model learns: to restore answers from canvases of noise.

A canvas is a block of an answer with a share `t` of its tokens replaced by uniform random ids;
`t` is uniform in (0, 1), and 1 in three of ten canvases, since generation begins there. The loss
is the cross-entropy at all places of the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma_backend.model import DiffusionGemma, KVCache
from tiny_trainer.rendering import Encoded

CANVASES_PER_PROMPT = 2
ALL_NOISE_SHARE = 0.3
CLEAN_WEIGHT = 0.5
PAD_WEIGHT = 0.1
BALANCE_WEIGHT = 0.01
NO_GUESS_SHARE = 0.1


@dataclass(frozen=True)
class Batch:
    """Prompts (1-D ids each) and, for every prompt, CANVASES_PER_PROMPT noised target blocks."""

    prompts: list[Tensor]
    targets: Tensor  # (B, L) ids, B = prompts x CANVASES_PER_PROMPT
    noised: Tensor  # (B, L) ids
    changed: Tensor  # (B, L) bool


def block_of(example: Encoded, canvas: int, rng: Random) -> tuple[list[int], list[int]]:
    """One canvas of the answer with all that comes before it: (prefix, padded block)."""
    blocks = -(-len(example.answer) // canvas)
    start = canvas * rng.randrange(blocks)
    block = example.answer[start : start + canvas]
    return example.prompt + example.answer[:start], block


def make_batch(
    examples: list[Encoded],
    canvas: int,
    vocabulary: int,
    pad: int,
    rng: Random,
    generator: torch.Generator,
) -> Batch:
    """Choose a block of every example and noise it."""
    prompts, targets = [], []
    for example in examples:
        prefix, block = block_of(example, canvas, rng)
        prompts.append(torch.tensor(prefix))
        targets.append(block + [pad] * (canvas - len(block)))
    target = torch.tensor(targets).repeat_interleave(CANVASES_PER_PROMPT, dim=0)
    share = torch.rand(target.shape[0], 1, generator=generator)
    share[torch.rand(share.shape, generator=generator) < ALL_NOISE_SHARE] = 1.0
    changed = torch.rand(target.shape, generator=generator) < share
    random_ids = torch.randint(vocabulary, target.shape, generator=generator)
    return Batch(prompts, target, torch.where(changed, random_ids, target), changed)


def batch_loss(
    model: DiffusionGemma, batch: Batch, guessing: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(loss, cross-entropy of the changed places alone), both scalars.

    With `guessing`, the model first denoises without a gradient and gets its own guess, at a
    random temperature, as the self-conditioning signal; a tenth of the canvases get none.
    """
    caches = [model.new_cache() for _ in batch.prompts]
    model.router_probs.clear()
    model.record_router = True
    model.encode(batch.prompts, caches)
    each = [cache for cache in caches for _ in range(CANVASES_PER_PROMPT)]
    guess = None
    if guessing:
        model.record_router = False
        guess = _own_guess(model, batch.noised, each, generator)
        model.record_router = True
    logits = model.denoise(batch.noised, guess, model.canvas_context(each)).dense()
    pad = model.config.pad_token_id
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    weight = torch.where(batch.changed, 1.0, CLEAN_WEIGHT)
    weight = torch.where(batch.targets == pad, weight * PAD_WEIGHT, weight).flatten()
    restored = (losses * weight).sum() / weight.sum()
    shown = (batch.changed & (batch.targets != pad)).flatten()
    balance = torch.stack([_balance(probabilities, model) for probabilities in model.router_probs])
    model.router_probs.clear()
    return restored + BALANCE_WEIGHT * balance.mean(), losses.detach()[shown].mean()


@torch.no_grad()
def _own_guess(
    model: DiffusionGemma, noised: Tensor, caches: list[KVCache], generator: torch.Generator
) -> Tensor:
    logits = model.denoise(noised, None, model.canvas_context(caches)).dense()
    temperature = 0.4 + 0.6 * torch.rand(noised.shape[0], generator=generator)
    guess = model.guess(logits, temperature)
    guess[torch.rand(noised.shape[0], generator=generator) < NO_GUESS_SHARE] = 0.0
    return guess


def _balance(probabilities: Tensor, model: DiffusionGemma) -> Tensor:
    """Load-balancing loss of one layer, 1 when all experts get the same share (Fedus 2021)."""
    experts, top_k = model.config.num_experts, model.config.top_k_experts
    chosen = probabilities.detach().topk(top_k, dim=-1).indices
    share = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    return experts * (share * probabilities.mean(dim=0)).sum()
