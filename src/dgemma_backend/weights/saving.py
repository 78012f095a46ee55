"""A model into a checkpoint's folder, in the published layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dgemma_backend.config import DecodingDefaults, ModelConfig
from dgemma_backend.weights.comparison import check_names, check_shape
from dgemma_backend.weights.layout import DECODER, ENCODER_TEXT, expected_tensors
from dgemma_backend.weights.manifest import MANIFEST, write_manifest
from dgemma_backend.weights.shards import INDEX, SINGLE_FILE
from dgemma_backend.weights.stream import write_tensors

_OUR_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def save(
    model: nn.Module,
    folder: Path,
    *,
    config: ModelConfig,
    decoding: DecodingDefaults,
    extra: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_bytes: int = 5_000_000_000,
    manifest: bool = True,
) -> None:
    """Write `model` into `folder`, loadable here and by transformers.

    Writes config.json, generation_config.json, model.safetensors (or shards and their index,
    beyond `max_shard_bytes`) and SHA256SUMS over them; each layer's `layer_scalar` is stored for
    the encoder too. Other files in `folder`, such as tokenizer.json, are not touched. Each file
    is completed under another name before it takes its place; the weights of an earlier save
    that this one did not replace are removed last.

    Args:
        extra: The vision tower's tensors by their published names, if `config.vision` is set.
        dtype: Of all stored tensors.

    Raises CheckpointError if model and `extra` are not just what `config` asks for.
    """
    folder = Path(folder)
    tensors = {DECODER + name: tensor for name, tensor in model.state_dict().items()}
    for name, tensor in model.state_dict().items():
        if name.endswith(".layer_scalar"):
            tensors[ENCODER_TEXT + name] = tensor
    tensors |= extra or {}
    expected = expected_tensors(config)
    check_names(folder, expected, tensors)
    for name, tensor in tensors.items():
        check_shape(folder, name, tuple(tensor.shape), expected[name].shape)

    folder.mkdir(parents=True, exist_ok=True)
    before = [each for each in folder.iterdir() if _OUR_WEIGHTS.fullmatch(each.name)]
    _write_json(folder / "config.json", config.to_dict())
    _write_json(folder / "generation_config.json", decoding.to_dict())
    written = _write_shards(folder, tensors, dtype, max_shard_bytes)
    for stale in before:
        if stale.name not in written:
            stale.unlink()
    if manifest:
        write_manifest(folder, ["config.json", "generation_config.json", *written])
    else:
        (folder / MANIFEST).unlink(missing_ok=True)  # an older one would be wrong now


def _write_shards(
    folder: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, max_bytes: int
) -> list[str]:
    """Write the weights as one file, or as several and their index; returns the files' names."""
    groups = list(_groups(tensors, dtype, max_bytes))
    names = [f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    if len(groups) == 1:
        names = [SINGLE_FILE]
    placed: dict[str, str] = {}
    for name, group in zip(names, groups, strict=True):
        with _replacing(folder / name) as path:
            write_tensors(path, group, dtype)
        placed |= dict.fromkeys(group, name)
    if len(groups) == 1:
        return names
    total = sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})
    return [*names, INDEX]


def _groups(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, max_bytes: int
) -> Iterator[dict[str, Tensor]]:
    """The tensors in the order of their names, cut where `max_bytes` would be passed."""
    group: dict[str, Tensor] = {}
    size = 0
    for name, tensor in sorted(tensors.items()):
        more = tensor.numel() * dtype.itemsize
        if group and size + more > max_bytes:
            yield group
            group, size = {}, 0
        group[name] = tensor
        size += more
    yield group


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with _replacing(path) as temporary:
        text = json.dumps(content, indent=2, sort_keys=True)
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Another name to write a file under; it takes the place of `path` if all went well."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)  # of a save that was killed
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
