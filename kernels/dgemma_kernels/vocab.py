"""What the sampler needs to know of the logits, without ever copying them whole.

Rows are worked through a few at a time: at the real size one fp32 `[256, 262144]` tensor is
256 MiB, and softmax, entropy and sampling each want another.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 19  # a chunk of rows and its temporaries stay in the processor's cache
_SOFT_COLUMNS = 4096
_BLOCK = 1024  # columns summed together by the first level of the inverse-CDF search
_SMALLEST_SHARE = 1e-30


class Draws(NamedTuple):
    """How the next token of each row is drawn, each `(N,)`.

    Proposals come from softmax(logits / (temperature * proposal)): the schedule's own
    distribution where `proposal` is 1, the argmax where it is 0.
    """

    temperature: Tensor  # float32
    proposal: Tensor  # float32
    uniform: Tensor  # float64 in (0, 1)


class VocabularyStatistics(NamedTuple):
    """Per row of tempered logits: what one pass over them yields, each `(N,)`."""

    argmax: Tensor  # ids
    sample: Tensor  # ids
    entropy: Tensor  # nats
    log_total: Tensor  # log of the sum of exp(logits / temperature)
    finite: Tensor  # bool: no NaN or infinity in the row


class VocabularyPass(NamedTuple):
    """The statistics of `VocabularyStatistics`, and what the next step is told."""

    argmax: Tensor  # (N,) ids; of equal logits the lowest
    sample: Tensor  # (N,) ids; never one without probability
    entropy: Tensor  # (N,) nats of softmax(logits / temperature)
    log_total: Tensor  # (N,) log of the sum of exp(logits / temperature)
    finite: Tensor  # (N,) bool: no NaN or infinity among the logits before the softcap
    guess: Tensor | None  # (N, D) the expected embedding, in the table's dtype


def softcap_reference(logits: Tensor, cap: float) -> Tensor:
    """`cap * tanh(logits / cap)`; in place where no gradient is wanted."""
    if torch.is_grad_enabled() and logits.requires_grad:
        return (logits / cap).tanh() * cap
    return logits.div_(cap).tanh_().mul_(cap)


def vocabulary_statistics_reference(
    logits: Tensor, temperature: Tensor, uniform: Tensor
) -> VocabularyStatistics:
    """`logits (N, V)` float32, `temperature (N,)`, `uniform (N,)` in (0, 1) -> statistics.

    Distribution: softmax(logits / temperature). The sample inverts its cumulative sum at
    `uniform`, in id order, and never has probability zero. Entropy is
    `log Z - sum(p * shifted logit)`, in nats. Equal logits: the lowest id is the argmax.
    """
    rows, vocabulary = logits.shape
    step = max(1, _CHUNK_ELEMENTS // vocabulary)
    parts = [
        _chunk_statistics(logits[i : i + step], temperature[i : i + step], uniform[i : i + step])
        for i in range(0, rows, step)
    ]
    return VocabularyStatistics(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _chunk_statistics(logits: Tensor, temperature: Tensor, uniform: Tensor) -> VocabularyStatistics:
    top, argmax = logits.max(dim=-1, keepdim=True)
    shifted = (logits - top).div_(temperature.unsqueeze(-1))
    weight = shifted.exp()
    total = weight.sum(dim=-1)
    # A zero weight has shifted == -inf only if the logit is: then 0 * -inf is NaN, and refused.
    entropy = total.log() - torch.einsum("nv,nv->n", weight, shifted) / total
    finite = total.isfinite() & entropy.isfinite()
    log_total = top[:, 0] / temperature + total.log()
    sample = invert_cdf(weight, uniform)
    return VocabularyStatistics(argmax[:, 0], sample, entropy, log_total, finite)


def invert_cdf(weight: Tensor, uniform: Tensor) -> Tensor:
    """`(N, V)` weights >= 0 and `(N,)` in (0, 1) -> `(N,)` ids drawn in proportion.

    Two levels: the block in which the cumulative sum passes `uniform * total`, then the
    column inside it. Blocks are summed in float64, so a row's sum does not drift.
    """
    rows, vocabulary = weight.shape
    padded = -vocabulary % _BLOCK
    blocks = torch.nn.functional.pad(weight, (0, padded)).view(rows, -1, _BLOCK)
    block, share = choose_block(blocks.sum(dim=-1), uniform)
    inside = blocks[torch.arange(rows, device=weight.device), block]
    return (block * _BLOCK + choose_column(inside, share)).clamp_(max=vocabulary - 1)


def choose_block(sums: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Block sums `(N, B)`, `uniform (N,)` in (0, 1) -> the block `(N,)` that holds that quantile.

    Beside it, float64 `(N,)`, the share of the block's own sum that lies before the quantile.
    """
    sums = sums.double()
    ends = sums.cumsum(dim=-1)
    target = uniform.double().unsqueeze(-1) * ends[:, -1:]
    block = torch.searchsorted(ends, target).clamp_(max=ends.shape[1] - 1)  # NaN comes out past it
    inside = sums.gather(1, block)
    share = (target - ends.gather(1, block)).div_(inside).add_(1)
    return block[:, 0], share[:, 0]


def choose_column(weight: Tensor, share: Tensor) -> Tensor:
    """Weights `(N, B)` of one block, the share of them to pass `(N,)` -> columns with weight."""
    cumulative = weight.double().cumsum(dim=-1)
    # Above 0 and up to the whole, so that the first sum to reach it ends in a column with weight.
    target = share.clamp(_SMALLEST_SHARE, 1).unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target)[:, 0].clamp_(max=weight.shape[1] - 1)


def soft_embedding_reference(
    logits: Tensor, temperature: Tensor, log_total: Tensor, table: Tensor
) -> Tensor:
    """`logits (N, V)`, `temperature, log_total (N,)`, `table (V, D)` -> `(N, D)` as the table.

    The expected embedding under softmax(logits / temperature); `log_total` is that softmax's
    log-sum-exp, from `vocabulary_statistics`. Probabilities are rounded to the table's dtype,
    their products summed in float32. Columns go in chunks, so the table is read once.
    """
    total = torch.zeros(logits.shape[0], table.shape[1], device=logits.device)
    for start in range(0, logits.shape[1], _SOFT_COLUMNS):
        columns = slice(start, start + _SOFT_COLUMNS)
        tempered = logits[:, columns] / temperature.unsqueeze(-1)
        share = tempered.sub_(log_total.unsqueeze(-1)).exp_().to(table.dtype)
        total += share.float() @ table[columns].float()
    return total.to(table.dtype)
