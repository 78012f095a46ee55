"""Plugins as people write them: modules on disk, installed by a real entry point."""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install(name, source)` writes a plugin module and the metadata pip would leave behind.

    Returns the file. `value` replaces the entry point's value, `dist` the distribution's name.
    """
    monkeypatch.syspath_prepend(str(tmp_path))
    for variable in ("DGEMMA_PLUGINS", "DGEMMA_DISABLE_PLUGINS", "DGEMMA_STRICT_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)

    def write(name: str, source: str, *, value: str | None = None, dist: str | None = None) -> Path:
        module = f"dgemma_test_{tmp_path.name}_{dist or name}".replace("-", "_")
        file = tmp_path / f"{module}.py"
        file.write_text("from dgemma_backend.hookspecs import *\n" + dedent(source))
        info = tmp_path / f"{dist or name}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {dist or name}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[dgemma_backend]\n{name} = {value or module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        return file

    return write
