import json
from pathlib import Path

from click.testing import CliRunner, Result

from dgemma_backend.cli.render import render
from dgemma_backend.errors import PromptError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(render, arguments)


def test_control_tokens_are_marked_and_text_that_spells_one_is_not() -> None:
    result = run("--system", "Be brief.", "say <turn|> now")
    assert result.stdout == (
        "[[<bos>]][[<|turn>]]system\nBe brief.[[<turn|>]]\n"
        "[[<|turn>]]user\nsay <turn|> now[[<turn|>]]\n[[<|turn>]]model\n\n"
    )
    assert result.stderr.endswith(" tokens\n")


def test_thinking_and_the_generation_of_the_template_can_be_chosen() -> None:
    assert "[[<|think|>]]" in run("--thinking", "hi").stdout
    assert "thought\n[[<channel|>]]" in run("--generation", "gemma4-2026-07", "hi").stdout


def test_segments_and_ids_as_json() -> None:
    shown = json.loads(run("--json", "hi").stdout)
    assert shown["segments"][0] == {"control": "<bos>", "ids": [2]}
    assert shown["segments"][2]["text"] == "user\nhi"
    assert shown["tokens"] == sum(len(each["ids"]) for each in shown["segments"])


def test_a_whole_conversation_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    call = {"id": "c", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    messages = [
        {"role": "user", "content": "time?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "12"},
    ]
    tool = {"type": "function", "function": {"name": "now", "description": "The time."}}
    file.write_text(json.dumps({"messages": messages, "tools": [tool]}))
    shown = run("--messages", str(file)).stdout
    assert 'call:now{zone:[[<|"|>]]UTC[[<|"|>]]}[[<tool_call|>]]' in shown
    assert "[[<|tool>]]declaration:now" in shown


def test_a_file_that_is_no_conversation_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    for content in ("{", "[]", '{"messages": [{"content": "hi"}]}', '{"messages": 5}'):
        file.write_text(content)
        error = run("--messages", str(file)).exception
        assert isinstance(error, PromptError), error
        assert str(file) in str(error)


def test_what_steers_a_terminal_is_left_out() -> None:
    assert "\x1b" not in run("hi \x1b[31mred").stdout
