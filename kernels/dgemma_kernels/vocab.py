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


class VocabularyStatistics(NamedTuple):
    """Per row of tempered logits: what one pass over them yields, each `(N,)`."""

    argmax: Tensor  # ids
    sample: Tensor  # ids
    entropy: Tensor  # nats
    log_total: Tensor  # log of the sum of exp(logits / temperature)
    finite: Tensor  # bool: no NaN or infinity in the row


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
    ends = blocks.sum(dim=-1).double().cumsum(dim=-1)
    target = uniform.double().unsqueeze(-1) * ends[:, -1:]
    block = torch.searchsorted(ends, target).clamp_(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp_(min=0)), 0.0)
    inside = blocks[torch.arange(rows, device=weight.device), block[:, 0]]
    cumulative = inside.double().cumsum(dim=-1)
    column = torch.searchsorted(cumulative, target - before)
    # Rounding may leave the target past the block's end: the last column with weight then.
    columns = torch.arange(_BLOCK, device=weight.device)
    last = torch.where(inside > 0, columns, 0).amax(dim=-1, keepdim=True)
    return (block * _BLOCK + torch.minimum(column, last))[:, 0].clamp_(max=vocabulary - 1)


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
        total += share @ table[columns]
    return total.to(table.dtype)
