"""A folder of quantised weights: whole, documented, equal to quantising at load, or not there."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from dgemma_backend.config import ModelConfig, OwnQuantization
from dgemma_backend.errors import CheckpointError, DgemmaError, PluginError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into, save
from dgemma_backend.weights.expected import expected_tensors
from dgemma_backend.weights.formats import Fp8, Int4, QuantizationFormat
from dgemma_backend.weights.new_folder import NewFolder
from dgemma_backend.weights.placing import stored_matrices
from dgemma_backend.weights.quantizing import quantize_folder
from dgemma_backend.weights.writing import TensorFile
from dgemma_kernels.quantized import Fp8Matrix, Int4Matrix, QuantizedMatrix

Empty = Callable[[], DiffusionGemma]
Write = Callable[..., Path]
FORMATS: list[QuantizationFormat] = [Int4(), Fp8()]


def load(empty: Empty, folder: Path, **options: Any) -> dict[str, Tensor]:
    """Every loaded tensor, the parts of quantised matrices as NAME.PART."""
    model = empty()
    load_into(model, folder, dtype=torch.float32, device="cpu", **options)
    return flat(model)


def flat(model: DiffusionGemma) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, matrix in stored_matrices(model):
        if isinstance(matrix, QuantizedMatrix):
            found |= {f"{name}.{part}": tensor for part, tensor in matrix.parts.items()}
        else:
            found[name] = matrix
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype
        and torch.equal(tensor.view(torch.uint8), other[name].view(torch.uint8))
        for name, tensor in one.items()
    )


def refused(empty: Empty, folder: Path, message: str) -> None:
    model = empty()
    with pytest.raises(DgemmaError, match=message):
        load_into(model, folder, dtype=torch.float32, device="cpu")
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def all_tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shard_bytes", [10**9, 60_000])
def test_what_is_written_loads_as_what_is_quantised_at_load(
    checkpoint: Path,
    empty_model: Empty,
    tmp_path: Path,
    format: QuantizationFormat,
    shard_bytes: int,
) -> None:
    left = quantize_folder(checkpoint, tmp_path / "new", format, max_shard_bytes=shard_bytes)
    assert left == []
    assert (len(list((tmp_path / "new").glob("*.safetensors"))) == 1) == (shard_bytes == 10**9)
    assert equal(
        load(empty_model, tmp_path / "new"), load(empty_model, checkpoint, quantization=format)
    )
    config = ModelConfig.from_folder(tmp_path / "new")
    assert isinstance(config.quantization, OwnQuantization)
    assert config.quantization.format == format.name


def test_the_layout_is_the_documented_one(checkpoint: Path, tmp_path: Path) -> None:
    quantize_folder(checkpoint, tmp_path / "new", Int4())
    before, after = all_tensors(checkpoint), all_tensors(tmp_path / "new")
    name = "model.decoder.layers.1.experts.gate_up_proj"
    whole = Int4Matrix.quantize(before[name])
    assert torch.equal(after.pop(f"{name}.packed"), whole.packed)
    assert torch.equal(after.pop(f"{name}.scale"), whole.scale)
    name = "model.decoder.layers.2.self_attn.q_proj.weight"
    alone = Fp8Matrix.quantize(before[name])
    values = after.pop(f"{name}.values")
    assert values.dtype == torch.float8_e4m3fn
    assert torch.equal(values.float(), alone.values.float())
    assert torch.equal(after.pop(f"{name}.scale"), alone.scale)
    kept = [each for each in after if not each.endswith((".packed", ".scale", ".values"))]
    kept += [each for each in after if each.endswith("router.scale")]
    assert all(torch.equal(after[each], before[each]) for each in kept)
    assert "model.encoder.vision_tower.std_bias" in kept
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    scheme = config.pop("quantization_config")
    assert config == json.loads((checkpoint / "config.json").read_text())
    assert {**scheme, "groups": [{**each, "matrices": 0} for each in scheme["groups"]]} == {
        "quant_method": "dgemma",
        "version": 1,
        "format": "int4",
        "groups": [
            {"kind": "fp8", "group": 0, "matrices": 0},
            {"kind": "int4", "group": 64, "matrices": 0},
        ],
    }
    expected = expected_tensors(ModelConfig.from_folder(tmp_path / "new"))
    assert set(all_tensors(tmp_path / "new")) == set(expected)


def test_the_formats_own_reader_reads_it(checkpoint: Path, tmp_path: Path) -> None:
    quantize_folder(checkpoint, tmp_path / "new", Fp8())
    with safe_open(tmp_path / "new" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        name = "model.decoder.layers.0.experts.down_proj.values"
        assert file.get_slice(name).get_dtype() == "F8_E4M3"


def test_text_files_go_along_and_programs_do_not(
    checkpoint: Path, empty_model: Empty, tmp_path: Path
) -> None:
    kept = ("tokenizer.json", "generation_config.json", "LICENSE", "chat_template.jinja")
    for name in (
        "LICENSE",
        "chat_template.jinja",
        "model.py",
        "pytorch_model.bin",
        ".gitattributes",
    ):
        (checkpoint / name).write_text("some text")
    (checkpoint / "onnx").mkdir()
    left = quantize_folder(checkpoint, tmp_path / "new", Int4())
    assert left == ["model.py", "onnx", "pytorch_model.bin"]
    for name in kept:
        assert (tmp_path / "new" / name).read_bytes() == (checkpoint / name).read_bytes()
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert written == {*kept, "config.json", "model.safetensors", "SHA256SUMS"}
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"],
        cwd=tmp_path / "new", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == len(written) - 1


def test_a_source_that_is_quantised_or_damaged_is_refused(
    checkpoint: Path, write: Write, tmp_path: Path
) -> None:
    quantize_folder(checkpoint, tmp_path / "new", Int4())
    with pytest.raises(CheckpointError, match=r"new is quantised already \(int4\). Quantise the"):
        quantize_folder(tmp_path / "new", tmp_path / "again", Fp8())
    damaged = write(tmp_path / "damaged", manifest=True)
    data = bytearray((damaged / "model.safetensors").read_bytes())
    data[-1000] ^= 1
    (damaged / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="is not the file it should be"):
        quantize_folder(damaged, tmp_path / "again", Fp8())
    assert not (tmp_path / "again").exists()


def test_only_a_new_or_empty_folder_is_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file is a file. Name a new folder"):
        quantize_folder(checkpoint, tmp_path / "file", Int4())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("all of it")
    with pytest.raises(CheckpointError, match=r"is not empty: it holds thesis\.txt"):
        quantize_folder(checkpoint, tmp_path / "full", Int4())
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    with pytest.raises(CheckpointError, match="is not empty"):
        quantize_folder(checkpoint, checkpoint, Int4())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".model.safetensors.partial").write_text("of a killed process")
    quantize_folder(checkpoint, tmp_path / "empty", Int4())
    assert not list((tmp_path / "empty").glob(".*"))


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("after", [1, 40, 90])
def test_an_interrupt_leaves_nothing(
    checkpoint: Path, tmp_path: Path, after: int, existing: bool
) -> None:
    calls: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == after:
            raise KeyboardInterrupt

    folder = tmp_path / "new"
    if existing:
        folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        quantize_folder(checkpoint, folder, Int4(), progress=interrupt)
    assert len(calls) == after
    assert folder.exists() == existing
    assert not existing or not list(folder.iterdir())


def test_progress_ends_with_all_bytes_done(checkpoint: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    quantize_folder(checkpoint, tmp_path / "new", Int4(), progress=lambda *each: calls.append(each))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 100_000


@pytest.mark.parametrize("fails", ["write", "fsync", "replace", "copy"])
def test_a_full_disk_leaves_nothing_that_would_load(
    checkpoint: Path,
    empty_model: Empty,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if fails == "write":
        monkeypatch.setattr(TensorFile, "write", full)
    elif fails == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif fails == "copy":
        monkeypatch.setattr(shutil, "copyfile", full)
    else:
        rename, count = Path.replace, iter(range(3))

        def sometimes(self: Path, target: Path) -> Path:
            return rename(self, target) if next(count, None) is not None else full()  # type: ignore[func-returns-value,return-value]

        monkeypatch.setattr(Path, "replace", sometimes)
    message = r"new cannot be written: No space left on device. Nothing was left there"
    with pytest.raises(CheckpointError, match=message):
        quantize_folder(checkpoint, tmp_path / "new", Int4())
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    quantize_folder(checkpoint, tmp_path / "new", Int4())
    load(empty_model, tmp_path / "new")


def test_too_small_a_disk_is_noticed_before_the_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"new needs 0\.0 GB, and the disk has 0\.0 GB left"):
        quantize_folder(checkpoint, tmp_path / "new", Int4())
    assert not (tmp_path / "new").exists()


def test_what_a_killed_process_leaves_does_not_load(
    checkpoint: Path, empty_model: Empty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def look(self: NewFolder, last: str) -> None:
        shutil.copytree(self.path, tmp_path / "killed")
        seen.append(self.path)

    monkeypatch.setattr(NewFolder, "complete", look)
    quantize_folder(checkpoint, tmp_path / "new", Int4())
    assert len(seen) == 1
    refused(empty_model, tmp_path / "killed", r"holds no config\.json")
    monkeypatch.undo()
    quantize_folder(checkpoint, tmp_path / "killed", Int4())
    load(empty_model, tmp_path / "killed")


def test_the_file_without_which_nothing_loads_gets_its_name_last(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, named = Path.replace, []

    def watch(self: Path, target: Path) -> Path:
        named.append(target.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    quantize_folder(checkpoint, tmp_path / "new", Int4(), max_shard_bytes=60_000)
    assert sorted(named) == sorted(path.name for path in (tmp_path / "new").iterdir())
    assert len(named) > 5
    assert named[-1] == "config.json"


def test_a_format_that_quantises_nothing_is_no_format(checkpoint: Path, tmp_path: Path) -> None:
    class Nothing:
        name = "nothing"

        def matrix_for(self, name: str) -> None:
            return None

    with pytest.raises(PluginError, match="format 'nothing' quantises nothing"):
        quantize_folder(checkpoint, tmp_path / "new", Nothing())


@pytest.mark.parametrize("format", FORMATS)
def test_a_quantised_model_is_saved_in_the_same_layout(
    checkpoint: Path,
    empty_model: Empty,
    small_config: ModelConfig,
    tower: dict[str, Tensor],
    tmp_path: Path,
    format: QuantizationFormat,
) -> None:
    from dgemma_backend.config import DecodingDefaults

    quantize_folder(checkpoint, tmp_path / "one", format)
    model = empty_model()
    load_into(model, checkpoint, dtype=torch.float32, device="cpu", quantization=format)
    decoding = DecodingDefaults(4, 0.4, 0.8, 0.1, 0.005, 1, (1,), 0)
    options: dict[str, Any] = {"decoding": decoding, "extra": tower, "dtype": torch.float32}
    save(model, tmp_path / "other", config=small_config, **options)
    assert equal(all_tensors(tmp_path / "other"), all_tensors(tmp_path / "one"))
    configs = [ModelConfig.from_folder(tmp_path / each) for each in ("one", "other")]
    assert configs[0] == configs[1]
    assert equal(load(empty_model, tmp_path / "other"), flat(model))
    # ... and a model in full precision over it says no more of quantisation
    dense = empty_model()
    load_into(dense, checkpoint, dtype=torch.float32, device="cpu")
    save(dense, tmp_path / "other", config=configs[1], **options)
    assert ModelConfig.from_folder(tmp_path / "other").quantization is None
    assert equal(load(empty_model, tmp_path / "other"), flat(dense))
