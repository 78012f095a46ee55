"""The engine over the embedded model: cuts, seeds, usage, errors, cancelling, async."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend import Engine, Message, Tool, ToolChoice, open_engine
from dgemma_backend.errors import (
    CheckpointError,
    ContextLengthError,
    DeadlineExceededError,
    EmptyPromptError,
    EngineClosedError,
    ModelNotFoundError,
    NonFiniteLogitsError,
    SettingError,
    UnknownPluginError,
    UnknownSettingError,
)
from dgemma_backend.events import CanvasCommitted, Draft, Finished, TextDelta

QUESTION = "Repeat after me: the old river is green"


def test_the_same_seed_gives_the_same_reply_and_another_seed_other_drafts(tiny: Engine) -> None:
    def drafts(seed: int) -> list[Draft]:
        events = tiny.stream(QUESTION, settings={"seed": seed}, drafts=True)
        return [event for event in events if isinstance(event, Draft)]

    assert drafts(5) == drafts(5)
    assert drafts(5)[0].mean_entropy != drafts(6)[0].mean_entropy


def test_a_seed_that_was_drawn_is_reported_and_repeats_the_reply(tiny: Engine) -> None:
    first = tiny.generate(QUESTION)
    assert tiny.generate(QUESTION, settings={"seed": first.seed}).text == first.text
    assert tiny.generate(QUESTION, settings={"temperature": 0}).seed == 0


def test_the_events_of_a_reply_add_up_to_it(tiny: Engine) -> None:
    events = list(tiny.stream(QUESTION, settings={"seed": 1}, drafts=True))
    reply = events[-1].reply  # type: ignore[union-attr]
    kinds = [type(event) for event in events]
    assert kinds.count(Finished) == 1
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == reply.text != ""
    committed = [e for e in events if isinstance(e, CanvasCommitted)]
    assert sum(len(e.token_ids) for e in committed) == reply.usage.completion_tokens
    assert sum(e.steps for e in committed) == reply.usage.denoising_steps == kinds.count(Draft)
    assert len(committed) == reply.usage.canvases
    expected = reply.usage.completion_tokens / reply.usage.denoising_steps
    assert reply.usage.tokens_per_forward == expected
    assert reply.usage.prompt_tokens == tiny.count_tokens(QUESTION)
    assert reply.usage.first_text_seconds > 0
    assert reply.usage.prefill_seconds > 0


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_max_tokens_cuts_exactly(tiny: Engine, limit: int) -> None:
    settings = {"seed": 1, "max_tokens": limit}
    reply = tiny.generate(QUESTION, settings=settings)
    assert (reply.usage.completion_tokens, reply.finish_reason) == (limit, "length")
    whole = tiny.generate(QUESTION, settings={"seed": 1})
    assert whole.finish_reason == "stop"
    assert whole.text.startswith(reply.text)


def test_a_canvas_that_goes_on_is_followed_by_another(endless: Engine) -> None:
    length = endless.info.canvas_length
    reply = endless.generate("a b c", settings={"seed": 3, "max_tokens": 2 * length + 3})
    assert reply.usage.completion_tokens == 2 * length + 3
    assert (reply.usage.canvases, reply.finish_reason) == (3, "length")


def test_a_stop_string_ends_the_reply_and_is_not_part_of_it(tiny: Engine) -> None:
    whole = tiny.generate(QUESTION, settings={"seed": 1})
    stop = whole.text.split()[2]
    cut = tiny.generate(QUESTION, settings={"seed": 1, "stop": [stop]})
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.usage.completion_tokens < whole.usage.completion_tokens


def test_fewer_steps_are_taken_when_fewer_are_allowed(tiny: Engine) -> None:
    reply = tiny.generate(QUESTION, settings={"seed": 1, "max_denoising_steps": 1})
    assert reply.usage.denoising_steps == reply.usage.canvases


def test_never_takes_every_step(tiny: Engine) -> None:
    settings = {"seed": 1, "stop_rule": "never", "max_denoising_steps": 7, "max_tokens": 4}
    assert tiny.generate(QUESTION, settings=settings).usage.denoising_steps == 7


TOO_LONG = "word " * 5000

BAD_REQUESTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"messages": ""}, EmptyPromptError, "nothing to answer"),
    ({"messages": []}, EmptyPromptError, "an empty list"),
    ({"messages": [Message.user("  \n")]}, EmptyPromptError, r"1 message\(s\) without text"),
    ({"messages": TOO_LONG}, ContextLengthError, r"The prompt has \d+ tokens"),
    ({"settings": {"max_tokens": 10**6}}, ContextLengthError, "max_tokens=1000000 does not fit"),
    ({"settings": {"max_tokens": 0}}, SettingError, "max_tokens=0 must be a whole number from 1"),
    ({"settings": {"top_kk": 3}}, UnknownSettingError, "'top_kk'.*Did you mean 'top_k'"),
    ({"settings": {"temperature": 7}}, SettingError, "temperature=7"),
    ({"settings": {"t_min": 0.9}}, SettingError, "t_min=0.9 is above t_max=0.8"),
    ({"settings": {"sampler": "nucleus"}}, UnknownPluginError, "nucleus.*entropy_bound"),
    ({"settings": {"stop_rule": "soon"}}, UnknownPluginError, "soon.*never"),
    ({"settings": {"timeout": 1e-9}}, DeadlineExceededError, "timeout=1e-09"),
    ({"tool_choice": ToolChoice("required")}, SettingError, "'required' needs tools"),
    ({"tools": [Tool("t")], "tool_choice": ToolChoice.named("u")}, SettingError, "none of the"),
]


@pytest.mark.parametrize(("request_", "error", "message"), BAD_REQUESTS)
def test_a_bad_request_is_a_typed_error_and_the_next_one_is_served(
    tiny: Engine, request_: dict[str, Any], error: type[Exception], message: str
) -> None:
    expected = tiny.generate(QUESTION, settings={"seed": 1}).text
    with pytest.raises(error, match=message):
        tiny.generate(**{"messages": QUESTION, **request_})
    assert tiny.generate(QUESTION, settings={"seed": 1}).text == expected


def test_bad_settings_are_refused_when_streaming_is_asked_for_not_later(tiny: Engine) -> None:
    with pytest.raises(SettingError):
        tiny.stream(QUESTION, settings={"max_tokens": 0})


BAD_ENGINES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": "tinny"}, ModelNotFoundError, "tinny"),
    ({"model": "./no/such/folder"}, ModelNotFoundError, "no/such/folder"),
    ({"device": "tpu"}, SettingError, "device='tpu'"),
    ({"device": "cuda:99"}, SettingError, "cuda:99.*doctor"),
    ({"dtype": "float16"}, SettingError, "float16 overflows"),
    ({"kernels": "fast"}, UnknownPluginError, "fast.*reference"),
    ({"engine": "warp"}, UnknownPluginError, "warp.*torch"),
    ({"quantization": "int2"}, UnknownPluginError, "int2"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_ENGINES)
def test_an_engine_that_cannot_be_opened_says_why(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_engine(**{"model": "tiny", **options})


def test_a_closed_engine_serves_nothing_and_ends_what_it_was_doing() -> None:
    engine = open_engine("tiny", device="cpu", dtype="bfloat16")
    running = engine.stream(QUESTION, drafts=True, settings={"stop_rule": "never"})
    next(running)
    engine.close()
    with pytest.raises(EngineClosedError, match="'tiny' was closed"):
        list(running)
    with pytest.raises(EngineClosedError, match="open_engine"):
        engine.generate(QUESTION)


def test_logits_that_are_not_finite_fail_that_request_only(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tiny.generate(QUESTION, settings={"seed": 1}).text
    with monkeypatch.context() as patch:
        real = tiny._model._through_layers
        patch.setattr(tiny._model, "_through_layers", lambda x, c: real(x, c) * float("nan"))
        with pytest.raises(NonFiniteLogitsError, match="canvas 0"):
            tiny.generate(QUESTION)
    assert tiny.generate(QUESTION, settings={"seed": 1}).text == expected


def test_closing_the_stream_stops_the_work(tiny: Engine) -> None:
    steps = []
    stream = tiny.stream(QUESTION, settings={"stop_rule": "never"}, drafts=True)
    steps.append(next(stream))
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def test_threads_get_the_replies_they_would_get_alone(tiny: Engine) -> None:
    questions = [f"Repeat after me: the {word} lamp" for word in ("old", "red", "small", "new")]
    alone = [tiny.generate(q, settings={"seed": 2}).text for q in questions]
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = tiny.generate(questions[number], settings={"seed": 2}).text

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(len(questions))] == alone


async def test_the_async_stream_has_the_same_events(tiny: Engine) -> None:
    wanted = list(tiny.stream(QUESTION, settings={"seed": 4}, drafts=True))
    found = [e async for e in tiny.astream(QUESTION, settings={"seed": 4}, drafts=True)]
    assert found[:-1] == wanted[:-1]
    assert (await tiny.agenerate(QUESTION, settings={"seed": 4})).text == found[-1].reply.text  # type: ignore[union-attr]


async def test_async_errors_reach_the_caller(tiny: Engine) -> None:
    with pytest.raises(SettingError, match="max_tokens=0"):
        await tiny.agenerate(QUESTION, settings={"max_tokens": 0})


async def test_a_cancelled_task_stops_the_work(endless: Any) -> None:
    steps: list[float] = []
    seen = endless._plugins.on_step
    endless._plugins.on_step = lambda step: steps.append(time.perf_counter())
    try:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(endless.agenerate("a", settings={"max_tokens": 800}), 0.5)
        left = time.perf_counter()
        await asyncio.sleep(0.5)
        assert steps
        assert max(steps) - left < 0.2
    finally:
        endless._plugins.on_step = seen


def test_observers_see_steps_canvases_and_how_requests_end(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    for name in ("on_step", "on_canvas", "request_finished"):
        monkeypatch.setattr(tiny._plugins, name, lambda what, name=name: seen.append((name, what)))
    reply = tiny.generate(QUESTION, settings={"seed": 1})
    names = [name for name, _ in seen]
    assert names.count("on_step") == reply.usage.denoising_steps
    assert names.count("on_canvas") == 1
    assert seen[-1][1].reply == reply
    stream = tiny.stream(QUESTION, drafts=True)
    next(stream)
    stream.close()
    assert isinstance(seen[-1][1].error, GeneratorExit)


def test_a_folder_whose_tokenizer_belongs_to_another_checkpoint_is_refused(
    tiny: Engine, tmp_path: Path, copy_of_tiny: Callable[[], Path]
) -> None:
    folder = copy_of_tiny()
    config = folder / "config.json"
    text = config.read_text().replace(f'"vocab_size": {tiny.info.vocabulary}', '"vocab_size": 1000')
    config.write_text(text)
    with pytest.raises(CheckpointError):
        open_engine(str(folder), device="cpu")


def test_an_option_that_no_engine_has_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownSettingError, match="no option 'quantisation'.*'quantization'"):
        open_engine("tiny", quantisation="int4")


def test_settings_that_are_no_mapping_are_refused_as_such(tiny: Engine) -> None:
    with pytest.raises(SettingError, match=r"settings=\[1\] must be a mapping"):
        tiny.generate("Hi", settings=[1])  # type: ignore[arg-type]
