"""Results, a line of JSON each, on disk before the next is measured; and the seconds left."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class OutOfTimeError(Exception):
    """The phase has used up its seconds."""


class DeviceLostError(Exception):
    """A kernel's fault: the device works again only in another process."""

    def __init__(self, suspect: str) -> None:
        super().__init__(suspect)
        self.suspect = suspect  # the operation that ran, "" if it is not known


class Journal:
    """The rows of a run. A kill loses none of them."""

    def __init__(self, path: Path) -> None:
        self.rows = read_rows(path)  # of a process that did not get to the end
        self.phase = ""
        self._file = path.open("a", encoding="utf-8")

    def has(self, kind: str, **facts: Any) -> bool:
        """Whether there is such a row, with these facts among its own."""
        wanted = {"kind": kind, **facts}
        return any(wanted.items() <= row.items() for row in self.rows)

    def add(self, kind: str, **facts: Any) -> None:
        row = {"kind": kind, "phase": self.phase, **facts}
        self.rows.append(row)
        line = json.dumps(row)
        print(line, flush=True)
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read_rows(path: Path) -> list[Row]:
    """What there is of a run; where one was killed, a line may be cut."""
    rows: list[Row] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


class Clock:
    """Time of the run and of the phase. What one phase saves, later ones may use."""

    def __init__(self, seconds: float) -> None:
        self._begun = time.monotonic()
        self._end = self._begun + seconds
        self._deadline = self._planned = self._begun

    def begin_phase(self, seconds: float) -> None:
        self._planned += seconds
        self._deadline = min(self._planned, self._end)

    @property
    def spent(self) -> float:
        return time.monotonic() - self._begun

    @property
    def left_in_all(self) -> float:
        """Seconds until the run has to end."""
        return self._end - time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until the phase has to end."""
        return self._deadline - time.monotonic()

    def check(self, needed: float = 0.0) -> None:
        """Raise OutOfTimeError unless the phase has `needed` seconds left."""
        if self.left <= needed:
            raise OutOfTimeError(f"{needed:.0f} s needed, {max(self.left, 0):.0f} s left")
