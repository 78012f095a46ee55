import json
from collections.abc import Callable
from pathlib import Path

import pytest

Dgemma = Callable[..., tuple[int, str, str]]
RECITE = "--engine", "recite"


def test_generate_prints_the_answer_and_nothing_else(dgemma: Dgemma) -> None:
    assert dgemma("generate", *RECITE, "The sky is blue.") == (0, "The sky is blue. \n", "")


def test_words_of_the_command_line_are_one_prompt(dgemma: Dgemma) -> None:
    assert dgemma("generate", *RECITE, "The", "sky")[1] == "The sky \n"


def test_a_prompt_may_be_piped_in(dgemma: Dgemma) -> None:
    assert dgemma("generate", *RECITE, piped="The sky\n")[1] == "The sky \n"


def test_a_dash_stands_for_what_is_piped_in(dgemma: Dgemma) -> None:
    assert dgemma("generate", *RECITE, "Repeat:", "-", piped="blue\n")[1] == "Repeat: blue \n"


def test_without_a_dash_a_pipe_is_not_read(dgemma: Dgemma) -> None:
    assert dgemma("generate", *RECITE, "sky", piped="blue")[1] == "sky \n"


def test_instructions_stand_above_the_conversation(dgemma: Dgemma) -> None:
    code, out, _ = dgemma("generate", *RECITE, "--system", "Be brief.", "history")
    assert (code, out) == (0, "system:Be brief. user:history \n")


def test_the_whole_reply_as_json(dgemma: Dgemma) -> None:
    code, out, _ = dgemma("generate", *RECITE, "--json", "--seed", "7", "blue sky")
    reply = json.loads(out)
    assert code == 0
    assert (reply["text"], reply["seed"]) == ("blue sky", 7)
    assert reply["usage"]["denoising_steps"] == 4


def test_what_it_cost_is_told_beside_the_answer(dgemma: Dgemma) -> None:
    _, out, told = dgemma("generate", *RECITE, "--usage", "blue sky")
    assert out == "blue sky \n"
    assert told == "2 tokens, 2 canvases, 4 steps, 0.5 tokens per step, 0.30 s\n"


def test_a_cut_answer_says_that_it_was_cut(dgemma: Dgemma) -> None:
    told = dgemma("generate", *RECITE, "--max-tokens", "2", "blue sky")[2]
    assert told == "dgemma: cut after 2 tokens (--max-tokens allows more)\n"


def test_thoughts_are_no_part_of_the_answer(dgemma: Dgemma) -> None:
    code, out, told = dgemma("generate", *RECITE, "--thinking", "blue")
    assert (code, out) == (0, "blue \n")
    assert "hm" in told


def test_watch_draws_every_step_and_ends_with_the_cost(dgemma: Dgemma) -> None:
    code, out, _ = dgemma("watch", *RECITE, "blue sky")
    assert code == 0
    assert out.splitlines() == [
        "canvas 1  step  1/2  accepted   1/2  0.50 nats | b",
        "canvas 1  step  2/2  accepted   2/2  0.50 nats | bl",
        "blue ",
        "canvas 2  step  1/2  accepted   1/2  0.50 nats | s",
        "canvas 2  step  2/2  accepted   2/2  0.50 nats | sk",
        "sky ",
        "2 tokens, 2 canvases, 4 steps, 0.5 tokens per step, 0.30 s",
    ]


def test_a_chat_remembers_its_turns_until_it_starts_over(dgemma: Dgemma) -> None:
    code, out, told = dgemma("chat", *RECITE, piped="one\n\nhistory\n/new\nhistory\n/exit\nno\n")
    assert (code, told) == (0, "")
    assert out.splitlines() == ["one ", "user:one assistant:one user:history ", "user:history "]


def test_a_refused_turn_leaves_no_trace_in_the_chat(dgemma: Dgemma) -> None:
    _, out, told = dgemma("chat", *RECITE, "--system", "s", piped="refuse\nhistory\n")
    assert told == "dgemma: refuse is\nno [31mquestion\n"
    assert out == "system:s user:history \n"


def test_an_unknown_chat_command_is_not_sent_to_the_model(dgemma: Dgemma) -> None:
    _, out, told = dgemma("chat", *RECITE, piped="/nwe\n")
    assert out == ""
    assert "There is no '/nwe'. /new starts over" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--max-tokens", "0", "hi"], "max_tokens=0 must be a whole number from 1"),
        (["generate", "--temperature", "9", "hi"], "temperature=9.0 must be a finite number"),
        (["generate", "--engine", "recit", "hi"], "no engine 'recit'. Did you mean 'recite'?"),
        (["generate", "--model", "tinny", "hi"], "there is no model 'tinny'."),
        (["generate", "--device", "tpu", "hi"], "device='tpu' must be"),
        (["generate", *RECITE, "refuse"], "dgemma: refuse is\nno [31mquestion"),
        (["chat", "--model", "no/such/folder"], "no/such/folder"),
        (["watch", "--top-p", "0", "hi"], "top_p=0.0 must be a finite number above 0"),
        (["pull", "tiny"], "comes with this package"),
        (["pull", "../etc"], "is no hub id"),
    ],
)
def test_our_own_errors_are_a_message_and_exit_code_2(
    dgemma: Dgemma, arguments: list[str], message: str
) -> None:
    code, out, told = dgemma(*arguments)
    assert (code, out) == (2, "")
    assert told.startswith("dgemma: ")
    assert message in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--tempreature", "1", "hi"], "No such option"),
        (["genrate", "hi"], "No such command"),
        (["generate", "--seed", "x", "hi"], "is not a valid integer"),
    ],
)
def test_a_mistyped_command_line_is_explained(
    dgemma: Dgemma, arguments: list[str], message: str
) -> None:
    code, _, told = dgemma(*arguments)
    assert code == 2
    assert message in told


def test_an_empty_prompt_is_refused_by_the_real_engine(dgemma: Dgemma) -> None:
    code, _, told = dgemma("generate", piped="")
    assert code == 2
    assert "There is nothing to answer" in told


def test_plugins_are_listed_with_their_parts(dgemma: Dgemma) -> None:
    code, out, _ = dgemma("plugins")
    assert code == 0
    assert out.startswith("dgemma_backend (built in): ok\n  engine torch\n")
    assert out.endswith("recite (recite 1.0): ok\n  engine recite\n")
    listing = json.loads(dgemma("plugins", "--json")[1])
    assert listing[1]["offers"] == [["engine", "recite"]]


@pytest.mark.filterwarnings("default")
def test_a_broken_plugin_is_listed_and_warned_of_and_not_fatal(
    dgemma: Dgemma, tmp_path: Path
) -> None:
    points = tmp_path / "recite-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text() + "broken = no_such_module_anywhere\n")
    code, out, told = dgemma("plugins")
    assert (code, told) == (1, "")
    assert "broken (recite 1.0): failed\n  problem: cannot be loaded: ModuleNotFound" in out
    code, out, told = dgemma("generate", *RECITE, "sky")
    assert (code, out) == (0, "sky \n")
    assert told.startswith("dgemma: warning: plugin 'broken' cannot be loaded: ")


def test_the_version_is_the_packages(dgemma: Dgemma) -> None:
    from dgemma_backend import __version__

    assert dgemma("--version")[1] == f"dgemma, version {__version__}\n"
