"""The bulk labeller runs as it is shown."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str, stdin: str = "") -> list[str]:
    command = [sys.executable, str(ROOT / "examples" / "sentiment_bulk.py"), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_every_message_of_a_stream_gets_one_label() -> None:
    lines = run("--file", "-", stdin="All is well.\n\nNothing works!\n")
    assert [line.split("%  ")[1] for line in lines[:2]] == ["All is well.", "Nothing works!"]
    assert all(line.split()[0] in ("positive", "neutral", "negative") for line in lines[:2])
    assert re.fullmatch(r"2 messages in \d+\.\d\d s: \d+ messages/s", lines[-1])
    assert run("--file", "-", stdin="All is well.\n")[0] == lines[0]  # the same with less company
