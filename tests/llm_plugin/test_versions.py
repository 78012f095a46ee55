"""The same plugin with the oldest `llm` it promises to work with."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLDEST = ROOT / ".venv" / "llm-oldest"
"""Where `make` puts it: pip install --no-deps --target .venv/llm-oldest llm==0.32.1."""


def test_this_run_has_a_newer_llm() -> None:
    assert tuple(map(int, version("llm").split(".")[:2])) >= (0, 36)


@pytest.mark.slow
@pytest.mark.skipif(not OLDEST.is_dir(), reason=f"llm 0.32.1 is not in {OLDEST}")
def test_every_answer_is_the_same_with_the_oldest_llm() -> None:
    program = (
        "import llm.parts, importlib.metadata, sys, pytest\n"
        "assert importlib.metadata.version('llm') == '0.32.1'\n"
        "asked = ['-q', '-p', 'no:cacheprovider', 'tests/llm_plugin/test_answers.py']\n"
        "sys.exit(pytest.main(asked))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": f"{OLDEST}:{':'.join(sys.path)}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "10 passed" in done.stdout
