"""Safetensors files as untrusted input: which there are, and what their headers claim.

A file is eight bytes of header length, a JSON header (name -> dtype, shape, byte range) and the
tensors' bytes one after another. All of the header is checked against the file's size before a
byte is allocated for a tensor. Files are read, not mapped: mapping one that is cut short while
in use kills the process.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dgemma_backend.config.reader import file_in, read_json_object, shown
from dgemma_backend.errors import CheckpointError, ConfigError

SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}\.safetensors")
MAX_SHARDS = 10_000
MAX_INDEX_BYTES = 16 << 20  # the published one has 0.1 MB
MAX_HEADER_BYTES = 16 << 20  # the published ones have 0.02 MB

#: Bytes per element of the dtypes a full-precision checkpoint may hold.
FLOATS: dict[str, int] = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
#: Other dtypes of the format; only quantised variants hold them.
QUANTIZED: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "U32": 4,
    "I32": 4,
    "U64": 8,
    "I64": 8,
}


class Stored(NamedTuple):
    """One tensor in a file: `start` and `stop` are bytes from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def bytes(self) -> int:
        """How many bytes it takes."""
        return self.stop - self.start


class Shard(NamedTuple):
    """One file and its tensors, in the order of their bytes; `path` has no links in it."""

    name: str
    path: Path
    size: int
    tensors: Mapping[str, Stored]


def open_shard(path: Path) -> BinaryIO:
    """`path` opened for reading; a link put there since it was checked is not followed."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0))

    return open(path, "rb", buffering=0, opener=opener)


def read_shards(folder: Path) -> list[Shard]:
    """All shards of `folder` in the order of their names, headers read and checked.

    Raises CheckpointError when a file is missing (all missing ones are counted), damaged, unsafe
    to follow, or does not hold just what the index says.
    """
    placed = _read_index(folder)
    names = _file_names(placed)
    if missing := [name for name in names if not os.path.lexists(Path(folder) / name)]:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of its {len(names)} weight files, {missing[0]} among "
            f"them: {', '.join(missing[:20])}. The download may be unfinished; `dgemma pull` "
            f"fetches what is missing."
        )
    shards = [read_header(folder, name) for name in names]
    if placed is not None:
        for name, shard in zip(names, shards, strict=True):
            promised = {tensor for tensor, file in placed.items() if file == name}
            _compare_with_index(shard.path, promised, shard.tensors)
    return shards


def shard_names(folder: Path) -> list[str]:
    """The weight files that `folder` should hold, whether they are there or not."""
    return _file_names(_read_index(folder))


def _file_names(placed: Mapping[str, str] | None) -> list[str]:
    return [SINGLE_FILE] if placed is None else sorted(set(placed.values()))


def _read_index(folder: Path) -> dict[str, str] | None:
    """Tensor name -> file name, or None where the weights are one file."""
    single, index = ((Path(folder) / name) for name in (SINGLE_FILE, INDEX))
    if not os.path.lexists(index):
        if not os.path.lexists(single):
            raise CheckpointError(_without_weights(folder))
        return None
    try:
        content = read_json_object(folder, INDEX, max_bytes=MAX_INDEX_BYTES)
    except ConfigError as error:
        raise CheckpointError(f"the index of the weights is damaged: {error}") from error
    placed = content.get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index} has no weight_map from tensor names to file names")
    for tensor, name in placed.items():
        if not isinstance(name, str) or not SHARD_NAME.fullmatch(name):
            raise CheckpointError(
                f"{index} puts {shown(tensor)} into {shown(name)}, which is no plain name of a "
                f".safetensors file. No path may leave the folder; do not trust this checkpoint."
            )
    names = set(placed.values())
    if len(names) > MAX_SHARDS:
        raise CheckpointError(f"{index} names more than {MAX_SHARDS} files")
    if os.path.lexists(single) and SINGLE_FILE not in names:
        raise CheckpointError(
            f"{folder} holds both {SINGLE_FILE} and {INDEX}, which does not name it: which of "
            f"them are the weights? Remove the other."
        )
    return placed


def _without_weights(folder: Path) -> str:
    try:
        others = sorted(each.name for each in Path(folder).iterdir())
    except OSError:
        others = []
    foreign = [name for name in others if name.endswith((".bin", ".pt", ".pth", ".gguf", ".npz"))]
    why = (
        f"{foreign[0]} is of a format that is not read: only safetensors is"
        if foreign
        else "the download may be unfinished, or this is not a checkpoint's folder"
    )
    return f"{folder} holds neither {SINGLE_FILE} nor {INDEX}; {why}"


def _compare_with_index(path: Path, promised: set[str], found: Mapping[str, Stored]) -> None:
    if lacking := sorted(promised - found.keys()):
        raise CheckpointError(
            f"{path} lacks {len(lacking)} tensors that {INDEX} puts there, {shown(lacking[0])} "
            f"among them. Index and file are of different downloads: fetch the file again."
        )
    if more := sorted(found.keys() - promised):
        raise CheckpointError(
            f"{path} holds {len(more)} tensors that {INDEX} does not put there, "
            f"{shown(more[0])} among them. Index and file are of different downloads: fetch "
            f"the file again."
        )


def read_header(folder: Path, name: str) -> Shard:
    """The header of one file, checked against the file's size. Raises CheckpointError."""
    path = file_in(folder, name)
    try:
        with open_shard(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(
                    f"{path} is cut short or no safetensors file: it has {size} bytes, and its "
                    f"first 8 announce a header of {length}. Fetch it again."
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) < length:
        raise CheckpointError(f"{path} ended inside its header. Fetch it again.")
    return Shard(name, path, size, _parse_header(path, raw, size))


def _parse_header(path: Path, raw: bytes, size: int) -> dict[str, Stored]:
    def damaged(why: str) -> CheckpointError:
        return CheckpointError(f"{path} is damaged: {why}. Fetch it again.")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise damaged("its header names something twice")
        return found

    try:
        header = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise damaged(f"its header is not valid JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise damaged("its header is no list of tensors")
    header.pop("__metadata__", None)
    origin = 8 + len(raw)
    tensors = {}
    for tensor, entry in header.items():
        stored = _parse_entry(entry, origin)
        if stored is None:
            raise damaged(f"its header says {shown(entry)} of {shown(tensor)}")
        tensors[tensor] = stored
    in_order = dict(sorted(tensors.items(), key=lambda each: (each[1].start, each[1].stop)))
    end = origin
    for tensor, stored in in_order.items():  # the bytes must follow each other without a gap
        if stored.start != end:
            raise damaged(f"the bytes of {shown(tensor)} do not begin where the last ones end")
        end = stored.stop
    if end != size:
        kind = "cut short" if end > size else "longer than its header says"
        raise CheckpointError(
            f"{path} is {kind}: it has {size} bytes and should have {end}. The download may be "
            f"unfinished; fetch it again."
        )
    return in_order


def _parse_entry(entry: object, origin: int) -> Stored | None:
    """One line of a header, or None if it contradicts itself."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return None
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return None
    numbers = [*shape, *offsets]
    if len(shape) > 8 or any(type(each) is not int or not 0 <= each < 1 << 48 for each in numbers):
        return None
    width = (FLOATS | QUANTIZED).get(dtype) if isinstance(dtype, str) else None
    if width is None or offsets[1] - offsets[0] != math.prod(shape) * width:
        return None
    return Stored(dtype, tuple(shape), origin + offsets[0], origin + offsets[1])
