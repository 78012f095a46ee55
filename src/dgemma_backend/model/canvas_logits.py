"""What a denoising pass says of each canvas position, before it is written out."""

from torch import Tensor

from dgemma_backend.model.embedding import Embedding
from dgemma_kernels import ClassMaxima, ClassOrder, ClassStatistics, Draws, VocabularyPass


class CanvasLogits:
    """Logits over the vocabulary, held as final hidden states and the output matrix.

    Written out, the logits of one canvas are a quarter of a gigabyte at the real size; a
    denoising step needs only what one pass over them yields.
    """

    def __init__(self, hidden: Tensor, embedding: Embedding) -> None:
        self.hidden = hidden  # (..., hidden), after the final norm
        self._embedding = embedding

    def __getitem__(self, row: int | slice | Tensor) -> "CanvasLogits":
        return CanvasLogits(self.hidden[row], self._embedding)

    def dense(self) -> Tensor:
        """`(..., V)` float32, softcapped, no temperature applied; a fresh tensor."""
        return self._embedding.logits(self.hidden)

    def vocabulary_pass(self, draws: Draws, *, guess: bool) -> VocabularyPass:
        """Statistics of all positions, one row each, `(N,)`; `draws` has as many rows.

        With `guess`, also the expected embedding `(N, hidden)`, scaled as an embedding is: the
        self-conditioning signal of the next step.
        """
        return self._embedding.vocabulary_pass(self.hidden.flatten(0, -2), draws, guess=guess)

    def class_maxima(self, order: ClassOrder) -> ClassMaxima:
        """The best token of each class at all positions, `(N, C)`."""
        return self._embedding.class_maxima(self.hidden.flatten(0, -2), order)

    def class_statistics(self, order: ClassOrder, draws: Draws) -> ClassStatistics:
        """What a constraint needs of each class at all positions, `(N, C)`; `draws` has N rows."""
        return self._embedding.class_statistics(self.hidden.flatten(0, -2), order, draws)
