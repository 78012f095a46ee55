"""What comes out: invoke, stream and their async twins say the same, whatever the answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core._api import LangChainBetaWarning
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream

from langchain_dgemma import ChatDiffusionGemma

Scripted = Callable[..., Any]
Q = '<|"|>'
CALL = ["<|tool_call>", "call:book{name:", Q, "Zoë", Q, ",seats:4}", "<tool_call|>"]
BROKEN = ["<|tool_call>", "call:book{name:Ana, Ben}", "<tool_call|>"]
THOUGHT = ["<|channel>", "thought\nLet me see ✓\n", "<channel|>"]
END = ["<|tool_response>"]
ANSWERS = {
    "text": ["Grüße, world. 日本語", "<turn|>"],
    "nothing": ["<turn|>"],
    "call": [*CALL, *END],
    "thought and text": [*THOUGHT, "Well.", "<turn|>"],
    "thought, text, two calls": [*THOUGHT, "One moment.", *CALL, *CALL, *END],
    "text, call, text, call": ["First.", *CALL, "Then.", *CALL, *END],
    "text, thought, text": ["So.", *THOUGHT, "Yes.", "<turn|>"],
    "broken call": ["Hm.", *BROKEN, *CALL, *END],
    "empty call": ["<|tool_call>", "<tool_call|>", *END],
    "braces only": ["<|tool_call>", '{"a": 1}', "<tool_call|>", *END],
}
VERSIONS = ["v0", "v1"]


def model_of(engine: Any, **options: Any) -> ChatDiffusionGemma:
    return ChatDiffusionGemma(engine=engine, seed=1, **options)


def comparable(message: AIMessage) -> dict[str, Any]:
    """A message without what a second run or another way of asking must change."""
    fields = message.model_dump()
    for name in ("id", "type", "chunk_position", "tool_call_chunks"):
        fields.pop(name, None)
    for name in ("prefill_seconds", "decode_seconds", "first_text_seconds"):
        assert fields["response_metadata"]["dgemma"].pop(name) >= 0
    return fields


def added(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("canvas", [1, 7, 500])
async def test_all_ways_of_asking_give_the_same_message(
    scripted: Scripted, answer: list[str], version: str, canvas: int
) -> None:
    model = model_of(scripted(answer, canvas=canvas), thinking=True, output_version=version)
    invoked = comparable(model.invoke("hi"))
    assert comparable(await model.ainvoke("hi")) == invoked
    assert comparable(added(list(model.stream("hi")))) == invoked
    assert comparable(added([chunk async for chunk in model.astream("hi")])) == invoked


def as_blocks(message: AIMessage) -> dict[str, Any]:
    """A message of any version as v3 assembles it: content blocks, without their numbers."""
    fields = comparable(message)
    del fields["content"], fields["additional_kwargs"]
    fields["response_metadata"].pop("output_version", None)
    blocks = [{**block} for block in message.content_blocks]
    for block in (*blocks, *fields["invalid_tool_calls"]):
        block.pop("index", None)
        block.pop("error", None)  # LangChain has none of its own
    return {**fields, "blocks": blocks}


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("canvas", [1, 7, 500])
async def test_protocol_events_are_valid_and_add_up_to_the_invoked_message(
    scripted: Scripted, answer: list[str], canvas: int
) -> None:
    model = model_of(scripted(answer, canvas=canvas), thinking=True, output_version="v1")
    invoked = as_blocks(model.invoke("hi"))
    stream = model.stream_events("hi", version="v3")
    events = list(stream)
    assert_valid_event_stream(events)
    assert as_blocks(stream.output) == invoked
    astream = await model.astream_events("hi", version="v3")
    assert [event["event"] for event in events] == [event["event"] async for event in astream]
    assert as_blocks(await astream.output) == invoked
    assert str(stream.text) == model.invoke("hi").text


PIECES = st.one_of(
    st.text("aé✓ 日<{", min_size=1, max_size=9).map(lambda text: [text]),
    st.sampled_from([CALL, BROKEN, THOUGHT]),
)


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(PIECES, max_size=6),
    canvas=st.integers(1, 40),
    version=st.sampled_from(VERSIONS),
    thinking=st.booleans(),
)
def test_any_mix_of_blocks_says_the_same_however_it_is_asked(
    scripted: Scripted, pieces: list[list[str]], canvas: int, version: str, thinking: bool
) -> None:
    answer = [part for piece in pieces for part in piece] + ["<turn|>"]
    engine = scripted(answer, canvas=canvas)
    model = model_of(engine, thinking=thinking, output_version=version)
    assert comparable(added(list(model.stream("hi")))) == comparable(model.invoke("hi"))
    blocks = model_of(engine, thinking=thinking, output_version="v1")
    stream = blocks.stream_events("hi", version="v3")
    assert_valid_event_stream(list(stream))
    assert as_blocks(stream.output) == as_blocks(blocks.invoke("hi"))


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_protocol_events_keep_blocks_in_order_one_after_another(scripted: Scripted) -> None:
    model = model_of(scripted(ANSWERS["text, thought, text"], canvas=3), thinking=True)
    events: list[Any] = list(model.stream_events("hi", version="v3"))
    kinds = [event["content"]["type"] for event in events if "content-block-st" in event["event"]]
    assert kinds == ["text", "reasoning", "text"]
    indices = [event["index"] for event in events if "index" in event]
    assert indices == sorted(indices)
    assert events[0]["metadata"] == {"provider": "dgemma", "model": "scripted"}
    assert events[0]["id"].startswith("lc_run-")


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_chunk_holds_one_kind_of_content(
    scripted: Scripted, answer: list[str], version: str
) -> None:
    model = model_of(scripted(answer), thinking=True, output_version=version)
    *chunks, last = model.stream("hi")
    for chunk in chunks:
        kinds = {block["type"] for block in chunk.content_blocks}
        assert len(kinds) == 1, kinds
        assert chunk.usage_metadata is None
    assert last.chunk_position == "last"
    assert not last.content
    assert last.usage_metadata is not None


def test_text_thoughts_and_calls_have_their_places(scripted: Scripted) -> None:
    engine = scripted(ANSWERS["thought, text, two calls"])
    message = model_of(engine, thinking=True).invoke("hi")
    assert message.content == "One moment."
    assert message.additional_kwargs == {"reasoning_content": "Let me see ✓"}
    assert [call["args"] for call in message.tool_calls] == [{"name": "Zoë", "seats": 4}] * 2
    first, second = (call["id"] for call in message.tool_calls)
    assert first != second
    assert message.response_metadata["finish_reason"] == "tool_calls"


def test_version_1_keeps_the_order_of_blocks(scripted: Scripted) -> None:
    engine = scripted(ANSWERS["text, call, text, call"])
    message = model_of(engine, output_version="v1").invoke("hi")
    kinds = [block["type"] for block in message.content_blocks]
    assert kinds == ["text", "tool_call", "text", "tool_call"]
    thoughtful = model_of(scripted(ANSWERS["text, thought, text"]), output_version="v1")
    kinds = [block["type"] for block in thoughtful.invoke("hi").content_blocks]
    assert kinds == ["text", "reasoning", "text"]


@pytest.mark.parametrize("name", ["broken call", "empty call", "braces only"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_call_that_cannot_be_read_is_reported_and_never_invented(
    scripted: Scripted, name: str, version: str
) -> None:
    message = model_of(scripted(ANSWERS[name]), output_version=version).invoke("hi")
    (invalid,) = message.invalid_tool_calls
    assert str(invalid["args"]).startswith("<|tool_call>")
    assert message.response_metadata["dgemma"]["invalid_tool_calls"].keys() == {invalid["id"]}
    assert len(message.tool_calls) == ANSWERS[name].count("call:book{name:")


def test_usage_and_metadata_are_told_once(scripted: Scripted) -> None:
    engine = scripted([*THOUGHT, "Hello there", "<turn|>"])
    chunks = list(model_of(engine, thinking=True).stream("hi"))
    thought = len("".join(THOUGHT).encode()) - len("<|channel><channel|>") + 2
    assert chunks[-1].usage_metadata == {
        "input_tokens": len(engine.requests[0].prompt_ids),
        "output_tokens": thought + len("Hello there") + 1,
        "total_tokens": len(engine.requests[0].prompt_ids) + thought + len("Hello there") + 1,
        "input_token_details": {"cache_read": 0},
        "output_token_details": {"reasoning": thought},
    }
    assert [chunk.response_metadata.get("model_name") for chunk in chunks].count("scripted") == 1
    assert {chunk.response_metadata["model_provider"] for chunk in chunks} == {"dgemma"}
    whole = added(chunks).response_metadata
    assert (whole["finish_reason"], whole["model_name"]) == ("stop", "scripted")
    assert whole["dgemma"]["denoising_steps"] == 2 * whole["dgemma"]["canvases"]
    assert whole["dgemma"]["seed"] == 1


def test_streaming_gives_text_canvas_by_canvas(scripted: Scripted) -> None:
    text = "One two three four five six"
    texts = [str(c.content) for c in model_of(scripted([text, "<turn|>"])).stream("hi")]
    assert texts == ["One two", " three ", "four fi", "ve six", ""]


def test_a_message_survives_being_saved(scripted: Scripted) -> None:
    message = model_of(scripted(ANSWERS["broken call"])).invoke("hi")
    with pytest.warns(LangChainBetaWarning):
        assert loads(dumps(message), allowed_objects="messages") == message
    json.dumps(message.response_metadata)


def test_a_chain_of_prompt_model_and_parser_answers(scripted: Scripted) -> None:
    engine = scripted(["Paris", "<turn|>"])
    prompt = ChatPromptTemplate([("system", "Be brief."), ("user", "Capital of {country}?")])
    chain = prompt | model_of(engine) | StrOutputParser()
    assert chain.invoke({"country": "France"}) == "Paris"
    assert engine.prompt_of() == (
        "<bos><|turn>system\nBe brief.<turn|>\n"
        "<|turn>user\nCapital of France?<turn|>\n<|turn>model\n"
    )
    assert list(chain.stream({"country": "France"})) == ["Paris", ""]
    assert chain.batch([{"country": "France"}] * 3) == ["Paris"] * 3
