"""A fingerprint tells checkpoints apart, and reads little for it."""

from pathlib import Path

import pytest

from dgemma_backend import fingerprint
from dgemma_backend.errors import ModelNotFoundError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 8192)  # 2 MiB
    (tmp_path / "notes.txt").write_text("anything")
    return tmp_path


def test_the_built_in_model_has_one() -> None:
    found = fingerprint("tiny")
    assert found is not None
    assert len(found) == 16
    assert found == fingerprint("tiny")


def test_it_changes_with_weights_and_settings_and_with_nothing_else(folder: Path) -> None:
    first = fingerprint(folder)
    (folder / "notes.txt").write_text("something else")
    assert fingerprint(folder) == first
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(bytes(byte ^ 1 for byte in content))
    trained = fingerprint(folder)
    assert trained != first
    weights.write_bytes(content)
    (folder / "config.json").write_text('{"a": 1}')
    assert fingerprint(folder) not in (first, trained)


def test_it_is_the_same_wherever_the_folder_is(folder: Path) -> None:
    first = fingerprint(folder)
    moved = folder.rename(folder.with_name("moved"))
    assert fingerprint(moved) == first


def test_a_hub_id_that_is_not_here_has_none_and_nonsense_is_refused() -> None:
    assert fingerprint("nobody/nothing") is None
    with pytest.raises(ModelNotFoundError):
        fingerprint("/no/such/folder")
