"""The engine behind a model: opened late, once, shared, closed; its errors; its token counts."""

import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core import exceptions
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool

import dgemma_backend
from dgemma_backend.errors import (
    CheckpointError,
    NonFiniteLogitsError,
    QueueFullError,
    ResponseFormatError,
)
from langchain_dgemma import ChatDiffusionGemma
from langchain_dgemma.failures import translated

Scripted = Callable[..., Any]
HELLO = ["Hello", "<turn|>"]


@tool
def booking(seats: int) -> str:
    """Book a table."""
    return str(seats)


def test_models_with_the_same_arguments_share_an_engine(obedient: Any) -> None:
    model = ChatDiffusionGemma(model="a", engine="obedient")
    model.invoke("hi")
    ChatDiffusionGemma(model="a", engine="obedient", temperature=0.5).invoke("hi")
    for name in ("model", "model_name", "model_id"):
        asked: dict[str, Any] = {name: "b"}
        message = model.invoke("hi", **asked)
        assert message.response_metadata["model_name"] == "b"
    assert [engine.info.model for engine in obedient.opened] == ["a", "b"]


def test_a_configurable_model_opens_its_engine_once(obedient: Any) -> None:
    model = ChatDiffusionGemma(model="a", engine="obedient").configurable_fields(
        temperature=ConfigurableField(id="warmth")
    )
    for warmth in (0.1, 0.2, 0.3):
        model.invoke("hi", {"configurable": {"warmth": warmth}})
    (engine,) = obedient.opened
    assert [request.settings.temperature for request in engine.requests] == [0.1, 0.2, 0.3]


def test_a_closed_model_opens_its_engine_again(obedient: Any) -> None:
    model = ChatDiffusionGemma(model="a", engine="obedient")
    model.preload()
    (first,) = obedient.opened
    model.close()
    assert first.closed
    model.close()
    assert model.invoke("hi").content
    assert len(obedient.opened) == 2


def test_an_engine_that_was_given_open_stays_open(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    ChatDiffusionGemma(engine=engine).close()
    assert not engine.closed


def test_a_pickled_model_opens_its_engine_anew_and_shares_it(obedient: Any) -> None:
    model = ChatDiffusionGemma(model="a", engine="obedient", stop=["x"])
    model.invoke("hi")
    twin = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert twin.stop == ["x"]
    twin.invoke("hi")
    assert len(obedient.opened) == 1


def test_options_of_an_engine_are_passed_on(obedient: Any) -> None:
    model = ChatDiffusionGemma(
        model="a", engine="obedient", engine_options={"canvas_length": 3}, device="cpu"
    )
    model.invoke("hi")
    assert obedient.opened[0].info.canvas_length == 3


def test_another_model_cannot_be_asked_of_an_open_engine(scripted: Scripted) -> None:
    model = ChatDiffusionGemma(engine=scripted(HELLO))
    assert model.invoke("hi", model="scripted").content == "Hello"
    with pytest.raises(exceptions.ModelNotFoundError, match="'other' was asked for"):
        model.invoke("hi", model="other")


def test_a_model_that_does_not_exist_is_langchains_error_with_ours_as_cause() -> None:
    with pytest.raises(exceptions.ModelNotFoundError) as caught:
        ChatDiffusionGemma(model="/no/such/folder").invoke("hi")
    assert "/no/such/folder" in str(caught.value)
    assert isinstance(caught.value.__cause__, CheckpointError)
    assert isinstance(caught.value, LookupError)
    with pytest.raises(exceptions.ModelNotFoundError):
        ChatDiffusionGemma(model="/no/such/folder").preload()


def test_a_prompt_beyond_the_context_overflows_before_anything_runs(scripted: Scripted) -> None:
    engine = scripted(HELLO, context=64)
    with pytest.raises(exceptions.ContextOverflowError, match="does not fit"):
        ChatDiffusionGemma(engine=engine).invoke("word " * 100)
    assert engine.canvases == 0


async def test_a_deadline_is_a_timeout_that_may_be_tried_again(scripted: Scripted) -> None:
    engine = scripted(("word " for _ in iter(int, 1)), context=10**9)
    model = ChatDiffusionGemma(engine=engine, timeout=0.05, max_tokens=10**8)
    with pytest.raises(exceptions.ModelTimeoutError) as caught:
        model.invoke("hi")
    assert caught.value.is_retryable
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(exceptions.ModelTimeoutError):
        await model.ainvoke("hi")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_deadline_is_kept_within_a_step(scripted: Scripted, streaming: bool) -> None:
    engine = scripted(("word " for _ in iter(int, 1)), context=10**9, canvas=500)
    engine.step_seconds = 0.2
    model = ChatDiffusionGemma(engine=engine, timeout=0.3, max_tokens=10**8)
    began = time.monotonic()
    with pytest.raises(exceptions.ModelTimeoutError):
        list(model.stream("hi")) if streaming else model.invoke("hi")
    assert 0.3 < time.monotonic() - began < 0.3 + 2 * engine.step_seconds
    assert engine.running == 0


def test_the_provider_of_that_name_is_this_model(obedient: Any) -> None:
    model: Any = dgemma_backend.provider("langchain", model="a", engine="obedient", seed=3)
    assert isinstance(model, ChatDiffusionGemma)
    assert model.invoke("hi").response_metadata["dgemma"]["seed"] == 3


def test_errors_are_langchains_where_it_has_a_word_for_them() -> None:
    assert isinstance(translated(NonFiniteLogitsError("nan")), exceptions.ModelAPIError)
    busy = translated(QueueFullError("64 in line"))
    assert isinstance(busy, exceptions.ModelRateLimitError)
    assert busy.is_retryable
    assert isinstance(busy, RuntimeError)
    unfit = translated(ResponseFormatError("three answers in a row"))
    assert isinstance(unfit, exceptions.ModelAPIError)
    assert isinstance(unfit, ValueError)
    ours = CheckpointError("damaged")
    assert translated(ours) is ours
    OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
    full = translated(OutOfMemoryError("full"))
    assert isinstance(full, exceptions.ModelAPIError)
    assert isinstance(full, MemoryError)


CONVERSATION = [SystemMessage("s"), HumanMessage("hi"), AIMessage("ho"), HumanMessage("hi")]


@pytest.mark.parametrize("thinking", [False, True])
def test_tokens_are_counted_as_the_engine_counts_them(scripted: Scripted, thinking: bool) -> None:
    model = ChatDiffusionGemma(engine=scripted(HELLO), thinking=thinking)
    counted = model.get_num_tokens_from_messages(CONVERSATION, tools=[booking])
    used = model.bind_tools([booking]).invoke(CONVERSATION).usage_metadata
    assert used is not None
    assert counted == used["input_tokens"]


def test_a_text_has_the_tokens_of_this_model_unless_the_user_counts(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    assert ChatDiffusionGemma(engine=engine).get_num_tokens("<turn|>é") == len("<turn|>é".encode())
    by_hand = ChatDiffusionGemma(engine=engine, custom_get_token_ids=lambda text: [1, 2])
    assert by_hand.get_num_tokens("anything") == 2


def test_a_conversation_is_trimmed_by_the_models_own_count(scripted: Scripted) -> None:
    model = ChatDiffusionGemma(engine=scripted(HELLO))
    limit = model.get_num_tokens_from_messages(CONVERSATION[2:])
    kept = trim_messages(CONVERSATION, max_tokens=limit, token_counter=model, strategy="last")
    assert kept == CONVERSATION[2:]
