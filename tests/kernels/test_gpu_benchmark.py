"""The GPU benchmark runs whole on a toy, finds what is wrong, and loses nothing on the way."""

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="it measures Triton's"),
]
HERE = Path(__file__).parents[1] / "benchmarks"
FORMATS = ("bf16", "fp8", "w8a8", "int4")
Part = Callable[[str], Any]

# Stands in for the process that measures: each phase is a row, some phases are fateful.
WORKER = """
import argparse, json, os, signal, sys, time
parser = argparse.ArgumentParser()
for name in ("journal", "phases", "replace", "only", "budget"):
    parser.add_argument("--" + name)
parser.add_argument("--worker", action="store_true")
parser.add_argument("--toy", action="store_true")
given = parser.parse_args()
file = open(given.journal, "a")
def add(kind, **facts):
    file.write(json.dumps({"kind": kind, **facts}) + "\\n")
    file.flush()
add("machine", phase="", device="fake", gb=1.0, toy=given.toy)
for phase in given.phases.split(","):
    add("check", phase=phase, what=phase, passed=phase != "wrong", replaced=given.replace)
    if phase == "faulty" and "attention" not in given.replace:
        add("lost", phase=phase, suspect="attention")
        sys.exit(7)
    if phase == "deadly":
        file.write('{"kind": "check", "pha')
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if phase == "endless":
        time.sleep(600)
    add("phase", phase=phase, seconds=0.0)
"""


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Part:
    """`part("report")` is that module of the benchmark."""
    monkeypatch.syspath_prepend(HERE)
    return lambda name: import_module(f"gpu_parts.{name}")


@pytest.fixture
def measured(part: Part, tmp_path: Path) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    """`measured("a", "b")` runs these phases in the stand-in: exit code, and rows of the report."""

    def run(*phases: str, budget: float = 60.0) -> tuple[int, list[dict[str, Any]]]:
        script = tmp_path / "worker.py"
        script.write_text(WORKER)
        options = Namespace(out=tmp_path, budget=budget, only="", replace="", toy=False)
        code = part("program").run(options, script, list(phases))
        return code, json.loads((tmp_path / "gpu-fake.json").read_text())["rows"]

    return run


def test_the_whole_program_runs_on_a_toy(tmp_path: Path) -> None:
    before = sorted((HERE / "results").iterdir())
    command = [sys.executable, str(HERE / "gpu.py"), "--toy", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--budget", "900"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    document = json.loads(next(tmp_path.glob("gpu-toy-*.json")).read_text())
    rows = document["rows"]
    troubles = {"cut", "error", "lost", "died", "ended"}
    assert [row for row in rows if row["kind"] in troubles or row.get("fault")] == []
    assert {row["phase"] for row in rows if row["kind"] == "phase"} == set(
        "machine compile small parity kernels steps-bf16 speeds-bf16 steps-fp8 speeds-fp8 "
        "steps-int4 speeds-int4".split()
    )
    kernels = {row["name"].split()[0] for row in rows if row["kind"] == "kernel"}
    assert kernels == set(
        "rms_norm post_attention layer_tail heads geglu route attention vocabulary experts "
        "linear".split()
    )
    steps = {(row["form"], row["batch"]) for row in rows if row["kind"] == "step"}
    assert steps >= {("bf16", 2), *((form, 1) for form in FORMATS)}
    assert all(row["floor_ms"] > 0 and row["ms"] > 0 for row in rows if row["kind"] == "step")
    for kind in ("speed", "first_text", "token"):
        assert {row["form"] for row in rows if row["kind"] == kind} == {"bf16", "fp8", "int4"}
    if importlib.util.find_spec("transformers"):
        assert "transformers" in {row["how"] for row in rows if row["kind"] == "step"}
        assert any("transformers" in row.get("what", "") for row in rows if "passed" in row)
    table = next(tmp_path.glob("gpu-toy-*.md")).read_text()
    assert len(table.splitlines()) <= 40
    assert done.stdout.endswith(table)
    assert list(tmp_path.glob("*.jsonl")) == []
    assert sorted((HERE / "results").iterdir()) == before


@pytest.mark.parametrize(
    ("form", "floors"),
    [
        ("bf16", (17.95, 27.88, 86.45)),
        ("fp8", (10.30, 20.27, 81.00)),
        ("w8a8", (9.79, 18.16, 70.42)),
        ("int4", (6.73, 16.70, 81.00)),
    ],
)
def test_floors_are_those_worked_out_for_one_h100(
    part: Part, form: str, floors: tuple[float, ...]
) -> None:
    roofline, config = part("roofline"), part("shapes").real_shapes().config
    ceilings = roofline.Ceilings(bandwidth=3.0e12, bf16=800e12, fp8=1600e12, cache=50e6)
    loads = [roofline.Load(*load) for load in ((1, 256, 1024), (4, 256, 8192), (16, 256, 32768))]
    found = [roofline.step_floor_ms(config, form, load, ceilings) for load in loads]
    assert found == pytest.approx(floors, abs=0.006)


def test_a_kernel_that_faults_is_left_to_its_reference_and_the_rest_goes_on(
    measured: Callable[..., tuple[int, list[dict[str, Any]]]],
) -> None:
    code, rows = measured("first", "faulty", "last")
    assert code == 0
    assert [(row["what"], row["replaced"]) for row in rows if row["kind"] == "check"] == [
        ("first", ""),
        ("faulty", ""),
        ("faulty", "attention"),
        ("last", "attention"),
    ]


def test_a_worker_that_dies_loses_its_phase_only(
    measured: Callable[..., tuple[int, list[dict[str, Any]]]],
) -> None:
    code, rows = measured("first", "deadly", "last")
    assert code == 0
    assert [row["phase"] for row in rows if row["kind"] == "died"] == ["deadly"]
    assert [row["phase"] for row in rows if row["kind"] == "phase"] == ["first", "last"]


def test_what_never_ends_is_ended_and_reported(
    measured: Callable[..., tuple[int, list[dict[str, Any]]]],
) -> None:
    code, rows = measured("first", "endless", budget=1.5)
    assert code == 0
    assert [row["phase"] for row in rows if row["kind"] == "phase"] == ["first"]
    assert rows[-1] == {"kind": "ended", "phase": "", "why": "over its time"}


def test_a_failed_check_is_an_exit_code_and_a_line_of_the_table(
    measured: Callable[..., tuple[int, list[dict[str, Any]]]], tmp_path: Path
) -> None:
    code, _ = measured("first", "wrong")
    assert code == 1
    assert "1 checks passed, 1 failed: wrong." in (tmp_path / "gpu-fake.md").read_text()


def test_a_report_is_made_of_what_a_killed_run_left(part: Part, tmp_path: Path) -> None:
    lines = [{"kind": "machine", "phase": "", "device": "GPU 1", "gb": 1.0}]
    lines += [{"kind": "check", "phase": "small", "what": "x", "passed": True}]
    journal = tmp_path / "gpu-running.jsonl"
    journal.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "ch')
    assert part("program").report(journal, tmp_path) == 0
    assert len(json.loads((tmp_path / "gpu-gpu-1.json").read_text())["rows"]) == 1


def test_memory_that_a_kernel_left_unwritten_never_passes(part: Part) -> None:
    compare = part("compare")
    with compare.poisoned():
        found = {"out": torch.empty(3)}
    apart = compare.distances(found, {"out": torch.ones(3)}, {"out": 1e9})
    assert not compare.facts(apart)["passed"]
    assert not torch.isnan(torch.zeros(1).new_empty(3).fill_(0)).any()


def test_a_phase_is_cut_where_its_seconds_end_and_may_use_what_was_saved(part: Part) -> None:
    journal = part("journal")
    clock = journal.Clock(100.0)
    clock.begin_phase(10.0)
    clock.check(9.0)
    with pytest.raises(journal.OutOfTimeError, match="11 s needed, 10 s left"):
        clock.check(11.0)
    clock.begin_phase(10.0)
    clock.check(19.0)


def test_the_table_has_forty_lines_however_much_was_measured(part: Part) -> None:
    load = {"kind": "step", "phase": "", "peak_gb": 17.0, "how": "graph", "floor_ms": 10.0}
    rows: list[dict[str, Any]] = [{"kind": "machine", "phase": "", "device": "fake", "gb": 1.0}]
    rows += [
        {**load, "form": form, "batch": batch, "prefix": prefix, "ms": 11.0, "times_floor": 1.1}
        for form in FORMATS
        for batch in (1, 4, 16)
        for prefix in (1024, 8192, 32768)
    ]
    rows += [
        {"kind": "kernel", "phase": "", "name": f"k{i}", "batch": 1, "prefix": 0, "ms": 1.0}
        | {"floor_ms": 0.5, "times_floor": 2.0, "gb_per_s": 1, "passed": True}
        for i in range(99)
    ]
    table = part("report").markdown(rows)
    assert len(table.splitlines()) == 40
    assert "- int4 step within 1.15 of its floor: 1.10 times the floor, reached" in table
    assert "- INT4 under 18 GB: 17.00 GB at the peak, reached" in table
