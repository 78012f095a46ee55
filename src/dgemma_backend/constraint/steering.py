"""How a constraint takes part in the denoising of a canvas.

At commit it decides: the ids are the best accepted path under the last step's logits, whatever
the steps did. `steering` says what it does before:

- "off": nothing. The canvas is denoised as if there were no constraint.
- "joint": proposals are one accepted string, drawn from the distribution over all of them. The
  positions that the sampler accepts are part of it, so what is accepted can always be completed.
  Positions are accepted by the entropies of the model's own distribution.
- "constrained": as "joint", but accepted by the exact entropies of accepted strings. Literals are
  certain from the first step on, so more is accepted sooner, and lengths settle early too.

In both, a canvas is finished by what would be committed: the best path has to be stable, and the
constrained entropies low.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgemma_backend.constraint.decode import ConstrainedAnswer
from dgemma_backend.constraint.paths import Floats
from dgemma_backend.constraint.paths_sum import PathSums
from dgemma_backend.constraint.pins import forced_tokens
from dgemma_kernels import ClassMaxima, ClassOrder, ClassStatistics, Draws, VocabularyPass

Mode = Literal["off", "joint", "constrained"]


class ClassLogits(Protocol):
    """A canvas' logits, as far as a constraint looks at them."""

    def class_maxima(self, order: ClassOrder) -> ClassMaxima:
        """The best token of each class, `(L, C)`."""

    def class_statistics(self, order: ClassOrder, draws: Draws) -> ClassStatistics:
        """Sums, entropies and samples of each class, `(L, C)`."""


@dataclass
class GuidedStep:
    """What a constraint makes of a step, each `(L,)` on the logits' device."""

    draft: Tensor  # int64 ids: the best accepted path, what would be committed now
    proposal: Tensor  # int64 ids: one accepted string
    entropy: Tensor  # float32 nats, by which positions are accepted
    doubt: Tensor  # float32 nats, constrained: how unsure the canvas is


class Steering:
    """The constraint of one answer at work on its canvases, one after the other.

    `order` is the `class_order` of the automaton's `class_of` on the logits' device.
    """

    def __init__(self, answer: ConstrainedAnswer, order: ClassOrder, steering: Mode) -> None:
        self.answer = answer
        self.mode = steering
        self.steers = steering != "off"
        self._order = order

    def pinned(self, length: int) -> Tensor:
        """Tokens `(L,)` that the next canvas holds in any case, -1 where it is free.

        Every accepted string has them, so no step needs to look for them.
        """
        answer = self.answer
        found = forced_tokens(answer.tables, answer.state, length, answer.after(length))
        return torch.from_numpy(found).to(self._order.token.device)

    def step(
        self, logits: ClassLogits, found: VocabularyPass, draws: Draws, inner: Tensor
    ) -> GuidedStep:
        """One step's draft, proposals and entropies.

        `draws` are the step's own: `uniform` chooses the class of a position, `inner (L,)`,
        float64 in (0, 1), the token inside it. With temperature 0 the proposals are the draft.
        Logits that are not finite are handed back as `found` has them, for the caller to report.
        """
        statistics = logits.class_statistics(self._order, draws._replace(uniform=inner))
        statistics = ClassStatistics(*(each.cpu() for each in statistics))
        if not bool(statistics.finite.all()):
            return GuidedStep(found.argmax, found.sample, found.entropy, found.entropy)
        draft, proposal, doubt = self._strings(statistics, Draws(*(each.cpu() for each in draws)))
        device = found.entropy.device
        unsure = torch.from_numpy(doubt.astype(np.float32)).to(device)
        return GuidedStep(
            draft=torch.from_numpy(draft).to(device),
            proposal=torch.from_numpy(proposal).to(device),
            entropy=found.entropy if self.mode == "joint" else unsure,
            doubt=unsure,
        )

    def _strings(
        self, statistics: ClassStatistics, draws: Draws
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """The best string, one drawn at the proposals' temperature, entropies at the step's."""
        answer, length = self.answer, len(statistics.logit)
        left, factor = answer.after(length), float(draws.proposal[0])
        draft = answer.best(statistics.logit.numpy(), statistics.token.numpy())
        sums = PathSums(answer.tables, answer.state, statistics.log_total, left)
        doubt = sums.entropies(statistics.entropy)
        if factor == 0:
            return draft, draft, doubt
        if factor != 1:
            sums = PathSums(answer.tables, answer.state, statistics.log_proposal, left)
        classes = sums.sample(draws.uniform)
        return draft, statistics.sample.numpy()[np.arange(length), classes], doubt

    def commit(self, logits: ClassLogits) -> list[int]:
        """The best accepted path under the last step's logits."""
        maxima = logits.class_maxima(self._order)
        return self.answer.commit(maxima.logit.cpu().numpy(), maxima.token.cpu().numpy())
