"""Formats of quantised weights: which matrix of a model is stored how.

A format is asked for by name (`quantization="int4"`, `dgemma quantize --format int4`) and comes
in through the plugin hook `dgemma_quantizations`, ours like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dgemma_backend.config import Encoding
from dgemma_backend.errors import CheckpointError, PluginError
from dgemma_backend.weights.encodings import Quantize, encoding_of, quantizer
from dgemma_kernels.quantized import QuantizedMatrix

_EXPERTS = re.compile(r"layers\.\d+\.experts\.(gate_up|down)_proj")
_DENSE = re.compile(r"layers\.\d+\.(self_attn|mlp)\.[a-z]+_proj\.weight")
INT4, FP8 = Encoding("int4", 64), Encoding("fp8", 0)


class QuantizationFormat(Protocol):
    """Which matrices to quantise, and how. `hookspecs.QuantizationRecord` tells more."""

    @property
    def name(self) -> str:
        """What users ask for, and what a folder written in this format says of itself."""

    def matrix_for(self, name: str) -> Quantize | None:
        """What quantises the model's matrix `name`, None to leave it in full precision."""


class Int4:
    """Experts in 4 bits with a scale for 64 columns, attention and dense MLP in 8 bits."""

    name = "int4"

    def matrix_for(self, name: str) -> Quantize | None:
        """What quantises the model's matrix `name`, None to leave it in full precision."""
        if _EXPERTS.fullmatch(name):
            return quantizer(INT4)
        return quantizer(FP8) if _DENSE.fullmatch(name) else None


class Fp8:
    """Experts, attention and dense MLP as 8-bit floats with a scale a row."""

    name = "fp8"

    def matrix_for(self, name: str) -> Quantize | None:
        """What quantises the model's matrix `name`, None to leave it in full precision."""
        return quantizer(FP8) if _EXPERTS.fullmatch(name) or _DENSE.fullmatch(name) else None


class Planned(NamedTuple):
    """How a format encodes one matrix of a model, and what does it."""

    format: str
    matrix: str
    encoding: Encoding
    make: Quantize

    def quantized(self, dense: Tensor) -> QuantizedMatrix:
        """Encode `dense (N, K)`: the whole matrix, or one expert's.

        Raises CheckpointError for weights that cannot be quantised, PluginError for another
        encoding than was planned.
        """
        try:
            made = self.make(dense)
        except ValueError as error:
            raise CheckpointError(f"{self.matrix} cannot be quantised: {error}") from error
        if encoding_of(made) != self.encoding or made.shape != dense.shape:
            raise PluginError(
                f"the quantization format {self.format!r} made {self.matrix} of "
                f"{tuple(dense.shape)} a {type(made).__name__}{tuple(made.shape)}, and promised "
                f"{self.encoding.kind} of the same shape"
            )
        return made


def plan(format: QuantizationFormat, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Planned]:
    """How `format` encodes each of these matrices; those it leaves alone are absent.

    Raises PluginError for a matrix of a class that the kernels do not take.
    """
    found: dict[str, Planned] = {}
    known: dict[tuple[Quantize, int], Encoding] = {}
    for name, shape in shapes.items():
        make = format.matrix_for(name)
        if make is None:
            continue
        key = make, shape[-1]
        if key not in known:
            known[key] = _encoding_made(format, name, make, shape[-1])
        found[name] = Planned(format.name, name, known[key], make)
    return found


def _encoding_made(format: QuantizationFormat, name: str, make: Quantize, columns: int) -> Encoding:
    made = make(torch.zeros(1, columns))
    encoding = encoding_of(made)
    if encoding is None:
        raise PluginError(
            f"the quantization format {format.name!r} makes {name} a {type(made).__name__}, must "
            f"be a Fp8Matrix, Int4Matrix or Fp4Matrix of dgemma_kernels.quantized"
        )
    return encoding
