"""What a constraint needs to know of the logits: of each class of tokens, rather than of each.

The tokens of a class do the same in every state of an automaton, so a path over classes needs of
each only the best token, the sum of the weights, and a token drawn inside it.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dgemma_kernels.vocab import Draws, softcap_reference

TILE = 1024
"""Tokens of one class that a kernel looks at together."""

_MAXIMA_ELEMENTS = 1 << 22  # rows share the calls made for each class
_STATISTICS_ELEMENTS = 1 << 20  # a chunk of rows and its temporaries stay in the processor's cache
_PRODUCT_ELEMENTS = 1 << 23  # of logits that are written out at a time
_COLUMNS = 4096


class ClassOrder(NamedTuple):
    """The tokens of a vocabulary by class; made once for an automaton by `class_order`.

    For kernels also in tiles of `TILE`, of which every class has at least one.
    """

    token: Tensor  # (V,) int64, rising within a class
    of: Tensor  # (V,) int64: the class of each of them, rising
    first: Tensor  # (C + 1,) int64: class c is token[first[c]:first[c + 1]]
    several: tuple[tuple[int, int, int], ...]  # class, begin and end of those of some tokens
    tiles: Tensor  # (tiles, TILE) int32, -1 where a tile is not full
    first_tile: Tensor  # (C + 1,) int32: the tiles of class c begin at first_tile[c]
    most_tiles: int  # of one class

    @property
    def classes(self) -> int:
        """C."""
        return len(self.first) - 1


class ClassMaxima(NamedTuple):
    """Per row and class of tokens, each `(N, C)`; an empty class has -inf and -1."""

    logit: Tensor  # float32
    token: Tensor  # ids; of equal logits the lowest


class ClassStatistics(NamedTuple):
    """Per row and class, each `(N, C)` but for `finite`; an empty class has -inf, -1 and 0.

    Probabilities are those of softmax(logits / temperature), samples of
    softmax(logits / (temperature * proposal)), both within the class.
    """

    logit: Tensor  # float32: the largest, no temperature applied
    token: Tensor  # ids: that logit's; of equal ones the lowest
    log_total: Tensor  # float32: log of the sum of exp(logits / temperature)
    entropy: Tensor  # float32, nats
    log_proposal: Tensor  # float32: as log_total, at temperature * proposal
    sample: Tensor  # ids; where proposal is 0 the best token's
    finite: Tensor  # (N,) bool: no NaN or infinity among the logits before the softcap


def class_order(classes: Tensor, count: int) -> ClassOrder:
    """`classes (V,)` in [0, count) -> the order in which classes are reduced.

    Waits for the device, so not while a graph is captured.
    """
    of, token = classes.long().sort(stable=True)
    sizes = torch.bincount(of, minlength=count)
    first = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    tiles = (sizes + TILE - 1).div(TILE, rounding_mode="floor").clamp_(min=1)
    first_tile = torch.nn.functional.pad(tiles.cumsum(0), (1, 0))
    # Of each token in this order: its place in its class, then in the tiles.
    place = torch.arange(len(token), device=token.device) - first[of] + first_tile[of] * TILE
    held = torch.full((int(first_tile[-1]) * TILE,), -1, dtype=torch.int32, device=token.device)
    held[place] = token.int()
    bounds = first.tolist()
    several = tuple(
        (name, begin, end) for name, (begin, end) in enumerate(pairwise(bounds)) if end - begin > 1
    )
    return ClassOrder(
        token, of, first, several, held.view(-1, TILE), first_tile.int(), int(tiles.max())
    )


def class_maxima_reference(logits: Tensor, order: ClassOrder) -> ClassMaxima:
    """`logits (N, V)` float32 -> the best token of each class, `(N, C)`.

    Ties go to the lowest id. Rows go in chunks, each once more in memory.
    """
    step = max(1, _MAXIMA_ELEMENTS // logits.shape[1])
    parts = [
        _maxima(logits[i : i + step].index_select(1, order.token), order)
        for i in range(0, len(logits), step)
    ]
    return ClassMaxima(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _maxima(logits: Tensor, order: ClassOrder) -> ClassMaxima:
    """Of logits in the order of classes."""
    begin, sizes = order.first[:-1], order.first.diff()
    place = begin.clamp(max=logits.shape[1] - 1).repeat(len(logits), 1)
    best = logits.gather(1, place).masked_fill_(sizes == 0, -torch.inf)
    for name, start, end in order.several:
        best[:, name], at = logits[:, start:end].max(dim=1)
        place[:, name] = at + start
    return ClassMaxima(best, order.token[place].masked_fill_(sizes == 0, -1))


def class_statistics_reference(logits: Tensor, order: ClassOrder, draws: Draws) -> ClassStatistics:
    """`logits (N, V)` float32, draws `(N,)` -> statistics of every class, `(N, C)`.

    A class' sample inverts the cumulative distribution of its own tokens, in id order, at the
    row's `uniform`, and never has weight zero. `finite` is whether these logits are.
    """
    step = max(1, _STATISTICS_ELEMENTS // logits.shape[1])
    parts = [
        _statistics(logits[i : i + step], order, Draws(*(x[i : i + step] for x in draws)))
        for i in range(0, len(logits), step)
    ]
    return ClassStatistics(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _statistics(logits: Tensor, order: ClassOrder, draws: Draws) -> ClassStatistics:
    finite = (logits.amax(dim=1) - logits.amin(dim=1)).isfinite()
    by_class = logits.index_select(1, order.token)
    best, token = _maxima(by_class, order)
    temperature = draws.temperature.unsqueeze(1)
    # Weights are relative to the best of their class, so no class is lost beside a heavier one.
    of = order.of.expand(len(logits), -1)
    log_weight = by_class.sub_(best.gather(1, of)).div_(temperature)
    weight = log_weight.exp()
    upto = _cumulative(weight)
    total = _of_classes(upto, order)
    spread = _of_classes(_cumulative(weight.mul_(log_weight)), order)
    greedy = draws.proposal == 0
    factor = draws.proposal.masked_fill(greedy, 1.0).unsqueeze(1)
    own_upto = upto if bool((factor == 1).all()) else _cumulative(log_weight.div_(factor).exp_())
    own = _of_classes(own_upto, order)
    sample = _sample(own_upto, draws.uniform, order)
    return ClassStatistics(
        logit=best,
        token=token,
        log_total=(best / temperature + total.log()).float(),
        entropy=torch.where(total > 0, total.log() - spread / total, 0.0).float(),
        log_proposal=(best / (temperature * factor) + own.log()).float(),
        sample=torch.where(greedy.unsqueeze(1), token, sample),
        finite=finite,
    )


def _cumulative(weight: Tensor) -> Tensor:
    """`(n, V)` -> float64 `(n, V + 1)`, from 0 on."""
    return torch.nn.functional.pad(weight.cumsum(dim=1, dtype=torch.float64), (1, 0))


def _of_classes(upto: Tensor, order: ClassOrder) -> Tensor:
    """The sum of each class, `(n, C)`; the heaviest token's weight is 1, so no digits are lost."""
    return upto.index_select(1, order.first).diff(dim=1)


def _sample(upto: Tensor, uniform: Tensor, order: ClassOrder) -> Tensor:
    ends = upto.index_select(1, order.first)
    begin, end = ends[:, :-1], ends[:, 1:]
    target = torch.minimum(begin + uniform.double().unsqueeze(1) * (end - begin), end)
    place = torch.searchsorted(upto[:, 1:].contiguous(), target)
    last = order.first[1:] - 1
    inside = torch.minimum(torch.maximum(place, order.first[:-1]), last).clamp_(min=0)
    return order.token[inside].masked_fill_(last < order.first[:-1], -1)


def _logits(hidden: Tensor, table: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """`(n, V)` float32, softcapped, and which rows were finite before."""
    raw = hidden.new_empty(len(hidden), len(table), dtype=torch.float32)
    for start in range(0, len(table), _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        raw[:, columns] = hidden.float() @ table[columns].float().t()
    finite = (raw.amax(dim=1) - raw.amin(dim=1)).isfinite()
    return softcap_reference(raw, cap), finite


@torch.no_grad()
def class_maxima(hidden: Tensor, table: Tensor, cap: float, order: ClassOrder) -> ClassMaxima:
    """`hidden (N, D)`, `table (V, D)` -> the best token of each class, `(N, C)`.

    Logits are `cap * tanh(hidden @ table.T / cap)` in float32, as in `vocab_pass`. A row whose
    logits hold NaN or infinity gets NaN for every class.
    """
    step = max(1, _PRODUCT_ELEMENTS // len(table))
    parts = []
    for start in range(0, len(hidden), step):
        logits, finite = _logits(hidden[start : start + step], table, cap)
        found = class_maxima_reference(logits, order)
        poisoned = found.logit.masked_fill_(~finite.unsqueeze(1), torch.nan)
        parts.append(ClassMaxima(poisoned, found.token))
    return ClassMaxima(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def class_statistics(
    hidden: Tensor, table: Tensor, cap: float, order: ClassOrder, draws: Draws
) -> ClassStatistics:
    """`hidden (N, D)`, `table (V, D)`, draws `(N,)` -> statistics of every class, `(N, C)`.

    Logits as in `class_maxima`. A row that is not `finite` means nothing otherwise, but its ids
    are in range and no other row is touched.
    """
    step = max(1, _PRODUCT_ELEMENTS // len(table))
    parts = []
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        logits, finite = _logits(hidden[rows], table, cap)
        found = class_statistics_reference(logits, order, Draws(*(x[rows] for x in draws)))
        parts.append(found._replace(finite=finite))
    return ClassStatistics(*(torch.cat(column) for column in zip(*parts, strict=True)))
