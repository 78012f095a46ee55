"""Agents of the package langchain, its middleware, and its ways to name a model by a string."""

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core import exceptions
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from dgemma_backend.errors import PluginError
from langchain_dgemma import ChatDiffusionGemma, register

pytest.importorskip("langchain", reason="agents come with the package langchain")

from langchain.agents import create_agent
from langchain.agents.middleware import (
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    HumanInTheLoopMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain.chat_models import base as chat_models
from langchain.chat_models import init_chat_model
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

Scripted = Callable[..., Any]
Q = '<|"|>'
CALL = ["<|tool_call>", "call:weather{city:", Q, "Lisbon", Q, "}", "<tool_call|>"]
CALLED = [*CALL, "<|tool_response>"]
ASKED = "What is the weather in Lisbon?"
CONFIG: Any = {"configurable": {"thread_id": "1"}}


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


class Report(BaseModel):
    """A report."""

    city: str
    degrees: int


class Failed(BaseCallbackHandler):
    """Counts the calls of a model that failed."""

    times = 0

    def on_llm_error(self, *_: Any, **__: Any) -> None:
        self.times += 1


def model(**options: Any) -> ChatDiffusionGemma:
    return ChatDiffusionGemma(model="a", engine="obedient", **options)


def asked(text: str = ASKED) -> Any:
    return {"messages": [HumanMessage(text)]}


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_an_agent_calls_a_tool_and_answers_from_its_result(
    obedient: Any, version: str, thinking: bool
) -> None:
    agent: Any = create_agent(model(output_version=version, thinking=thinking), [weather])
    for state in (agent.invoke(asked()), await agent.ainvoke(asked())):
        human, call, result, answer = state["messages"]
        assert isinstance(human, HumanMessage)
        assert call.tool_calls[0]["args"] == {"city": "Lisbon"}
        assert isinstance(result, ToolMessage)
        assert answer.text == "The result is sunny in Lisbon."


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy, lambda schema: schema])
@pytest.mark.parametrize("tools", [[], [weather]])
def test_an_agent_reports_by_schema_with_every_strategy(
    obedient: Any, strategy: Callable[[type], Any], tools: list[Any]
) -> None:
    agent: Any = create_agent(model(), tools, response_format=strategy(Report))
    state = agent.invoke(asked("Report for Lisbon at 31 degrees."), {"recursion_limit": 8})
    assert state["structured_response"] == Report(city="Lisbon", degrees=31)


def test_the_profile_lets_an_agent_choose_the_provider_strategy(obedient: Any) -> None:
    agent: Any = create_agent(model(), [weather], response_format=Report)
    agent.invoke(asked("Report for Lisbon at 31 degrees."))
    (request,) = obedient.opened[0].requests
    assert request.response_format.value == Report.model_json_schema()
    assert [each.name for each in request.tools] == ["weather"]


def test_long_conversations_are_summarized_at_a_fraction_of_the_context(scripted: Scripted) -> None:
    engine = scripted(["A summary.", "<turn|>"], ["Here you are.", "<turn|>"], context=10_000)
    chat = ChatDiffusionGemma(engine=engine)
    agent: Any = create_agent(
        chat,
        middleware=[SummarizationMiddleware(chat, trigger=("fraction", 0.2), keep=("messages", 1))],
    )
    history = [HumanMessage("word " * 1600), AIMessage("yes"), HumanMessage("So?")]
    messages = agent.invoke({"messages": history})["messages"]
    assert "A summary." in messages[0].text
    assert messages[-1].text == "Here you are."
    assert len(messages) == 3


def test_usage_is_trusted_by_the_summarizer_because_the_provider_is_the_same() -> None:
    chat = ChatDiffusionGemma()
    assert chat._get_ls_params()["ls_provider"] == "dgemma"


def test_an_overflow_is_told_as_what_middleware_recovers_from(scripted: Scripted) -> None:
    chat = ChatDiffusionGemma(engine=scripted(["x", "<turn|>"], context=64))
    agent: Any = create_agent(chat)
    with pytest.raises(exceptions.ContextOverflowError):
        agent.invoke(asked("word " * 100))


def test_personal_data_is_redacted_in_what_the_model_says(scripted: Scripted) -> None:
    engine = scripted(["Write to ana@example.com.", "<turn|>"])
    redacting = PIIMiddleware("email", apply_to_output=True)
    agent: Any = create_agent(ChatDiffusionGemma(engine=engine), middleware=[redacting])
    state = agent.invoke(asked("Write to bob@example.com"))
    assert "bob@example.com" not in engine.prompt_of()
    assert state["messages"][-1].text == "Write to [REDACTED_EMAIL]."


def test_a_person_may_look_at_a_call_before_it_runs(obedient: Any) -> None:
    agent: Any = create_agent(
        model(),
        [weather],
        middleware=[HumanInTheLoopMiddleware({"weather": True})],
        checkpointer=InMemorySaver(),
    )
    waiting = agent.invoke(asked(), CONFIG)
    assert waiting["__interrupt__"][0].value["action_requests"][0]["args"] == {"city": "Lisbon"}
    state = agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), CONFIG)
    assert state["messages"][-1].text == "The result is sunny in Lisbon."


def test_what_may_be_tried_again_is_and_what_may_not_is_not(scripted: Scripted) -> None:
    retrying: Any = ModelRetryMiddleware(max_retries=2, initial_delay=0, on_failure="error")
    engine = scripted(["done", "<turn|>"])
    begin, failures = engine._begin, iter([TimeoutError])

    def flaky(request: Any, drafts: bool) -> Any:
        if next(failures, None):
            request.cancelled.clear()
            request.started -= 10**6  # its deadline has passed
        return begin(request, drafts)

    engine._begin = flaky
    agent: Any = create_agent(ChatDiffusionGemma(engine=engine, timeout=60), middleware=[retrying])
    assert agent.invoke(asked())["messages"][-1].text == "done"
    assert len(engine.requests) == 2
    chat = ChatDiffusionGemma(engine=engine)
    chat.temperature = 9
    failed = Failed()
    bad: Any = create_agent(chat, middleware=[retrying])
    with pytest.raises(exceptions.ModelInvalidRequestError):
        bad.invoke(asked(), {"callbacks": [failed]})
    assert failed.times == 1


def test_old_tool_results_are_cleared_by_the_models_own_count(scripted: Scripted) -> None:
    engine = scripted(CALLED, CALLED, ["done", "<turn|>"])
    editing = ContextEditingMiddleware(
        edits=[ClearToolUsesEdit(trigger=200, keep=1)], token_count_method="model"
    )
    chat = ChatDiffusionGemma(engine=engine, seed=1)
    agent: Any = create_agent(chat, [weather], middleware=[editing])
    messages = agent.invoke(asked())["messages"]
    assert messages[-1].text == "done"
    first, second = (call["id"] for message in messages[1::2] for call in message.tool_calls)
    assert first != second  # the same seed, and the same call
    assert engine.prompt_of().count("sunny in Lisbon") == 1
    assert "[cleared]" in engine.prompt_of()


# --- models named by a string ---


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_models, "_BUILTIN_PROVIDERS", dict(chat_models._BUILTIN_PROVIDERS))
    register()
    register()


@pytest.mark.usefixtures("registered")
def test_a_registered_provider_is_made_by_name() -> None:
    by_prefix = init_chat_model("dgemma:tiny", temperature=0.5)
    by_word = init_chat_model("tiny", model_provider="dgemma")
    assert isinstance(by_prefix, ChatDiffusionGemma)
    assert isinstance(by_word, ChatDiffusionGemma)
    assert (by_prefix.model, by_prefix.temperature) == ("tiny", 0.5)


@pytest.mark.usefixtures("registered")
def test_a_configurable_model_by_name_opens_its_engine_once(obedient: Any) -> None:
    chat = init_chat_model(
        configurable_fields=("model", "temperature"), model_provider="dgemma", engine="obedient"
    )
    for warmth in (0.1, 0.2, 0.3):
        told: Any = {"configurable": {"model": "a", "temperature": warmth}}
        chat.bind_tools([weather]).invoke("hi", told)
    (engine,) = obedient.opened
    assert [request.settings.temperature for request in engine.requests] == [0.1, 0.2, 0.3]


@pytest.mark.usefixtures("registered")
def test_an_agent_takes_the_model_by_name() -> None:
    agent: Any = create_agent("dgemma:tiny", [weather])
    assert "model" in agent.get_graph().nodes


def test_nothing_is_registered_by_importing() -> None:
    with pytest.raises(ValueError, match="dgemma"):
        init_chat_model("dgemma:tiny")


def test_a_langchain_with_other_tables_is_answered_with_the_other_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(chat_models, "_BUILTIN_PROVIDERS")
    with pytest.raises(PluginError, match=r"Pass the model itself: ChatDiffusionGemma\(...\)"):
        register()


@pytest.mark.filterwarnings("ignore")
def test_deep_agents_find_the_provider_by_themselves(
    obedient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deepagents = pytest.importorskip("deepagents", reason="deepagents is not installed")
    monkeypatch.setattr(chat_models, "_BUILTIN_PROVIDERS", dict(chat_models._BUILTIN_PROVIDERS))
    monkeypatch.setitem(obedient.defaults, "canvas_length", 64)
    deepagents.register_provider_profile(  # beside the one of our entry point
        "dgemma", deepagents.ProviderProfile(init_kwargs={"engine": "obedient"})
    )
    agent: Any = deepagents.create_deep_agent(model="dgemma:a", tools=[weather])
    assert agent.invoke(asked("Hi."))["messages"][-1].text == "So be it: Hi."
    (engine,) = obedient.opened
    assert "declaration:weather" in engine.prompt_of()
