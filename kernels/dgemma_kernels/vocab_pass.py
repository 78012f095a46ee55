"""Logits, statistics, sample and expected embedding in one pass over the vocabulary, in torch.

A chunk of the table gives a chunk of logits, these give weights, and the weights are multiplied
with the same chunk while the cache holds it. Nothing is ever as wide as the vocabulary but one
sum for each block of a row, by which the row's sample is found in the end.

A logit is held as its gap to the softcap: `gap = sigmoid(-2 * raw / cap)` makes it
`cap * (1 - 2 * gap)`. A sigmoid costs a third of a tanh here, and the highest logits, on which
all probabilities rest, keep digits that a tanh near one rounds away.
"""

import torch
from torch import Tensor

from dgemma_kernels.vocab import Draws, VocabularyPass, choose_block, choose_column

_BLOCK = 128  # columns summed together: as many logits are computed anew for each row's sample
_CHUNK_ELEMENTS = 1 << 19  # two buffers of these stay in the cache
_FLOOR = -80.0  # exponentials that come out subnormal take thirty times as long
_NEGLIGIBLE = 2.0**-34  # times all chunks of a vocabulary, below half a unit of float32
_NARROWEST, _WIDEST = 1024, 4096  # columns of a chunk: below, matrix products lose their pace


@torch.no_grad()
def vocabulary_pass(
    hidden: Tensor, table: Tensor, cap: float, draws: Draws, *, guess: bool
) -> VocabularyPass:
    """`hidden (N, D)`, `table (V, D)`, draws `(N,)` -> statistics, samples and the guess.

    Logits are `cap * tanh(hidden @ table.T / cap)` in float32, whatever the dtypes. The guess
    is `softmax(logits / temperature) @ table`, summed in float32; None unless asked for.
    A row whose logits hold NaN or infinity is not `finite`: the rest of it means nothing, but
    its ids are in range and no other row is touched.
    """
    scan = _Scan(hidden.float(), table, cap, draws, guess=guess)
    for start in range(0, table.shape[0], scan.width):
        scan.take(start)
    expected = None if scan.guess is None else scan.guess.div_(scan.total).to(table.dtype)
    return VocabularyPass(
        argmax=scan.argmax,
        sample=torch.where(scan.greedy, scan.argmax, scan.sample()),
        entropy=(scan.total.log() - scan.spread / scan.total)[:, 0].float(),
        log_total=scan.log_total()[:, 0].float(),
        finite=scan.finite,
        guess=expected,
    )


def _chunk_columns(rows: int, vocabulary: int) -> int:
    wanted = min(max(_CHUNK_ELEMENTS // rows, _NARROWEST), _WIDEST, vocabulary)
    return -(-wanted // _BLOCK) * _BLOCK


class _Scan:
    """What is known of each row after some chunks, `(N, 1)`; sums are relative to `low`."""

    low: Tensor  # the smallest gap so far
    argmax: Tensor  # (N,)

    def __init__(
        self, hidden: Tensor, table: Tensor, cap: float, draws: Draws, *, guess: bool
    ) -> None:
        rows, vocabulary = hidden.shape[0], table.shape[0]
        self.hidden, self.table, self.cap, self.uniform = hidden, table, cap, draws.uniform
        self.width = _chunk_columns(rows, vocabulary)
        self.rate = 2 * cap / draws.temperature.unsqueeze(1)
        # A greedy row draws its argmax: what else is found for it does not matter.
        self.greedy = draws.proposal == 0
        factor = draws.proposal.masked_fill(self.greedy, 1.0)
        self.changed = (factor != 1).nonzero()[:, 0]
        self.factor = factor.unsqueeze(1)
        self.finite = torch.ones(rows, dtype=torch.bool, device=hidden.device)
        self.total = hidden.new_zeros(rows, 1, dtype=torch.float64)
        self.spread = torch.zeros_like(self.total)  # sum of weight * log(weight)
        self.guess = torch.zeros_like(hidden) if guess else None
        # All that is large is allocated once, or what stays of a chunk would fragment the heap.
        self.sums = hidden.new_empty(rows, -(-vocabulary // _BLOCK))  # of the proposals' weights
        self.lows = hidden.new_empty(rows, -(-vocabulary // self.width))  # `low` after each chunk
        self.buffers = hidden.new_empty(2, rows * self.width)
        self.own = hidden.new_empty(len(self.changed) * self.width)
        exact = table.dtype == torch.float32
        self.part = None if exact else hidden.new_empty(self.width, table.shape[1])

    def take(self, start: int) -> None:
        """Add the chunk of the table that begins at row `start`."""
        table = self._part(start)
        gap, weight = (_shaped(each, len(self.hidden), len(table)) for each in self.buffers)
        self._raw(self.hidden, table, gap)
        self.finite &= (gap.amax(dim=1) - gap.amin(dim=1)).isfinite()
        self._lower(gap.sigmoid_(), start)
        log_weight = gap.sub_(self.low).mul_(-self.rate)
        torch.clamp(log_weight, min=_FLOOR, out=weight).exp_()
        sums = _block_sums(weight)
        mass = sums.sum(dim=1, keepdim=True)
        self.total += mass
        self.spread += torch.linalg.vecdot(weight, log_weight).unsqueeze(1)
        if self.guess is not None:
            heavy = None if start == 0 else mass > self.total * _NEGLIGIBLE
            _expect(self.guess, weight, heavy, table)
        if self.changed.numel():
            sums[self.changed] = self._own_sums(log_weight)
        self.sums[:, start // _BLOCK : start // _BLOCK + sums.shape[1]] = sums
        self.lows[:, start // self.width] = self.low[:, 0]

    def _part(self, start: int) -> Tensor:
        part = self.table[start : start + self.width]
        return part if self.part is None else self.part[: len(part)].copy_(part)

    def _own_sums(self, log_weight: Tensor) -> Tensor:
        """Block sums of the rows whose proposals have a distribution of their own."""
        own = _shaped(self.own, len(self.changed), log_weight.shape[1])
        torch.index_select(log_weight, 0, self.changed, out=own)
        return _block_sums(own.div_(self.factor[self.changed]).clamp_(min=_FLOOR).exp_())

    def _lower(self, gap: Tensor, start: int) -> None:
        """Let `low` and the argmax follow this chunk, and the sums follow `low`."""
        low = gap.amin(dim=1, keepdim=True)
        if start == 0:
            self.low, self.argmax = low, gap.argmin(dim=1)
            return
        before, self.low = self.low, torch.minimum(self.low, low)
        better = (low < before)[:, 0].nonzero()[:, 0]
        if better.numel():
            self.argmax[better] = gap[better].argmin(dim=1) + start
            fall = ((before - self.low) * self.rate).double()
            shrink = fall.neg().exp_()
            self.spread = (self.spread - fall * self.total) * shrink
            self.total *= shrink
            if self.guess is not None:
                self.guess *= shrink

    def log_total(self) -> Tensor:
        """Log-sum-exp of the tempered logits, `(N, 1)` float64."""
        return self.rate * (0.5 - self.low.double()) + self.total.log()

    def sample(self) -> Tensor:
        """The ids `(N,)` at which the proposals' cumulative distribution passes `uniform`."""
        if self.lows.shape[1] > 1:
            fall = ((self.low - self.lows) * (self.rate / self.factor)).exp_()
            fall = fall.repeat_interleave(self.width // _BLOCK, dim=1)
            self.sums *= fall[:, : self.sums.shape[1]]
        block, share = choose_block(self.sums, self.uniform)
        log_weight = self._log_weights(block).div_(self.factor)
        token = block * _BLOCK + choose_column(log_weight.exp_(), share)
        return token.clamp_(max=len(self.table) - 1)

    def _log_weights(self, block: Tensor) -> Tensor:
        """For each row those of its own block, `(N, _BLOCK)`, relative to `low`."""
        rows, vocabulary = len(self.hidden), len(self.table)
        at = block.unsqueeze(1) * _BLOCK + torch.arange(_BLOCK, device=block.device)
        if self.lows.shape[1] == 1:  # the one chunk is still there
            kept = _shaped(self.buffers[0], rows, vocabulary)
            found = kept.gather(1, at.clamp(max=vocabulary - 1))
        else:
            found = self._computed_anew(block)
        return found.masked_fill_(at >= vocabulary, -torch.inf)

    def _computed_anew(self, block: Tensor) -> Tensor:
        order = block.argsort()
        numbers, counts = block[order].unique_consecutive(return_counts=True)
        hidden, gap, first = self.hidden[order], self.hidden.new_zeros(len(block), _BLOCK), 0
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            part = self.table[number * _BLOCK : (number + 1) * _BLOCK].float()
            self._raw(hidden[first : first + count], part, gap[first : first + count, : len(part)])
            first += count
        gap = gap.sigmoid_()[order.argsort()]
        return gap.sub_(self.low).mul_(-self.rate)

    def _raw(self, hidden: Tensor, table: Tensor, out: Tensor) -> Tensor:
        """Logits before the softcap, as the sigmoid wants them."""
        return torch.addmm(out, hidden, table.t(), beta=0, alpha=-2 / self.cap, out=out)


def _expect(guess: Tensor, weight: Tensor, heavy: Tensor | None, table: Tensor) -> None:
    """Add a chunk to the expected embedding, but for rows where it would be rounded away."""
    rows = None if heavy is None else heavy[:, 0].nonzero()[:, 0]
    if rows is None or 2 * len(rows) > len(weight):
        guess.addmm_(weight, table)
    elif len(rows):
        guess.index_add_(0, rows, weight[rows] @ table)


def _shaped(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return buffer[: rows * columns].view(rows, columns)


def _block_sums(weight: Tensor) -> Tensor:
    """`(N, C)` -> `(N, ceil(C / _BLOCK))`."""
    if missing := -weight.shape[1] % _BLOCK:
        weight = torch.nn.functional.pad(weight, (0, missing))
    return weight.view(weight.shape[0], -1, _BLOCK).sum(dim=-1)
