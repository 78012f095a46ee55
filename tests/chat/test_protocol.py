"""Gemma4Protocol: the published template's text, by hand, and nothing injected."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend.chat.protocol import GENERATIONS, Gemma4Protocol
from dgemma_backend.chat.segments import TextSegment, segments_to_text
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.errors import CheckpointError, EmptyPromptError, PromptError, SettingError
from dgemma_backend.messages import Image, Message, Text, Tool, ToolCall, ToolChoice

FULL_SIZE = Path(__file__).parents[3] / "shared/reference/data/gemma4_tokenizer.json.xz"
GOLDEN = json.loads((Path(__file__).parent / "data/chat_golden.json").read_text())["cases"]
UNKNOWN_PARTS = {"6 img": "video parts do not exist here"}


def as_message(golden: dict[str, Any]) -> Message:
    content = golden.get("content")
    if isinstance(content, list):
        content = tuple(
            Image(b"") if part["type"] == "image" else Text(part["text"]) for part in content
        )
    calls = [
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in golden.get("tool_calls", [])
    ]
    return Message(
        "system" if golden["role"] == "developer" else golden["role"],
        content,
        tuple(calls),
        golden.get("reasoning_content"),
        golden.get("tool_call_id"),
        golden.get("name"),
    )


def golden_cases() -> list[Any]:
    cases = []
    for case in GOLDEN:
        for generation in GENERATIONS:
            if case["rendered"].get(generation) is None:
                continue  # the template itself refuses this input
            reason = UNKNOWN_PARTS.get(case["name"])
            marks = [pytest.mark.skip(reason)] if reason else []
            cases.append(
                pytest.param(case, generation, id=f"{case['name']}-{generation}", marks=marks)
            )
    return cases


def rendered(case: dict[str, Any], protocol: Gemma4Protocol) -> str:
    options = case["options"]
    segments = protocol.segments(
        [as_message(each) for each in case["messages"]],
        [Tool(**tool["function"]) for tool in case["tools"] or []],
        thinking=options.get("enable_thinking", False),
        preserve_thinking=options.get("preserve_thinking", False),
        generation_prompt=case["add_generation_prompt"],
    )
    return segments_to_text(segments)


@pytest.mark.parametrize(("case", "generation"), golden_cases())
def test_renders_what_the_published_template_renders(
    toy: ChatTokenizer, case: dict[str, Any], generation: str
) -> None:
    # "5e" has text beside tool calls, which is only malformed in the template's own order.
    protocol = Gemma4Protocol(
        toy, generation=generation, normalise=not case["name"].startswith("5e")
    )
    assert rendered(case, protocol) == case["rendered"][generation]


def test_text_beside_calls_goes_before_them_and_the_turn_stays_open(
    toy_protocol: Gemma4Protocol,
) -> None:
    case = next(case for case in GOLDEN if case["name"].startswith("5e"))
    turn = rendered(case, toy_protocol).split("<|turn>model\n")
    assert len(turn) == 2
    assert turn[1].startswith("Let me check.<|tool_call>call:now{}<tool_call|>")
    assert turn[1].endswith('response:get_weather{value:<|"|>rain<|"|>}<tool_response|>')


def test_golden_ids_of_the_full_size_tokenizer(full_protocol: Gemma4Protocol) -> None:
    ids = full_protocol.prompt_ids([Message.user("Hello")])
    assert ids == [2, 105, 2364, 107, 9259, 106, 107, 105, 4368, 107]
    encode = full_protocol.tokenizer.encode_text
    question = [108, 3689, 563, 506, 6590, 529, 236743, 236825, 236832, 236881, 107]
    assert encode("user\n\nWhat is the meaning of 67?\n") == [2364, *question]
    assert encode("thought\n") == [45518, 107]


def test_the_answer_to_learn_ends_with_its_stop_token(full_protocol: Gemma4Protocol) -> None:
    call = ToolCall("c", "now", {"zone": "UTC"})
    assert full_protocol.answer_ids(Message.assistant(" Hello ")) == [9259, 106]
    called = full_protocol.answer_ids(Message.assistant(tool_calls=[call]))
    assert (called[0], called[-2:]) == (48, [49, 50])
    thought = full_protocol.answer_ids(Message.assistant("Hello", reasoning="hm"))
    assert (thought[:3], thought[-3:]) == ([100, 45518, 107], [101, 9259, 106])


def test_only_an_assistant_message_is_an_answer(toy_protocol: Gemma4Protocol) -> None:
    with pytest.raises(PromptError, match="only an assistant message is an answer, not a user"):
        toy_protocol.answer_ids(Message.user("hi"))


def test_a_prompt_then_its_answer_is_how_history_goes_on(toy_protocol: Gemma4Protocol) -> None:
    call = ToolCall("c", "now", {"zone": "UTC", "deep": {"b": [1, None], "A": True}})
    asked = [Message.user("what time?")]
    for answer in (Message.assistant("noon"), Message.assistant("One moment.", tool_calls=[call])):
        generated = toy_protocol.prompt_ids(asked) + toy_protocol.answer_ids(answer)
        later = [
            *asked,
            answer,
            *([Message.tool("12", tool_call_id="c")] if answer.tool_calls else []),
        ]
        assert (
            toy_protocol.prompt_ids([*later, Message.user("thanks")])[: len(generated)] == generated
        )


@pytest.mark.parametrize("messages", [[], [Message.user("")], [Message.user(" \n")]])
def test_an_empty_conversation_is_refused(
    toy_protocol: Gemma4Protocol, messages: list[Message]
) -> None:
    with pytest.raises(EmptyPromptError, match="no message says anything"):
        toy_protocol.prompt_ids(messages)


def test_a_tool_result_without_its_call_is_refused(toy_protocol: Gemma4Protocol) -> None:
    orphan = Message.tool("12", tool_call_id="c1")
    with pytest.raises(PromptError, match=r"a tool result \(for 'c1'\) follows no tool call"):
        toy_protocol.prompt_ids([Message.user("hi"), Message.assistant("x"), orphan])


def test_an_image_is_refused_until_there_is_vision(toy_protocol: Gemma4Protocol) -> None:
    with pytest.raises(PromptError, match="cannot look at images yet"):
        toy_protocol.prompt_ids([Message.user([Text("what?"), Image(b"")])])


@pytest.mark.parametrize(
    "choice", [ToolChoice("none"), ToolChoice("required"), ToolChoice.named("now")]
)
def test_forcing_a_call_is_refused_not_ignored(
    toy_protocol: Gemma4Protocol, choice: ToolChoice
) -> None:
    with pytest.raises(SettingError, match=f"tool choice '{choice.mode}' is not supported yet"):
        toy_protocol.prompt_ids([Message.user("hi")], [Tool("now")], tool_choice=choice)


def test_an_unknown_generation_is_refused_with_those_there_are(toy: ChatTokenizer) -> None:
    with pytest.raises(SettingError, match="there are diffusiongemma-hub, gemma4-2026-07"):
        Gemma4Protocol(toy, generation="chatml")


def test_a_tokenizer_without_a_needed_control_token_is_refused(toy_json: dict[str, Any]) -> None:
    toy_json["added_tokens"] = [
        each for each in toy_json["added_tokens"] if each["content"] != "<|tool_call>"
    ]
    with pytest.raises(CheckpointError, match=r"has no control token '<\|tool_call>'"):
        Gemma4Protocol(ChatTokenizer(toy_json))


def test_a_result_takes_its_tool_from_id_then_name_then_place(toy_protocol: Gemma4Protocol) -> None:
    calls = [ToolCall("a", "one", {}), ToolCall("b", "two", {})]
    results = {
        "two": [Message.tool("x", tool_call_id="b")],
        "three": [Message.tool("x", name="three")],
        "one": [Message.tool("x")],
        "unknown": [Message.tool("x", tool_call_id="elsewhere")],
    }
    for name, messages in results.items():
        conversation = [Message.user("q"), Message.assistant(tool_calls=calls), *messages]
        assert f"response:{name}{{" in segments_to_text(toy_protocol.segments(conversation))


def test_neighbouring_text_is_one_segment(toy_protocol: Gemma4Protocol) -> None:
    segments = toy_protocol.segments([Message.user([Text("a"), Text("b")])])
    assert TextSegment("user\nab") in segments


def test_thoughts_before_the_last_question_are_dropped(toy_protocol: Gemma4Protocol) -> None:
    answer = Message.assistant("Hello!", reasoning="hmm")
    spelt = segments_to_text(toy_protocol.segments([Message.user("Hi"), answer, Message.user("x")]))
    assert "hmm" not in spelt
    spelt = segments_to_text(toy_protocol.segments([Message.user("Hi"), answer]))
    assert "<|channel>thought\nhmm\n<channel|>Hello!" in spelt
    again = replace(answer, reasoning=None)
    assert "thought" not in segments_to_text(toy_protocol.segments([Message.user("Hi"), again]))
