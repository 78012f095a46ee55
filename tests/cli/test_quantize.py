import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dgemma_backend.cli import memory

Dgemma = Callable[..., tuple[int, str, str]]


def test_a_folder_is_quantised_and_loads_like_any_other(dgemma: Dgemma, tmp_path: Path) -> None:
    folder = tmp_path / "tiny-int4"
    code, out, told = dgemma("quantize", "tiny", str(folder), "--format", "int4", "--quiet")
    assert (code, out) == (0, f"{folder}\n")
    assert told.endswith(" MB\n")
    assert (folder / "tokenizer.json").is_file()
    code, out, _ = dgemma("doctor", "--model", str(folder), "--context", "512", "--json")
    found = {each["name"]: each["detail"] for each in json.loads(out)}
    assert code == 0
    assert " in int4: experts " in found["weights"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "tiny", "FULL", "--format", "int4"], "is not empty: it holds x. Name a new"),
        (
            ["quantize", "tiny", "NEW", "--format", "int5"],
            "no quantization 'int5'. Did you mean 'i",
        ),
        (["quantize", "tinny", "NEW", "--format", "int4"], "there is no model 'tinny'."),
        (["quantize", "tiny", "NEW"], "Missing option '--format'"),
        (
            ["quantize", "tiny", "NEW", "--format", "int4", "--device", "tpu"],
            "device='tpu' must be",
        ),
        (
            ["doctor", "--quantization", "int4"],
            "--quantization is of a model: name it with --model",
        ),
        (["doctor", "-m", "tiny", "--quantization", "int5"], "there is no quantization 'int5'"),
        (["doctor", "-m", "tiny", "--context", "0"], "context=0 must be a whole number from 1"),
        (["doctor", "-m", "tinny"], "there is no model 'tinny'."),
    ],
)
def test_what_cannot_be_done_is_a_message_and_exit_code_2(
    dgemma: Dgemma, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    places = {"FULL": str(tmp_path / "full"), "NEW": str(tmp_path / "new")}
    code, out, told = dgemma(*(places.get(each, each) for each in arguments))
    assert (code, out) == (2, "")
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "new").exists()


def published_config(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    folder.mkdir()
    source = Path(__file__).parents[1] / "config" / "data" / "published_config.json"
    (folder / "config.json").write_text(source.read_text())
    return folder


@pytest.mark.parametrize("room", [16, 24])
def test_the_doctor_counts_the_memory_of_a_model_from_its_config_alone(
    dgemma: Dgemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(memory, "places", lambda: {"cuda:0": room * 10**9})
    folder = published_config(tmp_path)
    code, out, _ = dgemma("doctor", "-m", str(folder), "--quantization", "int4")
    lines = {line[8:].split()[0]: line for line in out.splitlines()}
    assert "15.32 GB in int4: experts 12.13 GB, attention and MLP 1.65 GB" in lines["weights"]
    assert "0.59 GB for 8192 tokens, sliding layers bounded" in lines["KV"]
    assert "1 x 256 x 262144 logits" in lines["canvas"]
    assert "16.13 GB, beside what the runtime itself takes" in lines["total"]
    assert code == (0 if room == 24 else 1)
    assert ("fits cuda:0" in lines["total"]) == (room == 24)


def test_a_model_that_does_not_fit_is_a_problem_with_a_mend(
    dgemma: Dgemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "places", lambda: {"cuda:0": 24 * 10**9})
    folder = published_config(tmp_path)
    code, out, _ = dgemma("doctor", "-m", str(folder), "--canvases", "2", "--context", "4096")
    assert code == 1
    assert "for 4096 tokens in each of 2 requests" in out
    assert "fits nowhere here: cuda:0 24.00 GB" in out
    assert out.rstrip().endswith("-> try --quantization int4")
