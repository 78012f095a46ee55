"""A model's name leads to a folder, or to a message that says what would."""

import re
import sys
from pathlib import Path

import pytest

from dgemma_backend.config import ModelConfig
from dgemma_backend.errors import CheckpointError, MissingDependencyError, ModelNotFoundError
from dgemma_backend.weights.sources import pull, resolve

ACCEPTED = (
    r"A model is 'tiny' \(built in\), a checkpoint's folder, or a Hugging Face id such as "
    r"'google/diffusiongemma-26B-A4B-it'\."
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model of this machine's user plays a part, and nothing is fetched."""
    from huggingface_hub import constants

    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def test_tiny_is_the_embedded_checkpoint() -> None:
    folder = resolve("tiny")
    assert folder.parts[-2:] == ("tiny", "checkpoint")
    assert ModelConfig.from_folder(folder).canvas_length > 0


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve(tmp_path) == tmp_path
    assert resolve("owner/model") == Path("owner/model")  # a folder comes before a hub id
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/owner") == tmp_path / "owner"


@pytest.mark.parametrize(
    "name",
    [
        "gpt-17",
        "",
        "a/b/c",
        "/no/such/folder",
        "..",
        "owner/--x",
        "a..b/c",
        "nul\0",
        "x" * 5000,
        "é/è",
    ],
)
def test_a_wrong_name_is_answered_with_what_is_accepted(name: str) -> None:
    if name == "..":
        assert resolve(name) == Path("..")
        return
    with pytest.raises(ModelNotFoundError, match=ACCEPTED) as caught:
        resolve(name)
    assert len(str(caught.value)) < 6000


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tinny", "tiny"),
        ("Tiny", "tiny"),
        ("diffusiongemma-26B-A4B", "google/diffusiongemma-26B-A4B-it"),
    ],
)
def test_the_nearest_name_is_offered(name: str, meant: str) -> None:
    with pytest.raises(ModelNotFoundError, match=re.escape(f"Did you mean {meant!r}?")):
        resolve(name)


def test_the_nearest_folder_is_offered(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-final").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"Did you mean '.*/checkpoint-final'\?"):
        resolve(str(tmp_path / "checkpoint-finl"))


def test_a_file_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"is a file\. Give the checkpoint's folder"):
        resolve(path)


def test_a_revision_is_for_hub_ids_only(tmp_path: Path) -> None:
    for model in ("tiny", tmp_path):
        with pytest.raises(CheckpointError, match="revision='main' is for hub ids"):
            resolve(model, revision="main")


@pytest.mark.parametrize("revision", ["../../x", "", "a b", "-x"])
def test_a_revision_that_cannot_be_one_is_refused(revision: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is no branch, tag or commit"):
        resolve("owner/model", revision=revision)


def test_pull_is_for_hub_ids_only(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'tiny' comes with this package"):
        pull("tiny")
    with pytest.raises(ModelNotFoundError, match=rf"is no hub id\. {ACCEPTED}"):
        pull(str(tmp_path))


def test_an_unfinished_snapshot_in_the_cache_is_not_used(empty_cache: Path) -> None:
    snapshot = empty_cache / "models--owner--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = empty_cache / "models--owner--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    with pytest.raises(ModelNotFoundError, match="not completely, on this machine"):
        resolve("owner/model")


def test_without_the_hub_library_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dgemma-backend\[hub\]'"):
        resolve("owner/model")
