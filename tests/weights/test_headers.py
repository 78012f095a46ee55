"""Safetensors headers and index files that lie are refused before anything is allocated."""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dgemma_backend.errors import CheckpointError, DgemmaError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into
from dgemma_backend.weights.shards import read_shards

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


def test_no_random_name_in_an_index_makes_anything_outside_be_opened(checkpoint: Path) -> None:
    opened: list[str] = []
    watching = True

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(details[0], str):
            opened.append(details[0])

    sys.addaudithook(watch)
    path = checkpoint / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    rng = random.Random(5)
    parts = [
        "..",
        "/",
        "etc",
        "hostname",
        "\0",
        "\\",
        ".",
        "a",
        "\u2025",
        "~",
        ".safetensors",
        "%2e",
    ]
    try:
        for _ in range(2000):
            name = "".join(rng.choices(parts, k=rng.randint(1, 6)))
            index["weight_map"]["model.decoder.norm.weight"] = name
            path.write_text(json.dumps(index))
            with pytest.raises(CheckpointError, match="No path may leave|lacks 1 of its 4"):
                read_shards(checkpoint)
    finally:
        watching = False
    home = str(checkpoint.resolve())
    assert opened
    assert [each for each in opened if not os.path.realpath(each).startswith(home)] == []


ENTRIES: list[tuple[dict[str, Any], str]] = [
    ({"shape": [16]}, "its header says .*'shape': \\[16\\]"),
    ({"shape": [-32]}, "its header says"),
    ({"shape": [2**47, 2]}, "its header says"),
    ({"shape": 32}, "its header says"),
    ({"shape": [True] * 8}, "its header says"),
    ({"dtype": "F9"}, "its header says .*'F9'"),
    ({"dtype": None}, "its header says"),
    ({"data_offsets": [0, 2**60]}, "its header says"),
    ({"data_offsets": [0]}, "its header says"),
    ({"more": 1}, "its header says"),
    ({"data_offsets": [8, 136]}, "do not begin where the last ones end"),
]


@pytest.mark.parametrize(("change", "message"), ENTRIES)
def test_a_header_that_contradicts_itself_is_refused(
    write: Write, empty_model: Empty, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = write(tmp_path / "saved")

    def lie(header: Header) -> Header:
        name = "model.decoder.norm.weight"
        return {**header, name: {**header[name], **change}}

    rewrite_header(folder / "model.safetensors", lie)
    refused(empty_model, folder, rf"is damaged: .*{message}")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", "its header is no list of tensors"),
        (b"[" * 50_000, r"not valid JSON \(RecursionError\)"),
        (b'{"a": 1, "a": 1}', "names something twice"),
        (b"\xff" * 20, r"not valid JSON \(UnicodeDecodeError\)"),
    ],
)
def test_a_header_that_is_none_is_refused(
    write: Write, empty_model: Empty, tmp_path: Path, raw: bytes, message: str
) -> None:
    folder = write(tmp_path / "saved")
    rewrite_header(folder / "model.safetensors", lambda _: raw)
    refused(empty_model, folder, message)


@pytest.mark.parametrize("length", [0, 1, 2**24 + 1, 2**60, 2**64 - 1])
def test_a_header_of_impossible_length_is_not_allocated(
    write: Write, empty_model: Empty, tmp_path: Path, length: int
) -> None:
    folder = write(tmp_path / "saved")
    path = folder / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    refused(empty_model, folder, f"first 8 announce a header of {length}")


def test_bytes_after_the_last_tensor_are_noticed(
    write: Write, empty_model: Empty, tmp_path: Path
) -> None:
    folder = write(tmp_path / "saved")
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x" * 100)
    refused(empty_model, folder, "is longer than its header says")
