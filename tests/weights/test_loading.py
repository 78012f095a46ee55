"""Weights are loaded whole and right, or not at all."""

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgemma_backend.errors import DgemmaError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into

Empty = Callable[[], DiffusionGemma]
Write = Callable[..., Path]


def load(empty: Empty, folder: Path, dtype: torch.dtype = torch.float32) -> DiffusionGemma:
    model = empty()
    load_into(model, folder, dtype=dtype, device="cpu")
    return model


def refused(empty: Empty, folder: Path, message: str) -> None:
    """Loading fails with this message and leaves the model as it was, without weights."""
    model = empty()
    with pytest.raises(DgemmaError, match=message):
        load_into(model, folder, dtype=torch.float32, device="cpu")
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def change_one(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for path in shards(folder):
        tensors = load_file(path)
        if name in tensors:
            tensors[name] = change(tensors[name])
            save_file(tensors, path)


@pytest.mark.parametrize("shard_bytes", [10**9, 120_000])
def test_what_was_saved_is_what_is_loaded(
    write: Write, empty_model: Empty, small_model: DiffusionGemma, tmp_path: Path, shard_bytes: int
) -> None:
    folder = write(tmp_path / "saved", max_shard_bytes=shard_bytes)
    assert (len(shards(folder)) == 1) == (shard_bytes == 10**9)
    loaded = load(empty_model, folder).state_dict()
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    rounded = load(empty_model, folder, torch.bfloat16).state_dict()
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(rounded[name], tensor.bfloat16()), name


def test_a_missing_tensor_is_named_with_the_likely_cause(
    write: Write, empty_model: Empty, tmp_path: Path
) -> None:
    folder = write(tmp_path / "saved")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.decoder.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    refused(empty_model, folder, r"lacks 1 of the \d+.*model\.decoder\.norm\.weight.*unfinished")


def test_a_tensor_too_many_is_named(write: Write, empty_model: Empty, tmp_path: Path) -> None:
    folder = write(tmp_path / "saved")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": torch.ones(2)}, folder / "model.safetensors")
    refused(empty_model, folder, r"holds 1 tensors.*lm_head\.weight")


def test_another_shape_is_named_with_both_shapes(checkpoint: Path, empty_model: Empty) -> None:
    change_one(checkpoint, "model.decoder.norm.weight", lambda t: t[:-1].contiguous())
    refused(empty_model, checkpoint, r"norm\.weight has shape \(31,\).*makes it \(32,\)")


def test_whole_numbers_are_refused_as_weights(checkpoint: Path, empty_model: Empty) -> None:
    change_one(checkpoint, "model.decoder.norm.weight", lambda t: t.to(torch.int8))
    refused(empty_model, checkpoint, "norm.weight is stored as I8.*quantised")


def test_encoder_and_decoder_must_scale_layers_alike(checkpoint: Path, empty_model: Empty) -> None:
    name = "model.encoder.language_model.layers.1.layer_scalar"
    change_one(checkpoint, name, lambda t: t + 1)
    refused(empty_model, checkpoint, r"layers\.1\.layer_scalar is .*stored twice")


def test_weights_of_another_architecture_are_called_so(
    write: Write, empty_model: Empty, tmp_path: Path
) -> None:
    folder = write(tmp_path / "saved")
    save_file({"transformer.h.0.weight": torch.ones(2)}, folder / "model.safetensors")
    refused(empty_model, folder, "another architecture's weights.*transformer.h.0.weight")


def test_a_config_of_another_architecture_is_refused(checkpoint: Path, empty_model: Empty) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    refused(empty_model, checkpoint, "llama|Llama")


def test_half_a_download_names_the_missing_file(checkpoint: Path, empty_model: Empty) -> None:
    shards(checkpoint)[1].unlink()
    refused(empty_model, checkpoint, r"lacks 1 of its \d weight files, model-00002.*dgemma pull")


def test_a_folder_without_weights_says_what_it_lacks(checkpoint: Path, empty_model: Empty) -> None:
    for path in [*shards(checkpoint), checkpoint / "model.safetensors.index.json"]:
        path.unlink(missing_ok=True)
    refused(empty_model, checkpoint, "safetensors")


@pytest.mark.parametrize(
    "name",
    ["../../../etc/hostname", "/etc/hostname", "..\\evil.safetensors", "a/b.safetensors", ""],
)
def test_no_name_in_the_index_leads_out_of_the_folder(
    checkpoint: Path, empty_model: Empty, name: str
) -> None:
    path = checkpoint / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.decoder.norm.weight"] = name
    path.write_text(json.dumps(index))
    refused(empty_model, checkpoint, "No path may leave the folder")


def test_a_link_out_of_the_folder_is_not_followed(
    checkpoint: Path, empty_model: Empty, tmp_path: Path
) -> None:
    victim = shards(checkpoint)[0]
    victim.rename(tmp_path / "elsewhere.safetensors")
    victim.symlink_to(tmp_path / "elsewhere.safetensors")
    refused(empty_model, checkpoint, "link")


def test_the_links_of_a_hub_cache_are_followed(
    checkpoint: Path, empty_model: Empty, tmp_path: Path
) -> None:
    cache = tmp_path / "hub" / "models--someone--small"
    snapshot = cache / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for path in checkpoint.iterdir():
        blob = cache / "blobs" / f"{abs(hash(path.name)):064x}"[:64]
        path.rename(blob)
        (snapshot / path.name).symlink_to(Path("../..") / "blobs" / blob.name)
    load_into(empty_model(), snapshot, dtype=torch.float32, device="cpu", verify=False)


def test_every_truncation_is_noticed(checkpoint: Path, empty_model: Empty) -> None:
    rng = random.Random(0)
    path = shards(checkpoint)[0]
    whole = path.read_bytes()
    for _ in range(120):
        path.write_bytes(whole[: rng.randrange(len(whole))])
        refused(empty_model, checkpoint, "unfinished|etch it again|cut short")
    path.write_bytes(whole)
    load(empty_model, checkpoint)


def test_a_damaged_header_is_a_typed_error_or_changes_nothing(
    checkpoint: Path, empty_model: Empty
) -> None:
    rng = random.Random(1)
    path = shards(checkpoint)[0]
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    expected = load(empty_model, checkpoint).state_dict()
    failed = 0
    for _ in range(300):
        place, bit = rng.randrange(header), 1 << rng.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            found = load(empty_model, checkpoint).state_dict()
        except DgemmaError:
            failed += 1
        else:
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert failed > 200


def test_a_flipped_byte_is_found_where_there_are_checksums(
    write: Write, empty_model: Empty, tmp_path: Path
) -> None:
    folder = write(tmp_path / "saved", manifest=True)
    load(empty_model, folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    refused(empty_model, folder, r"model\.safetensors")


def test_saving_over_a_checkpoint_leaves_no_old_shard(
    write: Write, empty_model: Empty, tmp_path: Path
) -> None:
    folder = write(tmp_path / "saved", max_shard_bytes=120_000)
    write(folder)
    assert [path.name for path in shards(folder)] == ["model.safetensors"]
    load(empty_model, folder)


PEAK = """
import sys, torch
from pathlib import Path
from dgemma_backend.config import ModelConfig
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

folder = Path(sys.argv[1])
with torch.device("meta"):
    model = DiffusionGemma(ModelConfig.from_folder(folder))
held = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
load_into(model, folder, dtype=torch.float32, device="cpu")
sizes = [tensor.numel() * 4 for tensor in model.state_dict().values()]
print(sum(sizes), max(sizes), status("VmHWM") - held)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads its peak memory from /proc")
def test_loading_holds_the_model_and_one_tensor_at_most(wide_checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(wide_checkpoint)],
        check=True,
        capture_output=True,
        text=True,
    )
    size, largest, peak = map(int, done.stdout.split())
    assert size > 40_000_000
    assert peak < size + largest + 16 * 2**20
