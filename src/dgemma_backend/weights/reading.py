"""A checkpoint's folder, opened: all that can be known without reading a weight, then the weights.

Weights are read in the order of their bytes, each file once and hashed on the way. What is found
missing, left over, damaged or of another shape before that needs no weight to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from torch import Tensor

from dgemma_backend.config import ModelConfig
from dgemma_backend.config.reader import file_in
from dgemma_backend.weights.comparison import check_tensors
from dgemma_backend.weights.expected import Expected, expected_tensors
from dgemma_backend.weights.manifest import (
    compare_digest,
    digest_of,
    expected_digest,
    read_manifest,
)
from dgemma_backend.weights.shards import Shard, Stored, read_shards
from dgemma_backend.weights.stream import read_tensors

Progress = Callable[[int, int], None]
#: For a stored tensor the buffers it fills, one after another; a generator goes on with what it
#: does with a buffer when it is asked for the next. None at all passes the tensor over.
Targets = Callable[[str, Stored], Iterator[Tensor]]


@dataclass(frozen=True)
class OpenCheckpoint:
    """A folder whose files are whole and hold just what its config.json asks for.

    `digests` has what each shard must hash to, None where nobody says.
    """

    folder: Path
    config: ModelConfig
    expected: Mapping[str, Expected]
    shards: Sequence[Shard]
    sums: Mapping[str, str] | None
    digests: Sequence[str | None]

    @property
    def bytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(each.bytes for shard in self.shards for each in shard.tensors.values())

    def stream(self, targets: Targets, progress: Progress | None = None) -> None:
        """Read all weights into what `targets` names, and compare all files with their hashes.

        Raises CheckpointError for a file that cannot be read, or is not the one it should be;
        what was read until then is not to be trusted.
        """
        self._verify_other_files()
        total, done = self.bytes, 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        for shard, wanted in zip(self.shards, self.digests, strict=True):
            found = read_tensors(shard, targets, hashed=wanted is not None, tell=tell)
            compare_digest(shard.path, wanted, found)

    def _verify_other_files(self) -> None:
        """Hash what the manifest names beside the shards; those are hashed while they are read."""
        for name, wanted in (self.sums or {}).items():
            if not any(shard.name == name for shard in self.shards):
                path = file_in(self.folder, name)
                compare_digest(path, wanted, digest_of(path))


def open_checkpoint(folder: Path, *, verify: bool = True) -> OpenCheckpoint:
    """Check config.json and the headers of all weight files in `folder`.

    With `verify`, files are compared with their sha256 where SHA256SUMS or the cache has one.
    Raises ConfigError or CheckpointError.
    """
    folder = Path(folder)
    config = ModelConfig.from_folder(folder)
    expected = expected_tensors(config)
    shards = read_shards(folder)
    check_tensors(folder, expected, shards)
    sums = read_manifest(folder) if verify else None
    digests = [
        expected_digest(shard.path, shard.name, sums) if verify else None for shard in shards
    ]
    return OpenCheckpoint(folder, config, expected, shards, sums, digests)


def indices(leading: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every index into axes of these sizes, in the order of memory; one empty one into none."""
    return product(*map(range, leading))
