"""A checkpoint in full precision into a folder of quantised weights, tensor by tensor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from dgemma_backend.config import OwnQuantization
from dgemma_backend.config.reader import file_in, read_json_object
from dgemma_backend.errors import CheckpointError, PluginError
from dgemma_backend.weights.encodings import template
from dgemma_backend.weights.formats import Planned, QuantizationFormat, plan
from dgemma_backend.weights.layout import DECODER, quantizable_shapes
from dgemma_backend.weights.manifest import MANIFEST, manifest_text
from dgemma_backend.weights.new_folder import NewFolder
from dgemma_backend.weights.reading import OpenCheckpoint, Progress, indices, open_checkpoint
from dgemma_backend.weights.shards import INDEX, Stored
from dgemma_backend.weights.stream import PIECE, STORED_DTYPES, TORCH_DTYPES
from dgemma_backend.weights.writing import StoredAs, TensorFile, index_of, json_text, laid_out

#: Files that go along: what a checkpoint says in text, and its tokenizer. No code, no pickles.
_COPIED = (".json", ".jinja", ".md", ".model", ".txt")
_LEGAL = ("LICENSE", "NOTICE")
CONFIG = "config.json"


def quantize_folder(
    source: Path,
    destination: Path,
    format: QuantizationFormat,
    *,
    device: torch.device | str = "cpu",
    max_shard_bytes: int = 5_000_000_000,
    verify: bool = True,
    progress: Progress | None = None,
) -> list[str]:
    """Write the checkpoint in `source`, quantised, into the new folder `destination`.

    The layout is that of `expected`: what is not quantised, the vision tower among it, is copied
    to the bit. Tokenizer and other text files are copied, SHA256SUMS covers them all. Memory at
    the peak is one matrix or one expert's, and 32 MiB. `destination` appears whole at the end,
    or not at all.

    Args:
        device: Where matrices are quantised.
        verify: As for `load_into`, of the source's files.
        progress: Called with the bytes read and the bytes in all, after each tensor.

    Returns the names of files in `source` that were not copied. Raises ConfigError or
    CheckpointError for a source that cannot be read or is quantised already, for a destination
    that is not empty and for a disk that is full.
    """
    source, destination = Path(source), Path(destination)
    checkpoint = open_checkpoint(source, verify=verify)
    stored = checkpoint.config.quantization
    if stored is not None:
        raise CheckpointError(
            f"{source} is quantised already ({stored.format}). Quantise the checkpoint in full "
            f"precision that it was made of."
        )
    planned = plan(format, quantizable_shapes(checkpoint.config))
    if not planned:
        raise PluginError(f"the quantization format {format.name!r} quantises nothing")
    files = laid_out(_stored_as(checkpoint, planned), max_shard_bytes)
    copied, left = _other_files(checkpoint)
    try:
        with NewFolder(destination) as folder:
            needed = sum(each.bytes for group in files.values() for each in group.values())
            _check_room(destination, needed + sum(path.stat().st_size for path in copied.values()))
            _write_weights(folder, files, checkpoint, planned, torch.device(device), progress)
            for name, path in copied.items():
                shutil.copyfile(path, folder.file(name))
            _write_texts(folder, checkpoint, planned, format.name, index_of(files))
            folder.complete(last=CONFIG)
    except OSError as error:
        raise CheckpointError(
            f"{destination} cannot be written: {error.strerror or error}. Nothing was left there."
        ) from error
    return left


def _write_weights(
    folder: NewFolder,
    files: Mapping[str, Mapping[str, StoredAs]],
    checkpoint: OpenCheckpoint,
    planned: Mapping[str, Planned],
    device: torch.device,
    progress: Progress | None,
) -> None:
    """All weight files at once, since matrices and their parts are ordered otherwise there."""
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(TensorFile(folder.file(name), group))
            for name, group in files.items()
        }
        places = {name: writers[file] for file, group in files.items() for name in group}
        checkpoint.stream(_Writing(places, planned, device).targets, progress)
        for writer in writers.values():
            writer.finish()


def _stored_as(checkpoint: OpenCheckpoint, planned: Mapping[str, Planned]) -> dict[str, StoredAs]:
    """All tensors of the new files by name."""
    found: dict[str, StoredAs] = {}
    for shard in checkpoint.shards:
        for name, stored in shard.tensors.items():
            each = planned.get(name.removeprefix(DECODER))
            if each is None:
                found[name] = StoredAs(stored.dtype, stored.shape)
                continue
            for part, tensor in template(each.encoding, stored.shape).parts.items():
                dtype = STORED_DTYPES[tensor.dtype]
                found[f"{name}.{part}"] = StoredAs(dtype, tuple(tensor.shape))
    return found


class _Writing:
    """Takes in stored tensors and writes what becomes of them."""

    def __init__(
        self,
        places: Mapping[str, TensorFile],
        planned: Mapping[str, Planned],
        device: torch.device,
    ) -> None:
        self._places, self._planned, self._device = places, planned, device

    def targets(self, name: str, stored: Stored) -> Iterator[Tensor]:
        """Buffers for the stored tensor `name`, each of which is written when it is full."""
        dtype = TORCH_DTYPES[stored.dtype]
        planned = self._planned.get(name.removeprefix(DECODER))
        if planned is None:
            values, step = stored.bytes // dtype.itemsize, PIECE // dtype.itemsize
            for start in range(0, values, step):
                buffer = torch.empty(min(step, values - start), dtype=dtype)
                yield buffer
                self._places[name].write(name, buffer, at=start)
            return
        *leading, rows, columns = stored.shape
        buffer = torch.empty(rows, columns, dtype=dtype)
        for number, _ in enumerate(indices(leading)):
            yield buffer
            made = planned.quantized(buffer.to(self._device))
            for part, tensor in made.parts.items():
                place = f"{name}.{part}"
                self._places[place].write(place, tensor, at=number * tensor.numel())


def _other_files(checkpoint: OpenCheckpoint) -> tuple[dict[str, Path], list[str]]:
    """The files to copy, and the names of those that are not."""
    ours = {CONFIG, INDEX, MANIFEST, *(shard.name for shard in checkpoint.shards)}
    copied, left = {}, []
    for each in sorted(checkpoint.folder.iterdir()):
        if each.name in ours or each.name.startswith("."):
            continue
        if each.suffix in _COPIED or each.stem in _LEGAL:
            copied[each.name] = file_in(checkpoint.folder, each.name)
        else:
            left.append(each.name)
    return copied, left


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder} needs {needed / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB left"
        )


def _write_texts(
    folder: NewFolder,
    checkpoint: OpenCheckpoint,
    planned: Mapping[str, Planned],
    format: str,
    index: Mapping[str, object] | None,
) -> None:
    """config.json, the index of the weights and SHA256SUMS."""
    matrices = {DECODER + name: each.encoding for name, each in planned.items()}
    config = read_json_object(checkpoint.folder, CONFIG)
    config["quantization_config"] = OwnQuantization(format, matrices).to_dict()
    folder.file(CONFIG).write_text(json_text(config), encoding="utf-8")
    if index is not None:
        folder.file(INDEX).write_text(json_text(index), encoding="utf-8")
    sums = manifest_text(folder.files)
    folder.file(MANIFEST).write_text(sums, encoding="ascii")
