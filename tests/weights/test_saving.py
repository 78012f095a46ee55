"""What is saved is whole, in the published layout, and has its checksums."""

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save_safetensors

from dgemma_backend.config import ModelConfig
from dgemma_backend.errors import CheckpointError, DgemmaError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into, save
from dgemma_backend.weights.manifest import write_manifest

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


MANIFESTS: list[tuple[str, str]] = [
    ("nonsense", "no `sha256sum` line: 'nonsense'"),
    ("{digest}  model.safetensors\n{digest}  model.safetensors", "no `sha256sum` line"),
    ("{digest}  config.json", "SHA256SUMS says nothing of model.safetensors"),
    ("{digest}  ../x\n{digest}  model.safetensors", "names a file '../x': not a plain file name"),
    ("{digest}  absent.txt\n{digest}  model.safetensors", "holds no absent.txt"),
    ("{digest}  model.safetensors", "model.safetensors is not the file it should be"),
    ("{digest}  config.json\n{digest}  model.safetensors", "config.json is not the file it should"),
]


@pytest.mark.parametrize(("text", "message"), MANIFESTS)
def test_a_manifest_that_does_not_fit_is_refused(
    write: Write, empty_model: Empty, tmp_path: Path, text: str, message: str
) -> None:
    folder = write(tmp_path / "saved")
    (folder / "SHA256SUMS").write_text(text.format(digest="0" * 64))
    refused(empty_model, folder, message)


def test_every_flipped_byte_of_the_payload_is_found_by_the_manifest(
    checkpoint: Path, empty_model: Empty
) -> None:
    names = [path.name for path in checkpoint.iterdir()]
    write_manifest(checkpoint, names)
    load(empty_model, checkpoint)
    rng = random.Random(2)
    for path in checkpoint.glob("*.safetensors"):
        whole = path.read_bytes()
        begin = 8 + int.from_bytes(whole[:8], "little")
        for _ in range(40):
            place = rng.randrange(begin, len(whole))
            path.write_bytes(
                whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :]
            )
            refused(empty_model, checkpoint, f"{path.name} is not the file it should be")
        path.write_bytes(whole)
    load(empty_model, checkpoint)


def test_the_manifest_is_one_that_sha256sum_reads(write: Write, tmp_path: Path) -> None:
    folder = write(tmp_path / "saved", manifest=True)
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == 3


def test_saving_asks_for_the_whole_model(
    small_model: DiffusionGemma, small_config: ModelConfig, write: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    with pytest.raises(CheckpointError, match=r"lacks .*model\.encoder\.embed_vision"):
        write(folder, extra={})
    assert not folder.exists()


def test_a_save_that_fails_leaves_the_files_of_the_last_one(
    small_model: DiffusionGemma,
    write: Write,
    empty_model: Empty,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write(tmp_path / "saved", manifest=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(folder, manifest=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load(empty_model, folder)


def test_files_that_safetensors_wrote_and_files_that_we_wrote_are_alike(
    write: Write, empty_model: Empty, tmp_path: Path
) -> None:
    folder = write(tmp_path / "saved", dtype=torch.bfloat16)
    ours = load_file(folder / "model.safetensors")  # the format's own reader accepts it
    save_safetensors(ours, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load(empty_model, folder).state_dict()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, ours[f"model.decoder.{name}"].float())


def test_transformers_loads_what_was_saved_with_nothing_missing_or_over(
    write: Write, small_model: DiffusionGemma, tower: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    from transformers import DiffusionGemmaForBlockDiffusion

    folder = write(tmp_path / "saved")
    theirs, report = DiffusionGemmaForBlockDiffusion.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values()), report
    stored = theirs.state_dict()
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(stored[f"model.decoder.{name}"], tensor)
    for name, tensor in tower.items():
        assert torch.equal(stored[name], tensor)


def test_what_transformers_saved_is_loaded(
    write: Write, empty_model: Empty, small_model: DiffusionGemma, tmp_path: Path
) -> None:
    from transformers import DiffusionGemmaForBlockDiffusion

    theirs = DiffusionGemmaForBlockDiffusion.from_pretrained(write(tmp_path / "saved"))
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load(empty_model, tmp_path / "theirs").state_dict()
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(loaded[name], tensor)


def test_saving_needs_no_extra_without_a_tower(
    toy_facts: Callable[..., dict[str, Any]], random_model: Callable[..., Any], tmp_path: Path
) -> None:
    from dgemma_backend.config import DecodingDefaults

    facts = {**toy_facts(), "vision_config": None}
    model = random_model(facts)
    decoding = DecodingDefaults(8, 0.4, 0.8, 0.1, 0.005, 1, (1, 6), 0)
    save(model, tmp_path / "saved", config=model.config, decoding=decoding, dtype=torch.float32)
    assert DecodingDefaults.from_folder(tmp_path / "saved") == decoding
    with torch.device("meta"):
        again = DiffusionGemma(ModelConfig.from_folder(tmp_path / "saved"))
    load_into(again, tmp_path / "saved", dtype=torch.float32, device="cpu")
    assert torch.equal(again.state_dict()["norm.weight"], model.state_dict()["norm.weight"])
