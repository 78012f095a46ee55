"""Tools, settings and the engine: what goes in beside messages, and what is refused by name."""

from collections.abc import Callable
from typing import Any, TypedDict

import pytest
from langchain_core import exceptions
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field, SecretStr, ValidationError

from dgemma_backend.errors import CheckpointError, NonFiniteLogitsError
from langchain_dgemma import ChatDiffusionGemma
from langchain_dgemma.convert import to_tools
from langchain_dgemma.failures import translated

Scripted = Callable[..., Any]
HELLO = ["Hello", "<turn|>"]

# --- tools ---


class Booking(BaseModel):
    """Book a table."""

    seats: int = Field(description="How many")
    notes: list[str] | None = None


class TypedBooking(TypedDict):
    """Book a table."""

    seats: int


@tool
def booking(seats: int) -> str:
    """Book a table."""
    return str(seats)


def function_booking(seats: int) -> str:
    """Book a table."""
    return str(seats)


SCHEMA = {"type": "object", "properties": {"seats": {"type": "integer"}}, "required": ["seats"]}
FORMS = [
    Booking,
    TypedBooking,
    booking,
    function_booking,
    {"title": "Booking", "description": "Book a table.", **SCHEMA},
    {"name": "Booking", "description": "Book a table.", "input_schema": SCHEMA},
    {"type": "function", "function": {"name": "Booking", "description": "Book a table.",
                                      "parameters": SCHEMA}},
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_tools_are_declared_in_whatever_form_they_come(scripted: Scripted, form: Any) -> None:
    engine = scripted(HELLO)
    ChatDiffusionGemma(engine=engine).bind_tools([form]).invoke("hi")
    (declared,) = to_tools([form])
    seen = engine.prompt_of()
    assert f'<|tool>declaration:{declared.name}{{description:<|"|>Book a table.<|"|>' in seen
    assert 'type:<|"|>INTEGER<|"|>' in seen


def test_a_tool_without_arguments_has_an_empty_object() -> None:
    (declared,) = to_tools([{"name": "now", "description": "The time."}])
    assert declared.parameters == {"type": "object", "properties": {}}


def test_arguments_take_the_types_of_the_bound_tool(scripted: Scripted) -> None:
    answer = ["<|tool_call>", 'call:booking{seats:<|"|>4<|"|>}', "<tool_call|>", "<|tool_response>"]
    spelt = [part for piece in answer for part in _at_quotes(piece)]
    model = ChatDiffusionGemma(engine=scripted(spelt)).bind_tools([booking])
    (call,) = model.invoke("hi").tool_calls
    assert (call["name"], call["args"]) == ("booking", {"seats": 4})
    assert booking.invoke(call).content == "4"


def _at_quotes(piece: str) -> list[str]:
    first, *rest = piece.split('<|"|>')
    return [first, *(part for more in rest for part in ('<|"|>', more))]


@pytest.mark.parametrize("choice", [None, "auto", False])
def test_the_model_decides_by_itself(scripted: Scripted, choice: Any) -> None:
    engine = scripted(HELLO)
    model = ChatDiffusionGemma(engine=engine)
    assert model.bind_tools([booking], tool_choice=choice).invoke("hi").content == "Hello"
    assert "declaration:booking" in engine.prompt_of()


def test_with_choice_none_the_model_is_told_of_no_tool(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    ChatDiffusionGemma(engine=engine).bind_tools([booking], tool_choice="none").invoke("hi")
    assert "declaration" not in engine.prompt_of()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool_choice": "any"}, "tool_choice='any' is not supported yet"),
        ({"tool_choice": "required"}, "is not supported yet"),
        ({"tool_choice": True}, "is not supported yet"),
        ({"tool_choice": "booking"}, "is not supported yet"),
        ({"tool_choice": {"type": "any"}}, "is not supported yet"),
        ({"tool_choice": {"type": "tool", "name": "booking"}}, "is not supported yet"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "booking"}}},
            "is not supported yet",
        ),
        ({"tool_choice": "flying"}, "tool_choice 'flying' is none of the tools: booking"),
        ({"strict": True}, "strict=True is not supported yet"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls=False is not supported yet"),
    ],
)
def test_what_would_need_forcing_is_refused_when_it_is_bound(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(exceptions.ModelInvalidRequestError, match=words):
        ChatDiffusionGemma().bind_tools([booking], **options)


def test_forcing_a_call_in_the_call_itself_is_refused_too(scripted: Scripted) -> None:
    model = ChatDiffusionGemma(engine=scripted(HELLO))
    with pytest.raises(exceptions.ModelInvalidRequestError, match="required"):
        model.invoke("hi", tools=[booking], tool_choice="any")


def test_structured_output_says_what_to_use_instead() -> None:
    with pytest.raises(exceptions.ModelInvalidRequestError, match="Use bind_tools"):
        ChatDiffusionGemma().with_structured_output(Booking)


# --- settings ---


def test_settings_of_a_call_come_before_those_of_the_model(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    model = ChatDiffusionGemma(engine=engine, temperature=0, max_tokens=9, stop=["z"], seed=3)
    model.invoke("hi")
    model.invoke("hi", temperature=1.0, stop=["y"], max_tokens=8, thinking=True)
    model.bind(stop_sequences=["x"], seed=4).invoke("hi")
    first, second, third = (request.settings for request in engine.requests)
    assert (first.temperature, first.max_tokens, first.stop, first.seed) == (0, 9, ("z",), 3)
    assert (second.temperature, second.max_tokens, second.stop) == (1.0, 8, ("y",))
    assert second.thinking
    assert (third.stop, third.seed) == (("x",), 4)


def test_stop_really_stops_across_canvases(scripted: Scripted) -> None:
    model = ChatDiffusionGemma(engine=scripted(["one two three four", "<turn|>"]))
    message = model.invoke("hi", stop=["two three"])
    assert message.content == "one "
    assert message.response_metadata["finish_reason"] == "stop"
    assert "".join(str(c.content) for c in model.stream("hi", stop=["two three"])) == "one "


def test_max_tokens_cuts_exactly_and_says_so(scripted: Scripted) -> None:
    message = ChatDiffusionGemma(engine=scripted(["abcdefghijkl"]), max_tokens=9).invoke("hi")
    assert message.content == "abcdefghi"
    assert message.response_metadata["finish_reason"] == "length"
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temprature": 0.1}, "no parameter 'temprature'. Did you mean 'temperature'?"),
        ({"temperature": 2.5}, r"temperature=2\.5 must be a finite number from 0 to 2"),
        ({"max_tokens": 0}, "max_tokens=0 must be a whole number"),
        ({"top_p": 0.0}, r"top_p=0\.0 must be"),
    ],
)
def test_a_bad_parameter_is_refused_when_the_model_is_made(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        ChatDiffusionGemma(**options)


@pytest.mark.parametrize("name", ["temprature", "response_format", "logit_bias"])
def test_an_unknown_parameter_of_a_call_is_refused(scripted: Scripted, name: str) -> None:
    model = ChatDiffusionGemma(engine=scripted(HELLO))
    with pytest.raises(exceptions.ModelInvalidRequestError, match=f"no setting '{name}'"):
        model.bind(**{name: 1}).invoke("hi")


def test_what_only_remote_models_need_is_accepted() -> None:
    made = ChatDiffusionGemma(
        api_key=SecretStr("k"), base_url="http://x", max_retries=2, streaming=True
    )
    assert "api_key" not in made._identifying_params


def test_every_setting_is_part_of_the_cache_key(scripted: Scripted) -> None:
    plain = ChatDiffusionGemma()._get_llm_string()
    changes: list[dict[str, Any]] = [
        {"model": "x"}, {"temperature": 0}, {"seed": 1}, {"max_tokens": 3}, {"stop": ["a"]},
        {"thinking": True}, {"top_k": 2}, {"entropy_bound": 0.2}, {"dtype": "float32"},
        {"stop_rule": "never"},
    ]  # fmt: skip
    keys = {ChatDiffusionGemma(**change)._get_llm_string() for change in changes}
    assert len(keys | {plain}) == len(changes) + 1


def test_the_names_other_models_use_are_understood() -> None:
    made = ChatDiffusionGemma.model_validate({"model_name": "x", "stop_sequences": ["a"]})
    assert (made.model, made.stop) == ("x", ["a"])


def test_a_changed_setting_counts_from_the_next_call(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    model = ChatDiffusionGemma(engine=engine)
    model.temperature = 0.5
    model.invoke("hi")
    assert engine.requests[0].settings.temperature == 0.5


# --- the engine and its errors ---


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


def test_a_prompt_beyond_the_context_overflows_before_anything_runs(scripted: Scripted) -> None:
    engine = scripted(HELLO, context=64)
    with pytest.raises(exceptions.ContextOverflowError, match="does not fit"):
        ChatDiffusionGemma(engine=engine).invoke("word " * 100)
    assert engine.canvases == 0


def test_a_deadline_is_a_timeout_that_may_be_tried_again(scripted: Scripted) -> None:
    engine = scripted(("word " for _ in iter(int, 1)), context=10**9)
    model = ChatDiffusionGemma(engine=engine, timeout=0.05, max_tokens=10**8)
    with pytest.raises(exceptions.ModelTimeoutError) as caught:
        model.invoke("hi")
    assert caught.value.is_retryable
    assert isinstance(caught.value, TimeoutError)


def test_errors_langchain_has_no_word_for_stay_ours() -> None:
    assert isinstance(translated(NonFiniteLogitsError("nan")), exceptions.ModelAPIError)
    ours = CheckpointError("damaged")
    assert translated(ours) is ours
    OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})
    assert isinstance(translated(OutOfMemoryError("full")), MemoryError)


def test_tokens_are_counted_as_the_engine_counts_them(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    model = ChatDiffusionGemma(engine=engine)
    messages = [SystemMessage("s"), HumanMessage("hi"), AIMessage("ho"), HumanMessage("hi")]
    counted = model.get_num_tokens_from_messages(messages, tools=[booking])
    used = model.bind_tools([booking]).invoke(messages).usage_metadata
    assert used is not None
    assert counted == used["input_tokens"]


def test_a_text_has_the_tokens_of_this_model_unless_the_user_counts(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    assert ChatDiffusionGemma(engine=engine).get_num_tokens("<turn|>é") == len("<turn|>é".encode())
    by_hand = ChatDiffusionGemma(engine=engine, custom_get_token_ids=lambda text: [1, 2])
    assert by_hand.get_num_tokens("anything") == 2


def test_tracing_is_told_provider_and_model(scripted: Scripted) -> None:
    made = ChatDiffusionGemma(model="tiny", stop=["a"], temperature=0.5, max_tokens=5)
    params = made._get_ls_params(model_name="other", stop=["b"])
    assert params == {
        "ls_provider": "dgemma",
        "ls_model_type": "chat",
        "ls_model_name": "other",
        "ls_temperature": 0.5,
        "ls_max_tokens": 5,
        "ls_stop": ["b"],
    }
