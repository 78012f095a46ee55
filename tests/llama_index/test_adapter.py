"""What the kit does not ask: our own errors, settings, drafts and odd inputs."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    CacheControl,
    CachePoint,
    ChatMessage,
    CitationBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.tools import FunctionTool
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import instrument_tags
from llama_index_instrumentation.event_handlers import BaseEventHandler

from dgemma_backend import Message, ScriptedEngine, ToolCall
from dgemma_backend.errors import (
    ContextLengthError,
    GenerationError,
    PromptError,
    SettingError,
    UnknownSettingError,
)
from dgemma_backend.runtime.request import Request
from llama_index.llms.dgemma import (
    DiffusionGemma,
    DraftEvent,
    NoToolCallError,
)
from llama_index.llms.dgemma.convert import calls_of, to_messages

NewEngine = Callable[..., ScriptedEngine]


def user(text: str = "Hello!") -> ChatMessage:
    return ChatMessage(role="user", content=text)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADD = FunctionTool.from_defaults(add)


# settings and errors


def test_names_that_do_not_exist_are_refused_with_the_nearest_one() -> None:
    with pytest.raises(UnknownSettingError, match=r"no parameter 'temprature'.*'temperature'"):
        DiffusionGemma(temprature=0)
    with pytest.raises(UnknownSettingError, match="no setting 'max_token'.*'max_tokens'"):
        DiffusionGemma().chat([user()], max_token=3)


@pytest.mark.parametrize("name", ["completion_to_prompt", "messages_to_prompt"])
def test_templates_of_other_models_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name} has no effect here.*formatted=True"):
        DiffusionGemma(**{name: str})


def test_values_are_checked_when_they_are_given(llm: DiffusionGemma) -> None:
    with pytest.raises(SettingError, match="temperature=7"):
        DiffusionGemma(temperature=7)
    with pytest.raises(SettingError, match="top_p=0"):
        llm.stream_chat([user()], top_p=0)


def test_settings_of_a_call_come_before_those_of_the_object(engine: ScriptedEngine) -> None:
    llm = DiffusionGemma(engine=engine, seed=1, stop="x", thinking=True, thinking_budget=50)
    llm.chat([user()], seed=2, temperature=0.5)
    settings = engine.requests[-1].settings
    assert (settings.seed, settings.temperature, settings.stop) == (2, 0.5, ("x",))
    assert settings.thinking_budget == 50
    llm.chat([user()], thinking=False)
    assert engine.requests[-1].settings.thinking_budget is None


def test_a_prompt_that_is_too_long_is_our_error(new_engine: NewEngine) -> None:
    llm = DiffusionGemma(engine=new_engine(context_length=64))
    with pytest.raises(ContextLengthError, match="does not fit"):
        llm.complete("word " * 50)


def test_a_failure_in_mid_stream_is_raised_and_the_engine_goes_on(new_engine: NewEngine) -> None:
    def failing(request: Request) -> Iterator[str]:
        yield "Half of "
        if request.messages[-1].text == "fail":
            raise GenerationError("the model broke")
        yield "a word"

    llm = DiffusionGemma(engine=new_engine(failing))
    stream = llm.stream_chat([user("fail")])
    assert next(stream).delta == "Half of"
    with pytest.raises(GenerationError, match="the model broke"):
        list(stream)
    assert llm.complete("go on").text == "Half of a word"


def test_num_output_leaves_room_for_an_answer(llm: DiffusionGemma) -> None:
    assert DiffusionGemma(model="tiny").metadata.num_output == 256  # a quarter of 1,024
    assert llm.metadata.num_output == 2048
    assert DiffusionGemma(model="tiny", context_window=400).metadata.context_window == 400
    missing = DiffusionGemma(model="/no/such/folder").metadata
    assert 0 < missing.num_output < missing.context_window


def test_what_was_opened_cannot_be_changed_but_settings_can(llm: DiffusionGemma) -> None:
    with pytest.raises(ValueError, match="frozen"):
        llm.model = "another"
    llm.max_tokens = 3
    assert llm.complete("Hello!").raw["usage"]["completion_tokens"] == 3


def test_it_is_made_again_from_its_dictionary() -> None:
    llm = DiffusionGemma(model="/models/mine", stop="x", temperature=0.5, device="cpu")
    told = json.loads(llm.to_json())
    again = DiffusionGemma.from_dict(told)
    assert again.to_dict() == llm.to_dict()
    assert (again.model, again.stop, told["class_name"]) == (
        "/models/mine",
        ("x",),
        "DiffusionGemma_LLM",
    )


# messages


def test_blocks_are_told_as_they_are_meant() -> None:
    cache = CachePoint(cache_control=CacheControl(type="ephemeral"))
    cited = CitationBlock(
        cited_content=TextBlock(text="Rain."), source="s", title="t", additional_location_info={}
    )
    blocks = [TextBlock(text="One."), cache, TextBlock(text="Two."), cited]
    (message,) = to_messages([ChatMessage(role="user", blocks=blocks)])
    assert message == Message.user("One.\nTwo.\nRain.")
    assert message.text == "One.\nTwo.\nRain."


def test_every_role_becomes_one_of_ours() -> None:
    roles = ("system", "developer", "user", "assistant", "chatbot", "model")
    told = to_messages([ChatMessage(role=role, content="x") for role in roles])
    assert [message.role for message in told] == [
        *("system", "system", "user"),
        *("assistant", "assistant", "assistant"),
    ]
    function = ChatMessage(role="function", content="3", additional_kwargs={"name": "add"})
    assert to_messages([function]) == [Message.tool("3", name="add")]


def test_images_are_handed_on_and_addresses_never_fetched() -> None:
    picture = ImageBlock(image=b"\x89PNG\r\n\x1a\n" + bytes(20))
    (message,) = to_messages([ChatMessage(role="user", blocks=[TextBlock(text="See"), picture])])
    assert message.content[1].data.startswith(b"\x89PNG")  # type: ignore[index, union-attr]
    linked = ImageBlock(url="http://127.0.0.1:9/cat.png")
    with pytest.raises(PromptError, match="never fetched"):
        to_messages([ChatMessage(role="user", blocks=[linked])])


def test_thoughts_of_a_turn_that_is_over_are_dropped(
    llm: DiffusionGemma, engine: ScriptedEngine
) -> None:
    call = ToolCallBlock(tool_call_id="7", tool_name="add", tool_kwargs={"a": 1, "b": 2})
    thinking = ChatMessage(role="assistant", blocks=[ThinkingBlock(content="Hm, add."), call])
    result = ChatMessage(role="tool", content="3", additional_kwargs={"tool_call_id": "7"})
    llm.chat([user("1 + 2?"), thinking, result])
    assert "Hm, add." in engine.prompt_of()
    llm.chat([user("1 + 2?"), thinking, result, user("And now?")])
    assert "Hm, add." not in engine.prompt_of()


@pytest.mark.parametrize(
    "older",
    [
        {"id": "7", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"function": {"name": "add", "arguments": {"a": 1}}, "id": "7"},
        {"tool_id": "7", "tool_name": "add", "tool_kwargs": {"a": 1}},
    ],
)
def test_calls_of_other_providers_are_read(older: dict[str, Any]) -> None:
    (call,) = calls_of(ChatMessage(role="assistant", additional_kwargs={"tool_calls": [older]}))
    assert (call.id, call.name, call.arguments) == ("7", "add", {"a": 1})


def test_a_message_with_blocks_and_older_calls_has_each_call_once(llm: DiffusionGemma) -> None:
    answer = llm.chat_with_tools([ADD], user_msg="Call add with a 1 and b 2.")
    assert len(calls_of(answer.message)) == 1
    (told,) = to_messages([answer.message])
    assert len(told.tool_calls) == 1


def test_a_call_that_was_not_finished_is_told_apart(new_engine: NewEngine) -> None:
    llm = DiffusionGemma(engine=new_engine(lambda request: ["<|tool_call>", "call:add{a:1,"]))
    answer = llm.chat_with_tools([ADD], user_msg="Add.")
    (call,) = llm.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("add (its arguments could not be read)", {})
    assert answer.raw is not None
    assert list(answer.raw["invalid_tool_calls"]) == [call.tool_id]
    json.dumps(answer.message.model_dump(mode="json"))


def test_an_answer_cut_off_in_its_thought_says_so(
    llm: DiffusionGemma, caplog: pytest.LogCaptureFixture
) -> None:
    answer = llm.chat([user()], thinking=True, max_tokens=20)
    assert answer.message.content == ""
    assert answer.raw is not None
    assert answer.raw["cut_in_thought"]
    assert answer.raw["finish_reason"] == "length"
    assert "Raise max_tokens" in caplog.text


# tools


def test_tools_may_be_given_in_openai_form(llm: DiffusionGemma, engine: ScriptedEngine) -> None:
    plain = ADD.metadata.to_openai_tool()
    llm.chat([user()], tools=[plain], tool_choice="required", parallel_tool_calls=False)
    (tool,) = engine.requests[-1].tools
    assert tool.name == "add"
    choice = engine.requests[-1].tool_choice
    assert choice is not None
    assert (choice.mode, choice.parallel) == ("required", False)
    with pytest.raises(SettingError, match="is no tool"):
        llm.chat([user()], tools=[add])


def test_a_description_of_any_length_is_taken(llm: DiffusionGemma, engine: ScriptedEngine) -> None:
    long = FunctionTool.from_defaults(add, description="word " * 400)
    llm.chat_with_tools([long], user_msg="Hello!")
    assert engine.requests[-1].tools[0].description.startswith("word word")


@pytest.mark.parametrize("choice", ["subtract", {"type": "function", "function": {"name": "x"}}])
def test_a_tool_choice_that_is_no_tool_is_refused(llm: DiffusionGemma, choice: Any) -> None:
    with pytest.raises(SettingError, match=r"none of the tools: add"):
        llm.chat_with_tools([ADD], user_msg="Hello!", tool_choice=choice)


def test_none_forbids_calls_unless_one_is_required(llm: DiffusionGemma) -> None:
    answer = llm.chat_with_tools([ADD], user_msg="Call add with a 1 and b 2.", tool_choice="none")
    assert llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False) == []
    with pytest.raises(SettingError, match="tool_required=True"):
        llm.chat_with_tools([ADD], user_msg="Hi", tool_choice="none", tool_required=True)


def test_no_call_is_our_error_and_a_value_error(llm: DiffusionGemma) -> None:
    with pytest.raises(NoToolCallError, match="only text: 'You said"):
        llm.get_tool_calls_from_response(llm.chat([user()]))


# streams and events


@pytest.mark.parametrize(("granularity", "pieces"), [("word", 12), ("sentence", 2)])
def test_a_canvas_can_be_cut_smaller(new_engine: NewEngine, granularity: str, pieces: int) -> None:
    text = "It rains on day one. It does not rain on day two."
    engine = new_engine(lambda request: Message.assistant(text), canvas=128)
    llm = DiffusionGemma(engine=engine, stream_granularity=granularity)
    chunks = list(llm.stream_complete("Hi"))
    assert len([chunk for chunk in chunks if chunk.delta]) == pieces
    assert "".join(chunk.delta or "" for chunk in chunks) == text


class Watcher(BaseEventHandler):
    """Keeps drafts."""

    drafts: list[DraftEvent]

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, DraftEvent):
            self.drafts.append(event)


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    root, watching = get_dispatcher(), Watcher(drafts=[])
    root.add_event_handler(watching)
    yield watching
    root.event_handlers.remove(watching)


async def test_drafts_are_events_with_the_tags_of_their_request(
    engine: ScriptedEngine, watcher: Watcher
) -> None:
    llm = DiffusionGemma(engine=engine, draft_events=True)
    with instrument_tags({"request": 17}):
        text = llm.complete("Hi").text
        await llm.acomplete("Hi")
    drafts = watcher.drafts
    assert len(drafts) == 4 * -(-len(f"{text}.".encode()) // 7)  # 2 steps a canvas, two answers
    assert {draft.tags["request"] for draft in drafts} == {17}
    assert [draft.step for draft in drafts[:4]] == [1, 2, 1, 2]
    assert drafts[1].text == "You sai"
    assert drafts[1].model_dump()["class_name"] == "DraftEvent"
    watcher.drafts.clear()
    DiffusionGemma(engine=engine).complete("Hi")
    assert watcher.drafts == []


async def test_closing_an_async_stream_closes_the_engines_at_once(
    llm: DiffusionGemma, engine: ScriptedEngine
) -> None:
    stream = llm._astream([Message.user("Tell me a long story.")], {})
    await anext(stream)
    await stream.aclose()
    assert engine.requests[-1].cancelled.is_set()  # without a turn of the loop


def test_token_counters_get_the_models_own_numbers(engine: ScriptedEngine) -> None:
    counter = TokenCountingHandler(tokenizer=lambda text: [1] * 999)
    llm = DiffusionGemma(engine=engine, callback_manager=CallbackManager([counter]))
    answer = llm.chat([user()])
    assert answer.raw is not None
    usage = answer.raw["usage"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]
    assert counter.completion_llm_token_count == usage["completion_tokens"]


def test_the_tokenizer_is_the_models(llm: DiffusionGemma) -> None:
    assert len(llm.tokenizer.encode("schön")) == 6  # bytes, here


def test_a_scripted_call_has_an_id_of_ours(llm: DiffusionGemma) -> None:
    answer = llm.chat_with_tools([ADD], user_msg="Call add with a 1 and b 2.")
    (block,) = (each for each in answer.message.blocks if isinstance(each, ToolCallBlock))
    assert ToolCall(block.tool_call_id or "", block.tool_name, {"a": 1, "b": 2}).id
