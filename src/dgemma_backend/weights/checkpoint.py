"""A checkpoint's folder into a model. (The way back, `save`, is in `saving`.)

Everything that can be known without reading a weight is checked first: which files there are,
what their headers say, that nothing is missing and nothing left over. Then each tensor goes
straight to its place, device and dtype. The model gets its weights at the very end, all at once:
a load that fails or is interrupted leaves it as it was.

Matrices that are quantised on the way are never whole in full precision: of a layer's experts,
one at a time is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dgemma_backend.config import ModelConfig, OwnQuantization
from dgemma_backend.errors import CheckpointError, SettingError
from dgemma_backend.weights.expected import Expected, expected_tensors
from dgemma_backend.weights.formats import Planned, QuantizationFormat, plan
from dgemma_backend.weights.layout import quantizable_shapes, text_shapes
from dgemma_backend.weights.loading import Loading
from dgemma_backend.weights.placing import install, stored_matrices
from dgemma_backend.weights.reading import OpenCheckpoint, Progress, open_checkpoint
from dgemma_backend.weights.saving import save
from dgemma_backend.weights.stream import TensorReader

__all__ = ["Expected", "expected_tensors", "load_into", "save"]


def load_into(
    model: nn.Module,
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization: QuantizationFormat | None = None,
    verify: bool = True,
    progress: Progress | None = None,
) -> None:
    """Stream the weights in `folder` into `model`, which was built on the meta device.

    Args:
        model: Holds just the tensors of `layout.text_shapes`, by those names.
        dtype: Of the loaded tensors; stored ones of another floating dtype are converted.
            Matrices are quantised from the stored numbers, whatever `dtype` is.
        device: Where the loaded tensors are allocated, one by one, and quantised.
        quantization: Quantise on the way. For a folder in full precision, or one that was
            written in this very format, which is loaded as it is.
        verify: Compare each file with its sha256, where SHA256SUMS or the cache has one. Every
            byte is read then, the vision tower's too.
        progress: Called with the bytes done and the bytes in all, after each tensor.

    Host memory at the peak: the loaded tensors, if `device` is the CPU, 16 MiB, and one matrix
    or one expert's that is being quantised. Raises ConfigError, CheckpointError, or SettingError
    for a `quantization` that the folder cannot have, and leaves `model` untouched.
    """
    checkpoint = open_checkpoint(folder, verify=verify)
    _check_model(model, checkpoint)
    planned = plan_for(checkpoint.folder, checkpoint.config, quantization)
    with TensorReader(checkpoint.shards) as reader:
        loading = Loading(checkpoint, reader, dtype, torch.device(device), planned)
        checkpoint.stream(loading.targets, progress)
    loading.check_encoder_copies()
    for name, matrix in loading.matrices.items():
        install(model, name, matrix)


def plan_for(
    folder: Path | str, config: ModelConfig, quantization: QuantizationFormat | None
) -> dict[str, Planned]:
    """How the matrices in `folder` are to be quantised; empty if they are to stay as they are.

    Raises SettingError for weights that are quantised already, in another format.
    """
    stored = config.quantization
    if quantization is None:
        return {}
    if stored is None:
        return plan(quantization, quantizable_shapes(config))
    if isinstance(stored, OwnQuantization) and stored.format == quantization.name:
        return {}
    raise SettingError(
        f"quantization={quantization.name!r} is for weights in full precision, and those in "
        f"{folder} are {stored.format} already. Leave it out to use them as they are."
    )


def _check_model(model: nn.Module, checkpoint: OpenCheckpoint) -> None:
    wanted = text_shapes(checkpoint.config)
    has = {name: tuple(matrix.shape) for name, matrix in stored_matrices(model)}
    if has != wanted:
        name = min(each for each in has.keys() | wanted.keys() if has.get(each) != wanted.get(each))
        raise CheckpointError(
            f"the model was built for another config.json than the one in {checkpoint.folder}: "
            f"{name} is {has.get(name, 'absent')} in the model and {wanted.get(name, 'absent')} "
            f"there"
        )
