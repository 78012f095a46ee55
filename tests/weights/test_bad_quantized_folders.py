"""Folders of quantised weights whose parts or scheme do not fit are refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgemma_backend.config import Encoding, OwnQuantization
from dgemma_backend.errors import ConfigError, DgemmaError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into
from dgemma_backend.weights.formats import Int4
from dgemma_backend.weights.quantizing import quantize_folder

Empty = Callable[[], DiffusionGemma]


def refused(empty: Empty, folder: Path, message: str) -> None:
    model = empty()
    with pytest.raises(DgemmaError, match=message):
        load_into(model, folder, dtype=torch.float32, device="cpu")
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "SHA256SUMS").unlink()


NAME = "model.decoder.layers.0.experts.down_proj"
DAMAGED: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
    (lambda t: t.pop(f"{NAME}.scale"), rf"lacks 1 of .*{NAME}\.scale"),
    (lambda t: t.update({f"{NAME}.zeros": torch.ones(1)}), rf"holds 1 tensors .*{NAME}\.zeros"),
    (lambda t: t.update({NAME: torch.ones(4, 32, 24)}), f"holds 1 tensors .*{NAME}'"),
    (
        lambda t: t.update({f"{NAME}.packed": t[f"{NAME}.packed"][:, :-1].contiguous()}),
        rf"{NAME}\.packed has shape \(4, 31, 8\), and config\.json makes it \(4, 32, 8\)",
    ),
    (
        lambda t: t.update({f"{NAME}.scale": t[f"{NAME}.scale"].float()}),
        rf"{NAME}\.scale is stored as F32, must be BF16",
    ),
]


@pytest.mark.parametrize(("edit", "message"), DAMAGED)
def test_parts_that_are_missing_over_or_of_another_kind_are_named(
    checkpoint: Path,
    empty_model: Empty,
    tmp_path: Path,
    edit: Callable[[dict[str, Tensor]], object],
    message: str,
) -> None:
    quantize_folder(checkpoint, tmp_path / "new", Int4())
    change(tmp_path / "new", edit)
    refused(empty_model, tmp_path / "new", message)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (
            "model.decoder.embed_tokens.weight",
            "names 'model.decoder.embed_tokens.weight', which is",
        ),
        ("model.decoder.layers.0.router.proj.weight", "which is no matrix of this model that may"),
        ("model.decoder.layers.7.mlp.up_proj.weight", "names 'model.decoder.layers.7.mlp.up_proj"),
        ("experts", "names 'experts'"),
    ],
)
def test_a_config_may_only_name_matrices_that_can_be_quantised(
    checkpoint: Path, tmp_path: Path, matrix: str, message: str
) -> None:
    scheme = OwnQuantization("int4", {matrix: Encoding("int4", 64)})
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = scheme.to_dict()
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        quantize_folder(checkpoint, tmp_path / "new", Int4())


def test_a_config_without_the_scheme_is_told_apart(
    checkpoint: Path, empty_model: Empty, tmp_path: Path
) -> None:
    quantize_folder(checkpoint, tmp_path / "new", Int4())
    (tmp_path / "new" / "SHA256SUMS").unlink()
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "new" / "config.json").write_text(json.dumps(config))
    refused(empty_model, tmp_path / "new", "as quantised variants do, and its config.json does")
