"""The two files as they were published with the 26B checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture
def published() -> Callable[[str], dict[str, Any]]:
    """A fresh copy of "config" or "generation_config"."""

    def read(which: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((DATA / f"published_{which}.json").read_text())
        return content

    return read
