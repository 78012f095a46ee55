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
    rows, vocabulary = hidden.shape[0], table.shape[0]
    width = _chunk_columns(rows, vocabulary)
    scan = _Scan(hidden.float(), cap, draws, width, guess=guess)
    for start in range(0, vocabulary, width):
        scan.take(start, table[start : start + width].float())
    expected = None if scan.guess is None else scan.guess.div_(scan.total).to(table.dtype)
    return VocabularyPass(
        argmax=scan.argmax,
        sample=torch.where(draws.proposal == 0, scan.argmax, scan.sample(table)),
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

    def __init__(
        self, hidden: Tensor, cap: float, draws: Draws, width: int, *, guess: bool
    ) -> None:
        rows = hidden.shape[0]
        self.hidden, self.cap, self.uniform = hidden, cap, draws.uniform
        self.rate = 2 * cap / draws.temperature.unsqueeze(1)
        # A row with factor 0 draws its argmax: what else is found for it does not matter.
        self.factor = torch.where(draws.proposal == 0, 1.0, draws.proposal).unsqueeze(1)
        self.changed = (self.factor[:, 0] != 1).nonzero()[:, 0]
        self.low = hidden.new_ones(rows, 1)  # the smallest gap so far
        self.argmax = torch.zeros(rows, dtype=torch.int64, device=hidden.device)
        self.finite = torch.ones(rows, dtype=torch.bool, device=hidden.device)
        self.total = hidden.new_zeros(rows, 1, dtype=torch.float64)
        self.spread = torch.zeros_like(self.total)  # sum of weight * log(weight)
        self.guess = torch.zeros_like(hidden) if guess else None
        self.blocks: list[tuple[Tensor, Tensor]] = []  # a chunk's block sums and its `low`
        self.buffers = hidden.new_empty(2, rows * width)

    def take(self, start: int, table: Tensor) -> None:
        """Add the chunk `(C, D)` of the table that begins at row `start`."""
        shape = self.hidden.shape[0], table.shape[0]
        gap, weight = (each[: shape[0] * shape[1]].view(shape) for each in self.buffers)
        self._raw(self.hidden, table, gap)
        self.finite &= (gap.amax(dim=1) - gap.amin(dim=1)).isfinite()
        self._lower(gap.sigmoid_(), start)
        log_weight = gap.sub_(self.low).mul_(-self.rate)
        torch.exp(log_weight, out=weight)
        sums = _block_sums(weight)
        mass = sums.sum(dim=1, keepdim=True)
        self.total += mass
        self.spread += torch.linalg.vecdot(weight, log_weight).unsqueeze(1)
        if self.guess is not None:
            self._expect(weight, mass, table, self.guess)
        if self.changed.numel():
            own = log_weight[self.changed].div_(self.factor[self.changed]).exp_()
            sums[self.changed] = _block_sums(own)
        self.blocks.append((sums, self.low))

    def _lower(self, gap: Tensor, start: int) -> None:
        """Let `low` and the argmax follow this chunk, and the sums follow `low`."""
        before, low = self.low, gap.amin(dim=1, keepdim=True)
        if not self.blocks:
            self.low, self.argmax = low, gap.argmin(dim=1)
            return
        self.low = torch.minimum(before, low)
        better = (low < before)[:, 0].nonzero()[:, 0]
        if better.numel():
            self.argmax[better] = gap[better].argmin(dim=1) + start
            fall = ((before - self.low) * self.rate).double()
            shrink = fall.neg().exp_()
            self.spread = (self.spread - fall * self.total) * shrink
            self.total *= shrink
            if self.guess is not None:
                self.guess *= shrink

    def _expect(self, weight: Tensor, mass: Tensor, table: Tensor, guess: Tensor) -> None:
        """Add the chunk's share of the expected embedding, unless it would be rounded away."""
        heavy = (mass > self.total * _NEGLIGIBLE)[:, 0].nonzero()[:, 0] if self.blocks else None
        if heavy is None or 2 * heavy.numel() > len(weight):
            guess.addmm_(weight, table)
        elif heavy.numel():
            guess.index_add_(0, heavy, weight[heavy] @ table)

    def log_total(self) -> Tensor:
        """Log-sum-exp of the tempered logits, `(N, 1)` float64."""
        return self.rate * (0.5 - self.low.double()) + self.total.log()

    def sample(self, table: Tensor) -> Tensor:
        """The ids `(N,)` at which the proposals' cumulative distribution passes `uniform`."""
        rate = self.rate / self.factor
        sums = [each * ((self.low - low) * rate).exp_() for each, low in self.blocks]
        block, share = choose_block(torch.cat(sums, dim=1), self.uniform)
        log_weight = self._log_weights(table, block).div_(self.factor)
        token = block * _BLOCK + choose_column(log_weight.exp_(), share)
        return token.clamp_(max=table.shape[0] - 1)

    def _log_weights(self, table: Tensor, block: Tensor) -> Tensor:
        """For each row those of its own block, `(N, _BLOCK)`, relative to `low`."""
        rows, vocabulary = self.hidden.shape[0], table.shape[0]
        at = block.unsqueeze(1) * _BLOCK + torch.arange(_BLOCK, device=block.device)
        if len(self.blocks) == 1:  # the chunk is still there
            kept = self.buffers[0, : rows * vocabulary].view(rows, vocabulary)
            found = kept.gather(1, at.clamp(max=vocabulary - 1))
        else:
            found = self._computed_anew(table, block)
        return found.masked_fill_(at >= vocabulary, -torch.inf)

    def _computed_anew(self, table: Tensor, block: Tensor) -> Tensor:
        order = block.argsort()
        numbers, counts = block[order].unique_consecutive(return_counts=True)
        hidden, gap, first = self.hidden[order], self.hidden.new_zeros(len(block), _BLOCK), 0
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            part = table[number * _BLOCK : (number + 1) * _BLOCK].float()
            self._raw(hidden[first : first + count], part, gap[first : first + count, : len(part)])
            first += count
        gap = gap.sigmoid_()[order.argsort()]
        return gap.sub_(self.low).mul_(-self.rate)

    def _raw(self, hidden: Tensor, table: Tensor, out: Tensor) -> Tensor:
        """Logits before the softcap, as the sigmoid wants them."""
        return torch.addmm(out, hidden, table.t(), beta=0, alpha=-2 / self.cap, out=out)


def _block_sums(weight: Tensor) -> Tensor:
    """`(N, C)` -> `(N, ceil(C / _BLOCK))`."""
    if missing := -weight.shape[1] % _BLOCK:
        weight = torch.nn.functional.pad(weight, (0, missing))
    return weight.view(weight.shape[0], -1, _BLOCK).sum(dim=-1)
