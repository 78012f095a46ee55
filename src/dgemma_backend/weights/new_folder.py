"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from dgemma_backend.errors import CheckpointError
from dgemma_backend.weights.writing import partial_name


class NewFolder:
    """A folder being written: every file under another name until `complete`.

    Leaving it before that, because of an error or an interrupt, removes what was written. What a
    killed process leaves has no name under which anything would read it, and is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Path] = {}
        self._made = self._done = False

    def __enter__(self) -> Self:
        """Raises CheckpointError for a folder that holds anything, or is none."""
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise CheckpointError(f"{self.path} is a file. Name a new folder.")
        if self.path.is_dir():
            present = sorted(self.path.iterdir())
            leftovers = [
                each for each in present
                if each.name.startswith(".") and each.name.endswith(".partial")
            ]  # fmt: skip
            if len(present) > len(leftovers):
                raise CheckpointError(
                    f"{self.path} is not empty: it holds {present[-1].name}. Name a new folder; "
                    f"none is overwritten."
                )
            for each in leftovers:
                each.unlink()
        else:
            self.path.mkdir(parents=True)
            self._made = True
        return self

    def file(self, name: str) -> Path:
        """What to write the file `name` under."""
        self.files[name] = partial_name(self.path / name)
        return self.files[name]

    def complete(self, last: str) -> None:
        """Give all files their names; `last` is the one without which the rest is nothing."""
        for name, written in sorted(self.files.items(), key=lambda each: each[0] == last):
            written.replace(self.path / name)
        self._done = True

    def __exit__(self, *_: object) -> None:
        if self._done:
            return
        for name, written in self.files.items():
            written.unlink(missing_ok=True)
            (self.path / name).unlink(missing_ok=True)
        if self._made:
            with suppress(OSError):  # somebody else put something there meanwhile
                self.path.rmdir()
