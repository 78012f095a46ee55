"""Bytes of a safetensors file into tensors, and tensors into such a file, a piece at a time.

Only one buffer of PIECE bytes stands between the file and the tensor, whatever its device and
dtype: host memory never holds a tensor that is on its way elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

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
            raise self._changed()

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`, each piece valid until the next is asked for."""
        self._file.seek(start)
        while start < stop:
            piece = self._buffer[: min(PIECE, stop - start)]
            self._fill(piece)
            if self.digest is not None:
                self.digest.update(piece)
            yield piece
            start += len(piece)

    def _fill(self, piece: memoryview) -> None:
        while piece:
            count = self._file.readinto(piece)  # type: ignore[attr-defined]
            if not count:
                raise self._changed()
            piece = piece[count:]

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            f"{self.shard.path} changed while it was read. Is a download still running?"
        )


def read_tensors(
    shard: Shard,
    target_of: Callable[[str, Stored], Tensor | None],
    *,
    hashed: bool,
    tell: Callable[[int], None],
) -> str | None:
    """Copy the tensors of `shard` into those that `target_of` names, in the order of the file.

    A target has the stored shape, is contiguous, and may be of any dtype and on any device; None
    passes a tensor over. `tell` gets the bytes of each tensor when it is done. Returns the
    file's sha256 if `hashed`. Raises CheckpointError for a file that cannot be read or changed.
    """
    try:
        with open_shard(shard.path) as file:
            stream = ShardStream(shard, file, hashed=hashed)
            first = min((each.start for each in shard.tensors.values()), default=shard.size)
            for _ in stream.pieces(0, first if hashed else 0):
                pass  # the header, for the hash
            for name, stored in shard.tensors.items():
                target = target_of(name, stored)
                if target is not None:
                    _fill_tensor(target, stream, stored)
                elif hashed:
                    for _ in stream.pieces(stored.start, stored.stop):
                        pass
                tell(stored.stop - stored.start)
    except OSError as error:
        raise CheckpointError(f"{shard.path} cannot be read: {error.strerror or error}") from error
    return None if stream.digest is None else stream.digest.hexdigest()


def _fill_tensor(target: Tensor, stream: ShardStream, stored: Stored) -> None:
    flat, done = target.view(-1), 0
    for piece in stream.pieces(stored.start, stored.stop):
        values = torch.frombuffer(piece, dtype=TORCH_DTYPES[stored.dtype])
        flat[done : done + len(values)].copy_(values)
        done += len(values)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write `tensors`, as `dtype`, into a safetensors file that must not exist yet.

    The file is complete on disk when this returns.
    """
    width, end = dtype.itemsize, 0
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    for name, tensor in sorted(tensors.items()):
        begin, end = end, end + tensor.numel() * width
        header[name] = {
            "dtype": STORED_DTYPES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # tensors begin at a multiple of eight
    with open(path, "xb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for _, tensor in sorted(tensors.items()):
            _write_tensor(file, tensor.detach(), dtype)
        file.flush()
        os.fsync(file.fileno())


def _write_tensor(file: BinaryIO, tensor: Tensor, dtype: torch.dtype) -> None:
    flat = tensor.reshape(-1)
    step = PIECE // dtype.itemsize
    buffer = bytearray(min(PIECE, flat.numel() * dtype.itemsize))
    for start in range(0, flat.numel(), step):
        values = flat[start : start + step]
        piece = memoryview(buffer)[: len(values) * dtype.itemsize]
        torch.frombuffer(piece, dtype=dtype).copy_(values)
        file.write(piece)
