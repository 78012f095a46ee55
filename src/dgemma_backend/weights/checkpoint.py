"""A checkpoint's folder into a model. (The way back, `save`, is in `saving`.)

Everything that can be known without reading a weight is checked first: which files there are,
what their headers say, that nothing is missing and nothing left over. Then each tensor goes
straight to its place, device and dtype. The model gets its weights at the very end, all at once:
a load that fails or is interrupted leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dgemma_backend.config import ModelConfig
from dgemma_backend.config.reader import file_in
from dgemma_backend.errors import CheckpointError
from dgemma_backend.weights.comparison import check_tensors
from dgemma_backend.weights.layout import DECODER, ENCODER_TEXT, Expected, expected_tensors
from dgemma_backend.weights.manifest import (
    compare_digest,
    digest_of,
    expected_digest,
    read_manifest,
)
from dgemma_backend.weights.saving import save
from dgemma_backend.weights.shards import Shard, Stored, read_shards
from dgemma_backend.weights.stream import read_tensors

__all__ = ["Expected", "expected_tensors", "load_into", "save"]

Progress = Callable[[int, int], None]


def load_into(
    model: nn.Module,
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    verify: bool = True,
    progress: Progress | None = None,
) -> None:
    """Stream the weights in `folder` into `model`, which was built on the meta device.

    Args:
        model: Holds just the tensors of `layout.text_shapes`, by those names.
        dtype: Of the loaded tensors; stored ones of another floating dtype are converted.
        device: Where the loaded tensors are allocated, one by one.
        verify: Compare each file with its sha256, where SHA256SUMS or the cache has one. Every
            byte is read then, the vision tower's too.
        progress: Called with the bytes done and the bytes in all, after each tensor.

    Host memory at the peak: the loaded tensors, if `device` is the CPU, and 16 MiB. Raises
    ConfigError or CheckpointError and leaves `model` untouched.
    """
    folder = Path(folder)
    expected = expected_tensors(ModelConfig.from_folder(folder))
    shards = read_shards(folder)
    check_tensors(folder, expected, shards)
    _check_model(model, expected, folder)
    sums = read_manifest(folder) if verify else None
    digests = [
        expected_digest(shard.path, shard.name, sums) if verify else None for shard in shards
    ]
    _verify_other_files(folder, sums, shards)
    loading = _Loading(expected, dtype, torch.device(device))
    total = sum(each.stop - each.start for shard in shards for each in shard.tensors.values())
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for shard, wanted in zip(shards, digests, strict=True):
        found = read_tensors(shard, loading.target, hashed=wanted is not None, tell=tell)
        compare_digest(shard.path, wanted, found)
    loading.check_encoder_copies(folder)
    model.load_state_dict(loading.tensors, strict=True, assign=True)


class _Loading:
    """The tensors of one load, while they are not the model's yet."""

    def __init__(
        self, expected: Mapping[str, Expected], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._copies: dict[str, Tensor] = {}
        self._expected = expected
        self._dtype, self._device = dtype, device

    def target(self, name: str, stored: Stored) -> Tensor | None:
        """Where the stored tensor `name` goes, None for one that is known but not loaded."""
        role = self._expected[name].role
        if role == "vision":
            return None
        if role == "encoder copy":
            place = torch.empty(stored.shape, dtype=torch.float64, device="cpu")
            self._copies[name.removeprefix(ENCODER_TEXT)] = place
            return place
        place = torch.empty(stored.shape, dtype=self._dtype, device=self._device)
        self.tensors[name.removeprefix(DECODER)] = place
        return place

    def check_encoder_copies(self, folder: Path) -> None:
        """Raise CheckpointError unless encoder and decoder scale every layer alike."""
        for name, copy in self._copies.items():
            ours = self.tensors[name].to("cpu")
            theirs = copy.to(self._dtype)
            if not torch.equal(ours, theirs):
                raise CheckpointError(
                    f"{folder}: {ENCODER_TEXT}{name} is {theirs.item()} and {DECODER}{name} is "
                    f"{ours.item()}. They are one number, stored twice: the weights are damaged "
                    f"or were trained by a program that took them apart."
                )


def _check_model(model: nn.Module, expected: Mapping[str, Expected], folder: Path) -> None:
    wanted = {
        name.removeprefix(DECODER): each.shape
        for name, each in expected.items()
        if each.role == "model"
    }
    has = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if has != wanted:
        name = min(each for each in has.keys() | wanted.keys() if has.get(each) != wanted.get(each))
        raise CheckpointError(
            f"the model was built for another config.json than the one in {folder}: {name} is "
            f"{has.get(name, 'absent')} in the model and {wanted.get(name, 'absent')} there"
        )


def _verify_other_files(folder: Path, sums: Mapping[str, str] | None, shards: list[Shard]) -> None:
    """Hash what the manifest names beside the shards; those are hashed while they are read."""
    for name, wanted in (sums or {}).items():
        if not any(shard.name == name for shard in shards):
            path = file_in(folder, name)
            compare_digest(path, wanted, digest_of(path))
