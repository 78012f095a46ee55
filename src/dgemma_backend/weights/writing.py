"""Tensors into safetensors files, a piece at a time and in any order.

A file is laid out before its first byte is written: which tensors it holds is known, and so is
where each begins. So a matrix whose parts lie far apart can be written expert by expert.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from dgemma_backend.weights.shards import SINGLE_FILE
from dgemma_backend.weights.stream import PIECE, TORCH_DTYPES


class StoredAs(NamedTuple):
    """How a tensor will be stored: its dtype, as files name it, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """How many bytes it takes."""
        return math.prod(self.shape) * TORCH_DTYPES[self.dtype].itemsize


class TensorFile:
    """A safetensors file that must not exist yet, open for writing.

    The file is complete on disk after `finish`, which must be called, or the file thrown away.
    """

    def __init__(self, path: Path, planned: Mapping[str, StoredAs]) -> None:
        self._planned = dict(sorted(planned.items()))
        self._missing = {name: each.bytes for name, each in self._planned.items()}
        self._starts: dict[str, int] = {}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
        end = 0
        for name, each in self._planned.items():
            begin, end = end, end + each.bytes
            self._starts[name] = begin
            shape = list(each.shape)
            header[name] = {"dtype": each.dtype, "shape": shape, "data_offsets": [begin, end]}
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)  # tensors begin at a multiple of eight
        self._origin = 8 + len(raw)
        self._file = open(path, "xb")  # noqa: SIM115 - closed by `finish` or at exit
        self._file.write(len(raw).to_bytes(8, "little") + raw)

    def write(self, name: str, values: Tensor, at: int = 0) -> None:
        """Write `values` as elements `at` and following of the tensor `name`, in its dtype."""
        dtype = TORCH_DTYPES[self._planned[name].dtype]
        flat = values.detach().reshape(-1)
        size = flat.numel() * dtype.itemsize
        buffer = bytearray(min(PIECE, size))
        self._file.seek(self._origin + self._starts[name] + at * dtype.itemsize)
        for piece in flat.split(PIECE // dtype.itemsize):
            room = memoryview(buffer)[: len(piece) * dtype.itemsize]
            if room:
                torch.frombuffer(room, dtype=dtype).copy_(piece)
                self._file.write(room)
        self._missing[name] -= size

    def finish(self) -> None:
        """Close the file, once its bytes are on disk and all of them were written."""
        missing = [name for name, left in self._missing.items() if left]
        assert not missing, f"{missing[0]} was not written whole"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def laid_out(planned: Mapping[str, StoredAs], max_bytes: int) -> dict[str, dict[str, StoredAs]]:
    """The tensors in the order of their names, by the file each goes to.

    One file, or as many as there must be for none to pass `max_bytes` with more than one tensor.
    """
    groups: list[dict[str, StoredAs]] = [{}]
    size = 0
    for name, each in sorted(planned.items()):
        if groups[-1] and size + each.bytes > max_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = each
        size += each.bytes
    if len(groups) == 1:
        return {SINGLE_FILE: groups[0]}
    count = len(groups)
    return {
        f"model-{i:05}-of-{count:05}.safetensors": group for i, group in enumerate(groups, start=1)
    }


def index_of(files: Mapping[str, Mapping[str, StoredAs]]) -> dict[str, object] | None:
    """What INDEX has to say of these files, None where there is one."""
    if len(files) == 1:
        return None
    placed = {name: file for file, group in files.items() for name in group}
    total = sum(each.bytes for group in files.values() for each in group.values())
    return {"metadata": {"total_size": total}, "weight_map": placed}


def json_text(content: Mapping[str, object]) -> str:
    """A JSON object as people can read it."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object, under another name first."""
    with replacing(path) as temporary:
        temporary.write_text(json_text(content), encoding="utf-8")


def partial_name(path: Path) -> Path:
    """What a file is called until it is complete."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name to write a file under; it takes the place of `path` if all went well."""
    temporary = partial_name(path)
    temporary.unlink(missing_ok=True)  # of a save that was killed
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
