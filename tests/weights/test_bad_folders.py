"""Folders that are no sound checkpoint: each is refused by name, and the next one loads."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save_safetensors

from dgemma_backend.config import ModelConfig
from dgemma_backend.errors import ConfigError, DgemmaError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into

Empty = Callable[[], DiffusionGemma]
Write = Callable[..., Path]
Header = dict[str, Any]


def load(empty: Empty, folder: Path) -> DiffusionGemma:
    model = empty()
    load_into(model, folder, dtype=torch.float32, device="cpu")
    return model


def refused(empty: Empty, folder: Path, message: str) -> None:
    model = empty()
    with pytest.raises(DgemmaError, match=message):
        load_into(model, folder, dtype=torch.float32, device="cpu")
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def rewrite_header(path: Path, change: Callable[[Header], Header | bytes]) -> None:
    """Replace a safetensors file's header, and leave its payload."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    made = change(json.loads(whole[8 : 8 + length]))
    raw = made if isinstance(made, bytes) else json.dumps(made).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + whole[8 + length :])


def test_an_empty_folder_is_called_no_checkpoint(tmp_path: Path, empty_model: Empty) -> None:
    refused(empty_model, tmp_path, r"holds no config\.json\. Is it a DiffusionGemma checkpoint")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, empty_model: Empty) -> None:
    (tmp_path / "file").write_text("")
    refused(empty_model, tmp_path / "file", r"holds no config\.json")


def test_all_missing_files_are_listed_at_once(checkpoint: Path, empty_model: Empty) -> None:
    names = [path.name for path in sorted(checkpoint.glob("*.safetensors"))][1:]
    for name in names:
        (checkpoint / name).unlink()
    refused(empty_model, checkpoint, f"lacks 2 of its 3 weight files.*{', '.join(names)}")


def test_pickles_are_not_read(write: Write, empty_model: Empty, tmp_path: Path) -> None:
    folder = write(tmp_path / "saved")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(empty_model, folder, r"pytorch_model\.bin is of a format that is not read")


def test_two_sets_of_weights_are_one_too_many(checkpoint: Path, empty_model: Empty) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"")
    refused(empty_model, checkpoint, "holds both model.safetensors and model.safetensors.index")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "index of the weights is damaged: .* is not valid JSON"),
        ("[]", "index of the weights is damaged"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": 7}}', "puts 'a' into 7, which is no plain name"),
        ('{"weight_map": {"a": "evil.bin"}}', "No path may leave the folder"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_damaged_index_is_named(
    checkpoint: Path, empty_model: Empty, index: str, message: str
) -> None:
    (checkpoint / "model.safetensors.index.json").write_text(index)
    refused(empty_model, checkpoint, message)


def test_an_index_of_another_download_is_noticed(checkpoint: Path, empty_model: Empty) -> None:
    path = checkpoint / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    placed = index["weight_map"]
    first = next(iter(placed))
    other = next(name for name in placed.values() if name != placed[first])
    path.write_text(json.dumps({**index, "weight_map": {**placed, first: other}}))
    refused(empty_model, checkpoint, "are of different downloads: fetch the file again")


def test_names_of_a_quantised_variant_are_recognised(
    write: Write, empty_model: Empty, tmp_path: Path
) -> None:
    path = write(tmp_path / "saved") / "model.safetensors"
    tensors = load_file(path)
    tensors["model.decoder.layers.0.mlp.up_proj.weight_scale"] = torch.ones(1)
    save_safetensors(tensors, path)
    refused(
        empty_model, path.parent, r"weight_scale', as quantised variants do.*bfloat16 checkpoint"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_hidden_layers", 2, "has no place for, 'model.decoder.layers.1.self_attn.v_proj"),
        ("num_hidden_layers", 4, "lacks .* tensors its config.json asks for"),
        ("hidden_size", 48, r"has shape .* and config\.json makes it"),
        ("vocab_size", 1 << 20, r"embed_tokens\.weight has shape \(64, 32\)"),
    ],
)
def test_a_config_of_another_size_is_refused_before_anything_is_allocated(
    checkpoint: Path, empty_model: Empty, key: str, value: int, message: str
) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["text_config"][key] = value
    if key == "num_hidden_layers":
        sliding = min(2, value - 1)
        kinds = ["sliding_attention"] * sliding + ["full_attention"] * (value - sliding)
        config["text_config"]["layer_types"] = kinds
    path.write_text(json.dumps(config))
    refused(empty_model, checkpoint, message)


def test_a_model_of_another_config_is_refused(
    checkpoint: Path, toy_facts: Callable[..., dict[str, Any]]
) -> None:
    def other() -> DiffusionGemma:
        with torch.device("meta"):
            return DiffusionGemma(ModelConfig.from_dict(toy_facts(hidden_size=48)))

    refused(other, checkpoint, "the model was built for another config.json")


def test_a_pipe_in_place_of_a_shard_does_not_block(checkpoint: Path, empty_model: Empty) -> None:
    victim = sorted(checkpoint.glob("*.safetensors"))[0]
    victim.unlink()
    os.mkfifo(victim)
    refused(empty_model, checkpoint, f"holds no {victim.name}")


@pytest.mark.parametrize("target", ["model.safetensors", "loop", "/etc/hostname", "../saved/x"])
def test_a_link_to_nowhere_or_out_is_refused(
    write: Write, empty_model: Empty, tmp_path: Path, target: str
) -> None:
    folder = write(tmp_path / "saved")
    (folder / "model.safetensors").unlink()
    (folder / "loop").symlink_to("model.safetensors")
    (folder / "model.safetensors").symlink_to(target)
    refused(empty_model, folder, "cannot be read|is outside the checkpoint's folder|holds no model")


def test_a_config_that_is_a_link_out_of_the_folder_is_refused(
    checkpoint: Path, empty_model: Empty, tmp_path: Path
) -> None:
    (checkpoint / "config.json").rename(tmp_path / "elsewhere.json")
    (checkpoint / "config.json").symlink_to(tmp_path / "elsewhere.json")
    refused(empty_model, checkpoint, r"config\.json is a link to .*outside the checkpoint's folder")


def test_a_config_beyond_the_caps_is_a_config_error(checkpoint: Path, empty_model: Empty) -> None:
    (checkpoint / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ConfigError, match="nested too deep"):
        load(empty_model, checkpoint)


@pytest.mark.parametrize("after", [1, 30, 90])
def test_an_interrupted_load_leaves_the_model_as_it_was(
    checkpoint: Path, empty_model: Empty, after: int
) -> None:
    calls: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == after:
            raise KeyboardInterrupt

    model = empty_model()
    with pytest.raises(KeyboardInterrupt):
        load_into(model, checkpoint, dtype=torch.float32, device="cpu", progress=interrupt)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    load_into(model, checkpoint, dtype=torch.float32, device="cpu")
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_progress_ends_with_all_bytes_done(checkpoint: Path, empty_model: Empty) -> None:
    calls: list[tuple[int, int]] = []
    load_into(
        empty_model(),
        checkpoint,
        dtype=torch.float32,
        device="cpu",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 100_000
