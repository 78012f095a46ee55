"""A model into a checkpoint's folder, in the published layout; quantised matrices in our own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dgemma_backend.config import DecodingDefaults, ModelConfig, OwnQuantization
from dgemma_backend.errors import CheckpointError
from dgemma_backend.weights.comparison import check_names, check_shape
from dgemma_backend.weights.encodings import encoding_of
from dgemma_backend.weights.expected import expected_tensors
from dgemma_backend.weights.layout import DECODER, ENCODER_TEXT
from dgemma_backend.weights.manifest import MANIFEST, write_manifest
from dgemma_backend.weights.placing import stored_matrices
from dgemma_backend.weights.shards import INDEX
from dgemma_backend.weights.stream import STORED_DTYPES
from dgemma_backend.weights.writing import (
    StoredAs,
    TensorFile,
    index_of,
    laid_out,
    replacing,
    write_json,
)
from dgemma_kernels.quantized import QuantizedMatrix

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
    """Write `model` into `folder`, loadable here and, unless it is quantised, by transformers.

    Writes config.json, generation_config.json, model.safetensors (or shards and their index,
    beyond `max_shard_bytes`) and SHA256SUMS over them; each layer's `layer_scalar` is stored for
    the encoder too. Other files in `folder`, such as tokenizer.json, are not touched. Each file
    is completed under another name before it takes its place; the weights of an earlier save
    that this one did not replace are removed last.

    Args:
        config: What it says of quantisation is replaced by what the model holds.
        extra: The vision tower's tensors by their published names, if `config.vision` is set.
        dtype: Of all stored tensors but the parts of quantised matrices.

    Raises CheckpointError if model and `extra` are not just what `config` asks for.
    """
    folder = Path(folder)
    config = replace(config, quantization=_quantization_of(model, config))
    tensors = {**dict(_tensors_of(model)), **(extra or {})}
    expected = expected_tensors(config)
    check_names(folder, expected, tensors)
    planned = {}
    for name, tensor in tensors.items():
        check_shape(folder, name, tuple(tensor.shape), expected[name].shape)
        kept = tensor.dtype if expected[name].role == "part" else dtype
        planned[name] = StoredAs(STORED_DTYPES[kept], tuple(tensor.shape))

    folder.mkdir(parents=True, exist_ok=True)
    before = [each for each in folder.iterdir() if _OUR_WEIGHTS.fullmatch(each.name)]
    write_json(folder / "config.json", config.to_dict())
    write_json(folder / "generation_config.json", decoding.to_dict())
    written = _write_shards(folder, tensors, laid_out(planned, max_shard_bytes))
    for stale in before:
        if stale.name not in written:
            stale.unlink()
    if manifest:
        write_manifest(folder, ["config.json", "generation_config.json", *written])
    else:
        (folder / MANIFEST).unlink(missing_ok=True)  # an older one would be wrong now


def _quantization_of(model: nn.Module, config: ModelConfig) -> OwnQuantization | None:
    """How the model's matrices are encoded; named as they were, or after the experts'."""
    found = {}
    for name, matrix in stored_matrices(model):
        if isinstance(matrix, QuantizedMatrix):
            encoding = encoding_of(matrix)
            if encoding is None:
                raise CheckpointError(f"{name} is a {type(matrix).__name__}, which has no layout")
            found[DECODER + name] = encoding
    if not found:
        return None
    if config.quantization is not None:
        return OwnQuantization(config.quantization.format, found)
    experts = [each.kind for name, each in sorted(found.items()) if ".experts." in name]
    return OwnQuantization(experts[0] if experts else "mixed", found)


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What is stored of `model`, by its name in the files."""
    for name, matrix in stored_matrices(model):
        if isinstance(matrix, QuantizedMatrix):
            for part, tensor in matrix.parts.items():
                yield f"{DECODER}{name}.{part}", tensor
            continue
        yield DECODER + name, matrix
        if name.endswith(".layer_scalar"):
            yield ENCODER_TEXT + name, matrix


def _write_shards(
    folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, Mapping[str, StoredAs]]
) -> list[str]:
    """Write the weights as one file, or as several and their index; returns the files' names."""
    for name, group in files.items():
        with replacing(folder / name) as path, TensorFile(path, group) as file:
            for tensor in group:
                file.write(tensor, tensors[tensor])
            file.finish()
    index = index_of(files)
    if index is None:
        return list(files)
    write_json(folder / INDEX, index)
    return [*files, INDEX]
