"""Fields, call-time values, other models' names, identity and cache keys."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core import exceptions
from langchain_core.caches import InMemoryCache
from langchain_core.tools import tool
from pydantic import BaseModel, SecretStr, ValidationError

from langchain_dgemma import ChatDiffusionGemma

Scripted = Callable[..., Any]
HELLO = ["Hello", "<turn|>"]


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


def test_every_setting_reaches_the_engine(scripted: Scripted) -> None:
    values: dict[str, Any] = {
        "max_tokens": 5, "temperature": 0.5, "top_k": 4, "top_p": 0.5, "seed": 9, "stop": ["q"],
        "thinking": True, "thinking_budget": 50, "timeout": 60.0, "max_denoising_steps": 3,
        "entropy_bound": 0.2, "confidence_threshold": 0.01, "stability_threshold": 2, "t_min": 0.1,
        "t_max": 0.9, "isolate": True, "cache_salt": "a", "steering": "off", "draft": "well",
        "sampler": "entropy_bound", "stop_rule": "never",
    }  # fmt: skip
    engine = scripted(HELLO)
    ChatDiffusionGemma(engine=engine, **values).invoke("hi")
    ChatDiffusionGemma(engine=engine).invoke("hi", **values)
    made, called = (request.settings for request in engine.requests)
    assert made == called
    assert {name: getattr(made, name) for name in values} == {**values, "stop": ("q",)}


def test_stop_really_stops_across_canvases(scripted: Scripted) -> None:
    model = ChatDiffusionGemma(engine=scripted(["one two three four", "<turn|>"]))
    message = model.invoke("hi", stop=["two three"])
    assert message.content == "one "
    assert message.response_metadata["finish_reason"] == "stop"
    assert "".join(str(c.content) for c in model.stream("hi", stop=["two three"])) == "one "
    by_field = ChatDiffusionGemma(engine=model.engine, stop=["three"])
    assert by_field.invoke("hi").content == "one two "
    assert by_field.invoke("hi", stop=["four"]).content == "one two three "


def test_a_single_stop_string_is_one_stop(scripted: Scripted) -> None:
    engine = scripted(["one two three four", "<turn|>"])
    made = ChatDiffusionGemma.model_validate({"engine": engine, "stop": "three"})
    assert made.stop == ["three"]
    assert made.invoke("hi").content == "one two "
    single: Any = "two"
    assert made.invoke("hi", stop=single).content == "one "


def test_max_tokens_cuts_exactly_and_says_so(scripted: Scripted) -> None:
    message = ChatDiffusionGemma(engine=scripted(["abcdefghijkl"]), max_tokens=9).invoke("hi")
    assert message.content == "abcdefghi"
    assert message.response_metadata["finish_reason"] == "length"
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == 9


def test_running_out_of_tokens_in_a_thought_is_told(scripted: Scripted) -> None:
    engine = scripted(["<|channel>", "thought\nfor ever and ever"])
    message = ChatDiffusionGemma(engine=engine, thinking=True, max_tokens=15).invoke("hi")
    assert message.content == ""
    assert message.response_metadata["finish_reason"] == "length"
    assert message.response_metadata["dgemma"]["cut_in_thought"] is True


@pytest.mark.parametrize(
    ("effort", "thinking", "budget"),
    [("none", False, None), ("low", True, 256), ("medium", True, 1024), ("high", True, None)],
)
def test_reasoning_effort_stands_for_thinking_and_its_budget(
    scripted: Scripted, effort: str, thinking: bool, budget: int | None
) -> None:
    engine = scripted(HELLO)
    ChatDiffusionGemma(engine=engine).invoke("hi", reasoning_effort=effort)
    ChatDiffusionGemma(engine=engine, thinking=True, thinking_budget=9).invoke(
        "hi", reasoning_effort=effort
    )
    plain, with_budget = (request.settings for request in engine.requests)
    assert (plain.thinking, plain.thinking_budget) == (thinking, budget)
    assert (with_budget.thinking, with_budget.thinking_budget) == (
        thinking,
        9 if thinking else None,
    )


def test_thinking_can_be_switched_off_for_a_call(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    ChatDiffusionGemma(engine=engine, thinking=True, thinking_budget=9).invoke("hi", thinking=False)
    assert engine.requests[0].settings.thinking_budget is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 2.5}, r"temperature=2\.5 must be a finite number from 0 to 2"),
        ({"max_tokens": 0}, "max_tokens=0 must be a whole number"),
        ({"top_p": 0.0}, r"top_p=0\.0 must be"),
        ({"thinking_budget": 5}, "needs thinking=True"),
        ({"steering": "hard"}, "steering='hard' must be one of"),
        ({"drafts": "always"}, "'off' or 'events'"),
        ({"heartbeat": 0}, "greater than 0"),
    ],
)
def test_a_bad_value_is_refused_when_the_model_is_made(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ChatDiffusionGemma(**options)


def test_an_unknown_parameter_of_a_model_is_told_with_the_nearest_name() -> None:
    with pytest.warns(UserWarning, match="'temprature'; it is ignored. Did you mean 'temperature'"):
        ChatDiffusionGemma.model_validate({"temprature": 0.1})


@pytest.mark.parametrize("name", ["temprature", "logit_bias", "max_retries"])
def test_an_unknown_parameter_of_a_call_is_refused(scripted: Scripted, name: str) -> None:
    model = ChatDiffusionGemma(engine=scripted(HELLO))
    with pytest.raises(exceptions.ModelInvalidRequestError, match=f"no setting '{name}'"):
        model.bind(**{name: 1}).invoke("hi")


@pytest.mark.parametrize("call", [{"drafts": "all"}, {"reasoning_effort": "extreme"}])
def test_a_bad_value_of_a_call_is_refused(scripted: Scripted, call: dict[str, Any]) -> None:
    with pytest.raises(exceptions.ModelInvalidRequestError, match="must be"):
        ChatDiffusionGemma(engine=scripted(HELLO)).invoke("hi", **call)


def test_what_only_remote_models_need_is_accepted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = ChatDiffusionGemma(
            api_key=SecretStr("k"), base_url="http://x", max_retries=2, streaming=True
        )
    assert "api_key" not in made._identifying_params
    assert made._get_llm_string() == ChatDiffusionGemma()._get_llm_string()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("model_name", "model", "x"),
        ("model_id", "model", "x"),
        ("stop_sequences", "stop", ["a"]),
        ("max_completion_tokens", "max_tokens", 3),
        ("max_new_tokens", "max_tokens", 3),
        ("num_predict", "max_tokens", 3),
        ("request_timeout", "timeout", 3.0),
        ("reasoning", "thinking", True),
    ],
)
def test_the_names_other_models_use_are_understood(
    scripted: Scripted, name: str, field: str, value: Any
) -> None:
    assert getattr(ChatDiffusionGemma.model_validate({name: value}), field) == value
    if field != "model":
        engine = scripted(HELLO)
        ChatDiffusionGemma(engine=engine).invoke("hi", **{name: value})
        seen = getattr(engine.requests[0].settings, field)
        assert (list(seen) if isinstance(seen, tuple) else seen) == value


def test_a_changed_setting_counts_from_the_next_call(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    model = ChatDiffusionGemma(engine=engine)
    model.temperature = 0.5
    model.invoke("hi")
    assert engine.requests[0].settings.temperature == 0.5


def test_a_copy_has_its_own_settings_and_the_same_engine(scripted: Scripted) -> None:
    model = ChatDiffusionGemma(engine=scripted(HELLO), stop=["x"])
    twin = copy.deepcopy(model)
    assert twin.engine is model.engine
    assert twin.stop == ["x"]
    assert twin.stop is not model.stop


# --- identity and caches ---


class Booking(BaseModel):
    """A table."""

    seats: int


class Flight(BaseModel):
    """A flight."""

    to: str


@tool
def booking(seats: int) -> str:
    """Book a table."""
    return str(seats)


def test_everything_that_can_change_an_answer_is_part_of_the_cache_key() -> None:
    plain = ChatDiffusionGemma()._get_llm_string()
    changes: list[dict[str, Any]] = [
        {"model": "x"}, {"temperature": 0}, {"seed": 1}, {"max_tokens": 3}, {"stop": ["a"]},
        {"thinking": True}, {"top_k": 2}, {"entropy_bound": 0.2}, {"dtype": "float32"},
        {"stop_rule": "never"}, {"quantization": "int4"}, {"steering": "off"},
        {"output_version": "v1"}, {"schema_in_prompt": False}, {"engine": "other"},
        {"reasoning_effort": "low"},
    ]  # fmt: skip
    calls: list[dict[str, Any]] = [
        {"temperature": 0}, {"stop": ["a", "b"]}, {"tools": [booking]},
        {"response_format": Booking}, {"response_format": Flight},
        {"tools": [booking], "tool_choice": "any"},
    ]  # fmt: skip
    keys = [ChatDiffusionGemma(**change)._get_llm_string() for change in changes]
    keys += [ChatDiffusionGemma()._get_llm_string(**call) for call in calls]
    assert len({plain, *keys}) == 1 + len(changes) + len(calls)


def test_what_only_watches_is_no_part_of_the_cache_key() -> None:
    plain = ChatDiffusionGemma()._get_llm_string()
    watching = ChatDiffusionGemma(on_draft=print, drafts="events", streaming=True, heartbeat=1)
    assert watching._get_llm_string() == plain
    assert plain == ChatDiffusionGemma()._get_llm_string(on_draft=print, drafts="events")
    assert "on_draft" not in watching._get_invocation_params(on_draft=print)


def test_the_cache_key_is_plain_text_without_addresses() -> None:
    key = ChatDiffusionGemma()._get_llm_string(tools=[booking], response_format=Booking)
    assert " at 0x" not in key
    assert "<class" not in key


def test_other_weights_under_the_same_name_have_another_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = ChatDiffusionGemma()._identifying_params["weights"]
    assert len(known) == 16
    monkeypatch.setattr("langchain_dgemma.engines._fingerprints", {"tiny": "0123456789abcdef"})
    assert ChatDiffusionGemma()._identifying_params["weights"] == "0123456789abcdef"


def test_a_cached_answer_runs_the_model_once_and_another_seed_again(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    model = ChatDiffusionGemma(engine=engine, seed=1, cache=InMemoryCache())
    first = model.invoke("hi")
    assert model.invoke("hi").content == first.content
    assert len(engine.requests) == 1
    model.invoke("hi", seed=2)
    model.bind(stop=["x"]).invoke("hi")
    model.model_copy(update={"temperature": 0.1}).invoke("hi")
    assert len(engine.requests) == 4


def test_tracing_is_told_provider_and_model() -> None:
    made = ChatDiffusionGemma(model="tiny", stop=["a"], temperature=0.5, max_tokens=5)
    assert made._get_ls_params(model_name="other", stop=["b"], max_completion_tokens=7) == {
        "ls_provider": "dgemma",
        "ls_model_type": "chat",
        "ls_model_name": "other",
        "ls_temperature": 0.5,
        "ls_max_tokens": 7,
        "ls_stop": ["b"],
    }
    assert made._get_ls_params()["ls_stop"] == ["a"]


def test_the_profile_tells_agents_what_the_model_can_do(scripted: Scripted) -> None:
    profile = ChatDiffusionGemma(model="tiny").profile
    assert profile is not None
    assert profile["max_input_tokens"] == 1024
    assert profile["structured_output"]
    assert profile["tool_choice"]
    opened = ChatDiffusionGemma(engine=scripted(HELLO, context=4321)).profile
    assert opened is not None
    assert opened["max_input_tokens"] == 4321
    mine = ChatDiffusionGemma(profile={"max_input_tokens": 7}).profile
    assert mine == {"max_input_tokens": 7}
    unseen = ChatDiffusionGemma(model="nobody/nothing").profile
    assert unseen is not None
    assert "max_input_tokens" not in unseen
