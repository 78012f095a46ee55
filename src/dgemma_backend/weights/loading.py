"""The tensors of one load, while they are not the model's yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dgemma_backend.errors import CheckpointError
from dgemma_backend.weights.encodings import empty_matrix
from dgemma_backend.weights.expected import OwnPart, PublishedPart, encodings, layer_tensors
from dgemma_backend.weights.formats import Planned
from dgemma_backend.weights.layout import DECODER, ENCODER_TEXT, quantizable_shapes
from dgemma_backend.weights.published import assembled
from dgemma_backend.weights.reading import OpenCheckpoint, indices
from dgemma_backend.weights.shards import Stored
from dgemma_backend.weights.stream import TORCH_DTYPES, TensorReader
from dgemma_kernels.quantized import QuantizedMatrix


class Loading:
    """Says where each stored tensor goes; `matrices` has them all in the end.

    `planned` matrices are quantised on the way. Matrices that are quantised, here or in the
    files, are allocated at once.
    """

    def __init__(
        self,
        checkpoint: OpenCheckpoint,
        reader: TensorReader,
        dtype: torch.dtype,
        device: torch.device,
        planned: Mapping[str, Planned],
    ) -> None:
        self.matrices: dict[str, Tensor | QuantizedMatrix] = {}
        self._copies: dict[str, Tensor] = {}
        self._checkpoint, self._reader = checkpoint, reader
        self._dtype, self._device = dtype, device
        self._planned = planned
        shapes = quantizable_shapes(checkpoint.config)
        found = {name: each.encoding for name, each in planned.items()}
        self._quantized = {
            name: empty_matrix(encoding, shapes[name], device)
            for name, encoding in (found or encodings(checkpoint.config)).items()
        }
        self.matrices.update(self._quantized)

    def targets(self, name: str, stored: Stored) -> Iterator[Tensor]:
        """Where the stored tensor `name` goes, nothing for one that is known but not loaded."""
        expected, short = self._checkpoint.expected[name], name.removeprefix(DECODER)
        if isinstance(expected.place, OwnPart):
            yield self._quantized[expected.place.matrix].parts[expected.place.part]
        elif isinstance(expected.place, PublishedPart):
            self._assemble(expected.place)
        elif expected.role == "encoder copy":
            copy = torch.empty(stored.shape, dtype=torch.float64, device="cpu")
            self._copies[name.removeprefix(ENCODER_TEXT)] = copy
            yield copy
        elif short in self._planned:
            yield from self._quantize(short, stored)
        elif expected.role == "model":
            place = torch.empty(stored.shape, dtype=self._dtype, device=self._device)
            self.matrices[short] = place
            yield place

    def _quantize(self, name: str, stored: Stored) -> Iterator[Tensor]:
        """A buffer for the matrix, or for one expert's, as often as there are experts."""
        *leading, rows, columns = stored.shape
        buffer = torch.empty(rows, columns, dtype=TORCH_DTYPES[stored.dtype])
        for index in indices(leading):
            yield buffer
            self._put(name, index, self._planned[name].quantized(buffer.to(self._device)))

    def _assemble(self, part: PublishedPart) -> None:
        """A published matrix, or one expert's, all of whose tensors are read here and now."""
        rows, columns = self._quantized[part.matrix].shape[-2:]
        endings = layer_tensors(part.encoding, rows, columns)
        tensors = [
            {ending: self._reader.read(f"{layer}.{ending}").to(self._device) for ending in endings}
            for layer in part.layers
        ]
        found = assembled(part.encoding, part.layers, tensors, (rows, columns))
        self._put(part.matrix, part.expert, found)

    def _put(self, name: str, index: tuple[int, ...], matrix: QuantizedMatrix) -> None:
        for part, whole in self._quantized[name].parts.items():
            whole[index].copy_(matrix.parts[part])

    def check_encoder_copies(self) -> None:
        """Raise CheckpointError unless encoder and decoder scale every layer alike."""
        for name, copy in self._copies.items():
            ours = self.matrices[name]
            assert isinstance(ours, Tensor)
            theirs = copy.to(self._dtype)
            if not torch.equal(ours.to("cpu"), theirs):
                raise CheckpointError(
                    f"{self._checkpoint.folder}: {ENCODER_TEXT}{name} is {theirs.item()} and "
                    f"{DECODER}{name} is {ours.item()}. They are one number, stored twice: the "
                    f"weights are damaged or were trained by a program that took them apart."
                )
