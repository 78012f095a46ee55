"""Starts the process that measures, ends it in time, and makes a report of what it left.

A kernel that reads a wrong address takes the device away from its process, and one that never ends
never returns to it: so measuring is done by another process. Where that dies of a kernel's fault,
the next one leaves the kernel to its reference and goes on with the phases that remain. Nothing
here imports torch.
"""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

from .journal import Row, read_rows
from .plan import DEVICE_LOST, REFUSED
from .report import write_report

RUNNING = "gpu-running.jsonl"
_SHARE = 0.97  # of the seconds for phases; who has not ended when all are over is ended
_WORTH = 10.0  # seconds; with fewer left no other process is started
_STARTS = 5


class _AskedToEndError(Exception):
    """SIGTERM, as `timeout` sends it."""


def run(options: Namespace, script: Path, names: list[str]) -> int:
    """The command; returns its exit code."""
    journal = options.out / RUNNING
    options.out.mkdir(parents=True, exist_ok=True)
    journal.unlink(missing_ok=True)
    before = signal.signal(signal.SIGTERM, _ask_to_end)
    try:
        if _measure(options, script, names, journal) == REFUSED:
            return REFUSED
    except (KeyboardInterrupt, _AskedToEndError):
        _append(journal, {"kind": "ended", "phase": "", "why": "asked to"})
    finally:
        signal.signal(signal.SIGTERM, before)
    code = report(journal, options.out)
    journal.unlink(missing_ok=True)
    return code


def report(journal: Path, folder: Path) -> int:
    """Write and print it; 1 if a check failed or there is none."""
    rows = read_rows(journal)
    if not rows:
        print(f"nothing was measured: {journal} has no rows")
        return 1
    print(f"results are in {folder}")
    print(write_report(rows, folder))
    checked = [row["passed"] for row in rows if "passed" in row]
    return int(not checked or not all(checked))


def _measure(options: Namespace, script: Path, names: list[str], journal: Path) -> int:
    """Start workers until all phases are over; REFUSED if none of them can be measured here."""
    end = time.monotonic() + options.budget
    replaced = list(filter(None, options.replace.split(",")))
    for _ in range(_STARTS):
        left = end - time.monotonic()
        command = [sys.executable, str(script), "--worker", "--journal", str(journal)]
        command += ["--budget", f"{_SHARE * left:.1f}", "--phases", ",".join(names)]
        command += ["--only", options.only, "--replace", ",".join(replaced)]
        command += ["--toy"] if options.toy else []
        code = _finished(command, left)
        rows = read_rows(journal)
        if code is None:
            _append(journal, {"kind": "ended", "phase": "", "why": "over its time"})
        if not code or code == REFUSED:
            return code or 0
        over = {row["phase"] for row in rows if row["kind"] == "phase"}
        names = [name for name in names if name not in over]
        if not names:
            break
        suspect = rows[-1].get("suspect", "") if rows and code == DEVICE_LOST else ""
        if suspect and suspect not in replaced:
            replaced.append(suspect)
        else:  # the same would come of it again
            _append(journal, {"kind": "died", "phase": names[0], "code": code})
            names = names[1:]
        if not names or end - time.monotonic() < _WORTH:
            break
    return 0


def _finished(command: list[str], seconds: float) -> int | None:
    """The exit code; None for a process that had to be ended, and its own processes with it."""
    child = subprocess.Popen(command, start_new_session=True)
    try:
        return child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _append(journal: Path, row: Row) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(row) + "\n")  # the line before may be cut


def _ask_to_end(*_: object) -> None:
    raise _AskedToEndError
