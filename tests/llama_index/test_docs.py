"""The Python of docs/llamaindex.md is run, block after block."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "llamaindex.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
def test_every_block_of_the_page_runs_behind_those_before_it() -> None:
    assert len(BLOCKS) == 8
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(BLOCKS)],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    for said in ("prompt_tokens", " 1/48 ", "no setting 'temprature'", "name=", "age="):
        assert said in done.stdout


def test_every_link_of_the_page_leads_somewhere() -> None:
    for page in (ROOT / "docs/llamaindex.md", ROOT / "examples/rag_llamaindex/README.md"):
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.slow
def test_the_agent_example_calls_its_tool_and_reads_an_object() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "examples/llamaindex_agent.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "gather_pebble({'owner': 'Odette'}) -> Granada" in done.stdout
    assert "Person(name=" in done.stdout
