"""Published quantised layers, as compressed-tensors and modelopt store them, into matrices.

    8-bit floats     weight = values * scale of the row
    4-bit integers   eight codes in a 32-bit word, the first column in the lowest four bits, each
                     plus 8; weight = (code - 8) * scale of its columns
    4-bit floats     two codes in a byte, the even column in the low four bits;
                     weight = value of the code * scale of its 16 columns * scale of the layer

The rows of several layers, such as an expert's gate and up projections, are laid one after
another; their layer scales may differ, and are kept for each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dgemma_backend.config import Encoding
from dgemma_backend.errors import CheckpointError
from dgemma_kernels.quantized import Fp4Matrix, Fp8Matrix, Int4Matrix, QuantizedMatrix

Layer = Mapping[str, Tensor]  # the tensors of one linear layer by what follows its name


def assembled(
    encoding: Encoding, layers: Sequence[str], tensors: Sequence[Layer], shape: Sequence[int]
) -> QuantizedMatrix:
    """The matrix `shape (N, K)` that `layers` make up, on the device of their tensors.

    Dtypes and shapes were checked before; raises CheckpointError for scales that are not finite
    or, in NVFP4, negative, and for a noted shape that is not the layer's.
    """
    rows, columns = shape[0] // len(layers), shape[1]
    for layer, each in zip(layers, tensors, strict=True):
        _check_layer(layer, each, (rows, columns))
    try:
        return _joined(encoding, tensors, rows, columns)
    except ValueError as error:
        raise CheckpointError(f"{' and '.join(layers)}: {error}") from error


def _joined(
    encoding: Encoding, tensors: Sequence[Layer], rows: int, columns: int
) -> QuantizedMatrix:
    """The matrix of layers of `rows` each."""

    def joined(ending: str) -> Tensor:
        return torch.cat([each[ending] for each in tensors])

    if encoding.kind == "fp8":
        return Fp8Matrix(joined("weight"), joined("weight_scale").float().squeeze(-1))
    if encoding.kind == "int4":
        codes = _integers(joined("weight_packed"))[:, :columns]
        return Int4Matrix.from_codes(codes, joined("weight_scale"), encoding.group)
    whole = torch.stack([each["weight_scale_2"] for each in tensors]).repeat_interleave(rows)
    return Fp4Matrix.from_published(joined("weight"), joined("weight_scale"), whole)


def _integers(words: Tensor) -> Tensor:
    """`(N, W)` int32 words -> `(N, 8 W)` int8 codes in [-8, 7]."""
    octets = words.contiguous().view(torch.uint8)
    codes = torch.stack((octets & 15, octets >> 4), dim=-1).flatten(-2)
    return codes.to(torch.int8) - 8


def _check_layer(layer: str, tensors: Layer, shape: tuple[int, int]) -> None:
    for ending, tensor in tensors.items():
        if ending == "weight_shape" and tuple(tensor.tolist()) != shape:
            raise CheckpointError(
                f"{layer}.{ending} is {tensor.tolist()}, and config.json makes the layer {shape}. "
                f"Is config.json of another model?"
            )
        if "scale" in ending and not bool(tensor.float().isfinite().all()):
            raise CheckpointError(
                f"{layer}.{ending} holds NaN or infinity: the weights are damaged. Fetch them "
                f"again."
            )
