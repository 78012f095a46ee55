"""The command, with an engine whose answers are known: a plugin like any other."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPTED = '''
"""An engine that recites: every user message is answered with its own words, one per canvas."""
import time
from types import SimpleNamespace

from dgemma_backend.errors import PromptError
from dgemma_backend.events import CanvasCommitted, Draft, Finished, ReasoningDelta, TextDelta
from dgemma_backend.hookspecs import EngineRecord, hookimpl
from dgemma_backend.messages import Reply, Usage


@hookimpl
def dgemma_engines():
    return [EngineRecord("recite", __name__ + ":Reciting")]


class Reciting:
    def __init__(self, model, *, plugins, **options):
        self.closed = False
        self.info = SimpleNamespace(model=model, device="nowhere")

    def generate(self, messages, *, settings=None):
        return list(self.stream(messages, settings=settings))[-1].reply

    def stream(self, messages, *, settings=None, drafts=False):
        question = messages[-1].text
        if question == "refuse":
            raise PromptError("refuse is\\nno \\x1b[31mquestion")
        if question == "history":
            question = " ".join(f"{each.role}:{each.text}" for each in messages)
        return self._events(question, settings)

    def _events(self, question, settings):
        words = question.split(" ")
        if settings.thinking:
            yield ReasoningDelta("hm")
        for number, word in enumerate(words):
            for step in (1, 2):
                if question.startswith("slow"):
                    time.sleep(0.05)
                yield Draft(number, step, 2, word[:step], (1, 2), step, 0.5)
            yield TextDelta(word + " ")
            yield CanvasCommitted(number, (1, 2), 2, True)
        count = len(words)
        cut = settings.max_tokens is not None
        usage = Usage(3, count, 0, count, 2 * count, 0.5, 0.1, 0.2, 0.1)
        reason = "length" if cut else "stop"
        yield Finished(Reply(question, "", (), (), reason, usage, settings.seed or 0, "recite"))
'''


@pytest.fixture
def recite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installs the engine "recite"; returns the environment another process needs for it."""
    module = f"recite_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(SCRIPTED)
    info = tmp_path / "recite-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recite\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dgemma_backend]\nrecite = {module}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for variable in ("DGEMMA_PLUGINS", "DGEMMA_DISABLE_PLUGINS", "DGEMMA_STRICT_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    paths = [tmp_path, *(ROOT / room for room in ("src", "kernels", "integrations"))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "TERM": "xterm"}


@pytest.fixture
def dgemma(
    recite: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """`dgemma("generate", "hi", piped="...")` -> exit code, standard output, standard error."""
    import io

    from dgemma_backend.cli import main
    from dgemma_backend.runtime import registry

    monkeypatch.setattr(registry, "_shared", {})

    def run(*arguments: str, piped: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
