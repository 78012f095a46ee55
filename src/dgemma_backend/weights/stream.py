"""Bytes of safetensors files into tensors, a piece at a time.

Only one buffer of PIECE bytes stands between the file and the tensor, whatever its device and
dtype: host memory never holds a tensor that is on its way elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Self

import torch
from torch import Tensor

from dgemma_backend.errors import CheckpointError
from dgemma_backend.weights.shards import Shard, Stored, open_shard

PIECE = 16 << 20  # bytes; larger ones load no faster
TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
}
STORED_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


class ShardStream:
    """An open shard, read from its first byte to its last, and hashed on the way if asked."""

    def __init__(self, shard: Shard, file: BinaryIO, *, hashed: bool) -> None:
        self.shard = shard
        self.digest = hashlib.sha256() if hashed else None
        self._file = file
        self._buffer = memoryview(bytearray(PIECE))
        if os.fstat(file.fileno()).st_size != shard.size:
            raise _changed(shard)

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`, each piece valid until the next is asked for."""
        while start < stop:
            piece = self._buffer[: min(PIECE, stop - start)]
            _fill_bytes(piece, self._file, self.shard, start)
            if self.digest is not None:
                self.digest.update(piece)
            yield piece
            start += len(piece)


def read_tensors(
    shard: Shard,
    targets_of: Callable[[str, Stored], Iterator[Tensor]],
    *,
    hashed: bool,
    tell: Callable[[int], None],
) -> str | None:
    """Copy the tensors of `shard` into those that `targets_of` names, in the order of the file.

    The targets of a tensor are filled one after another; each is contiguous, and may be of any
    dtype and on any device. The next is asked for when one is full. None at all passes the
    tensor over. `tell` gets the bytes of each tensor when it is done. Returns the file's sha256
    if `hashed`. Raises CheckpointError for a file that cannot be read or changed.
    """
    with _opened(shard) as file:
        stream = ShardStream(shard, file, hashed=hashed)
        first = min((each.start for each in shard.tensors.values()), default=shard.size)
        _pass_over(stream, 0, first)
        for name, stored in shard.tensors.items():
            start = stored.start
            for target in targets_of(name, stored):
                start = _fill_tensor(target, stream, stored.dtype, start)
            _pass_over(stream, start, stored.stop)
            tell(stored.bytes)
    return None if stream.digest is None else stream.digest.hexdigest()


def _pass_over(stream: ShardStream, start: int, stop: int) -> None:
    """Read bytes that nobody wants for the hash, or do not read them at all."""
    if stream.digest is not None:
        for _ in stream.pieces(start, stop):
            pass


def _fill_tensor(target: Tensor, stream: ShardStream, dtype: str, start: int) -> int:
    """Fill `target` with the values from byte `start` on; returns where the next ones begin."""
    flat, done, of = target.view(-1), 0, TORCH_DTYPES[dtype]
    stop = start + flat.numel() * of.itemsize
    for piece in stream.pieces(start, stop):
        values = torch.frombuffer(piece, dtype=of)
        flat[done : done + len(values)].copy_(values)
        done += len(values)
    return stop


class TensorReader:
    """Single tensors out of any shard, whenever they are needed. Closes its files at exit."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = {name: shard for shard in shards for name in shard.tensors}
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def read(self, name: str) -> Tensor:
        """The stored tensor `name`, as it is stored. Raises CheckpointError as `read_tensors`."""
        shard = self._shards[name]
        stored = shard.tensors[name]
        raw = bytearray(stored.bytes)
        if shard.name not in self._files:
            self._files[shard.name] = _opened(shard)
        _fill_bytes(memoryview(raw), self._files[shard.name], shard, stored.start)
        if not raw:
            return torch.empty(stored.shape, dtype=TORCH_DTYPES[stored.dtype])
        return torch.frombuffer(raw, dtype=TORCH_DTYPES[stored.dtype]).view(stored.shape)


def _opened(shard: Shard) -> BinaryIO:
    with _explained(shard):
        return open_shard(shard.path)


def _fill_bytes(piece: memoryview, file: BinaryIO, shard: Shard, start: int) -> None:
    """Fill `piece` with the bytes of `file` from `start` on."""
    with _explained(shard):
        file.seek(start)
        while piece:
            count = file.readinto(piece)  # type: ignore[attr-defined]
            if not count:
                raise _changed(shard)
            piece = piece[count:]


@contextmanager
def _explained(shard: Shard) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{shard.path} cannot be read: {error.strerror or error}") from error


def _changed(shard: Shard) -> CheckpointError:
    return CheckpointError(f"{shard.path} changed while it was read. Is a download still running?")
