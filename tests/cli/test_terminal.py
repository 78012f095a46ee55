"""The command in a terminal of its own, with a real Ctrl-C, and what `--help` costs."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

COMMAND = [sys.executable, "-m", "dgemma_backend.cli"]
PATIENCE = 30.0
CTRL_C, CTRL_D = "\x03", "\x04"


class Session:
    """A program in a pseudo-terminal: send keys, wait for what it shows."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process, self.terminal, self.shown = process, terminal, ""

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """What is shown up to `pattern`, which is taken away."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self.terminal], [], [], 0.2)
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.shown!r}"
            if ready:
                try:
                    self.shown += os.read(self.terminal, 4096).decode()
                except OSError:  # the program has left
                    assert re.search(pattern, self.shown), f"no {pattern!r} in {self.shown!r}"
        before = self.shown[: found.end()]
        self.shown = self.shown[found.end() :]
        return before


@contextmanager
def session(env: dict[str, str], *arguments: str) -> Iterator[Session]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(theirs)
    try:
        yield Session(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that ^C becomes a signal
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_at_the_prompt_it_leaves(recite: dict[str, str]) -> None:
    with session(recite, "chat", "--engine", "recite") as chat:
        chat.wait_for("> ")
        chat.press("slow " + "a " * 400 + "end\n")
        chat.wait_for(r"end\r\nslow a a ")  # the line as typed, then the answer to it
        chat.press(CTRL_C)
        stopped = chat.wait_for(r"\[stopped\]")
        assert "end" not in stopped
        chat.wait_for("> ")
        chat.press("sky\n")
        chat.wait_for(r"sky \r\n> ")  # it goes on, and the next answer is whole
        deadline = time.monotonic() + PATIENCE
        while chat.process.poll() is None and time.monotonic() < deadline:
            chat.press(CTRL_C)  # again: readline is deaf just after it has shown the prompt
            with suppress(subprocess.TimeoutExpired):  # but not while it is leaving
                chat.process.wait(3)
        assert chat.process.returncode == 0


@pytest.mark.slow
def test_ctrl_d_leaves_the_chat(recite: dict[str, str]) -> None:
    with session(recite, "chat", "--engine", "recite") as chat:
        chat.wait_for("> ")
        chat.press(CTRL_D)
        assert chat.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_ctrl_c_ends_generate_without_a_traceback(recite: dict[str, str]) -> None:
    with session(recite, "generate", "--engine", "recite", "slow " + "a " * 400) as generate:
        generate.wait_for("slow a a ")
        generate.press(CTRL_C)
        assert generate.process.wait(PATIENCE) == 130
        assert "Traceback" not in generate.wait_for("(?s).*")


@pytest.mark.slow
def test_watch_redraws_in_a_terminal(recite: dict[str, str]) -> None:
    with session(recite, "watch", "--engine", "recite", "slow blue sky") as watch:
        shown = watch.wait_for("tokens per step")
        assert "step  2/2" in shown
        assert "\x1b[2K" in shown  # a line was erased to be drawn anew
        assert re.search(r"slow blue sky +\r\n3 tokens", re.sub(r"\x1b\[[?\d;]*\w", "", shown))


@pytest.mark.slow
def test_a_prompt_is_asked_for_where_none_could_come(recite: dict[str, str]) -> None:
    with session(recite, "generate", "--engine", "recite") as generate:
        generate.wait_for("What is the prompt")
        assert generate.process.wait(PATIENCE) == 2


def test_a_reader_that_leaves_early_is_no_drama(recite: dict[str, str]) -> None:
    line = f"'{sys.executable}' -m dgemma_backend.cli watch --engine recite '{'slow ' * 30}'"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} | head -n 1"],
        env=recite,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("verb", ["--help", "generate --help", "plugins", "doctor --help"])
def test_help_and_listings_load_no_torch(recite: dict[str, str], verb: str) -> None:
    program = (
        "import sys; from dgemma_backend.cli import main; code = main(sys.argv[1:]); "
        "print(code, *({'torch', 'tokenizers', 'rich', 'transformers'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", program, *verb.split()]
    done = subprocess.run(command, env=recite, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0", done.stderr


def test_an_answer_can_be_printed_where_its_characters_do_not_exist(
    recite: dict[str, str],
) -> None:
    env = {**recite, "PYTHONIOENCODING": "latin-1"}
    command = [*COMMAND, "generate", "--engine", "recite", "sky \u5929"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "sky ? \n")
