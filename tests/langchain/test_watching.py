"""Drafts, signs of life, leaving early: what happens while an answer comes about."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import Run
from langchain_core.tracers.base import BaseTracer
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream

import dgemma_backend
from dgemma_backend.events import Draft, Event, TextDelta
from langchain_dgemma import ChatDiffusionGemma
from langchain_dgemma.watching import DraftGate

Scripted = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
HELLO = ["Hello there", "<turn|>"]  # two canvases of two steps


class Custom(BaseCallbackHandler):
    """Keeps the custom events it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any], UUID]] = []
        self.runs: list[UUID] = []
        self.tokens: list[str] = []

    def on_chat_model_start(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self.runs.append(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        self.told.append((name, data, run_id))

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(token)


class AsyncCustom(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.told: list[str] = []

    async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        self.told.append(name)


class Tracer(BaseTracer):
    """Keeps whole runs as a tracing service would get them."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def _persist_run(self, run: Run) -> None:
        self.text += str(run.dict())


def draft_model(engine: Any, **options: Any) -> ChatDiffusionGemma:
    return ChatDiffusionGemma(
        engine=engine, seed=1, drafts="events", drafts_per_second=10**9, **options
    )


# --- drafts ---


async def test_drafts_go_to_the_watcher_and_nowhere_else(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    seen: list[Draft] = []
    watched = ChatDiffusionGemma(engine=engine, on_draft=seen.append)
    assert watched.invoke("hi").content == "Hello there"
    assert [(draft.canvas, draft.step) for draft in seen] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert (await watched.ainvoke("hi")).content == "Hello there"
    assert len(seen) == 8
    called: list[Draft] = []
    ChatDiffusionGemma(engine=engine).invoke("hi", on_draft=called.append)
    assert len(called) == 4
    assert len(seen) == 8


async def test_drafts_are_custom_events_of_an_invoked_run(scripted: Scripted) -> None:
    model = draft_model(scripted(HELLO))
    handler, other = Custom(), AsyncCustom()
    model.invoke("hi", {"callbacks": [handler]})
    await model.ainvoke("hi", {"callbacks": [other]})
    assert [name for name, _, _ in handler.told] == ["dgemma_draft"] * 4
    assert {run for _, _, run in handler.told} == set(handler.runs)
    first = handler.told[0][1]
    assert first == {"block": 0, "step": 1, "of": 2, "text": "Hello t", "accepted": 7,
                     "mean_entropy": 0.0}  # fmt: skip
    assert other.told == ["dgemma_draft"] * 4


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_drafts_are_events_of_their_own_in_protocol_streams(
    scripted: Scripted, version: str
) -> None:
    model = draft_model(scripted(HELLO), output_version=version)
    stream = model.stream_events("hi", version="v3")
    events: list[Any] = list(stream)
    assert_valid_event_stream(events)
    drafts = [event for event in events if event["event"] == "dgemma-draft"]
    assert [(each["block"], each["step"]) for each in drafts] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert stream.output.text == "Hello there"
    astream = await model.astream_events("hi", version="v3")
    assert events[1]["event"] == [event async for event in astream][1]["event"] == "dgemma-draft"
    assert await astream.text == "Hello there"


async def test_a_chain_passes_the_drafts_of_a_stream_on_as_custom_events(
    scripted: Scripted,
) -> None:
    model = draft_model(scripted(HELLO))
    chain = RunnableLambda(lambda text: text) | model
    names = [event["name"] async for event in chain.astream_events("hi", version="v2")
             if event["event"] == "on_custom_event"]  # fmt: skip
    assert names == ["dgemma_draft"] * 4
    assert "".join(chunk.text for chunk in model.stream("hi")) == "Hello there"  # nobody to tell


async def test_drafts_are_no_part_of_message_trace_or_tokens(scripted: Scripted) -> None:
    engine = scripted(["abcdefghijklm", "<turn|>"])
    plain = ChatDiffusionGemma(engine=engine, seed=1)
    model = draft_model(engine)
    tracer, handler = Tracer(), Custom()
    message = model.invoke("hi", {"callbacks": [tracer, handler]})
    assert message.content == plain.invoke("hi").content
    assert "'text': 'abcdefg'" not in tracer.text
    assert handler.tokens == []
    chunks = list(model.stream("hi", {"callbacks": [handler]}))
    assert handler.tokens == [chunk.content for chunk in chunks] == ["abcdefg", "hijklm", ""]
    streamed = Custom()
    await model.ainvoke("hi", {"callbacks": [streamed]}, stream=True)
    assert streamed.tokens == ["abcdefg", "hijklm", ""]


async def test_an_events_stream_tells_every_chunk_once(scripted: Scripted) -> None:
    model = ChatDiffusionGemma(engine=scripted(HELLO))
    events = [event async for event in model.astream_events("hi", version="v2")]
    chunks = [event["data"]["chunk"] for event in events
              if event["event"] == "on_chat_model_stream"]  # fmt: skip
    assert [chunk.content for chunk in chunks] == ["Hello t", "here", ""]


def test_so_many_drafts_a_second_pass_and_the_last_of_a_canvas_always() -> None:
    now = [0.0]
    every: list[Draft] = []
    gate = DraftGate(every.append, events=True, per_second=10, clock=lambda: now[0])

    def draft(canvas: int, step: int) -> Draft:
        return Draft(canvas, step, 48, "", (), 0, 0.0)

    passed: list[tuple[float, Event]] = []
    for canvas in range(2):
        for step in range(1, 9):
            passed += [(now[0], event) for event in gate.take(draft(canvas, step))]
            now[0] += 0.03
        passed += [(now[0], event) for event in gate.take(TextDelta("x"))]
    assert len(every) == 16
    drafts = [(at, event) for at, event in passed if isinstance(event, Draft)]
    assert [(event.canvas, event.step) for _, event in drafts] == [
        (0, 1), (0, 5), (0, 8), (1, 1), (1, 5), (1, 8)
    ]  # fmt: skip
    kinds = [type(event) for _, event in passed]
    assert kinds == [Draft, Draft, Draft, TextDelta] * 2


def test_drafts_are_not_asked_of_the_engine_unless_somebody_watches(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    asked: list[bool] = []
    begin = engine._begin

    def noted(request: Any, drafts: bool) -> Any:
        asked.append(drafts)
        return begin(request, drafts)

    engine._begin = noted
    ChatDiffusionGemma(engine=engine).invoke("hi")
    draft_model(engine).invoke("hi")
    draft_model(engine).invoke("hi", drafts="off")
    assert asked == [False, True, False]


# --- signs of life ---


async def test_a_silent_stream_gives_signs_of_life_that_add_nothing(scripted: Scripted) -> None:
    engine = scripted(HELLO)
    engine.step_seconds = 0.05
    for version in ("v0", "v1"):
        model = ChatDiffusionGemma(engine=engine, seed=1, heartbeat=0.02, output_version=version)
        chunks = [chunk async for chunk in model.astream("hi")]
        assert sum(not chunk.content for chunk in chunks) >= 4
        total = chunks[0]
        for chunk in chunks[1:]:
            total = total + chunk
        quiet = ChatDiffusionGemma(engine=engine, seed=1, heartbeat=None, output_version=version)
        assert total.content == (await quiet.ainvoke("hi")).content
        silent = [chunk async for chunk in quiet.astream("hi") if not chunk.content]
        assert [chunk.chunk_position for chunk in silent] == ["last"]


async def test_signs_of_life_are_events_of_invoked_runs_and_of_protocol_streams(
    scripted: Scripted,
) -> None:
    engine = scripted(HELLO)
    engine.step_seconds = 0.05
    model = ChatDiffusionGemma(engine=engine, heartbeat=0.02)
    handler = Custom()
    assert (await model.ainvoke("hi", {"callbacks": [handler]})).content == "Hello there"
    assert {name for name, _, _ in handler.told} == {"dgemma_progress"}
    assert handler.told[0][1]["seconds"] > 0
    stream = await model.astream_events("hi", version="v3")
    events: list[Any] = [event async for event in stream]
    assert_valid_event_stream(events)
    assert "dgemma-progress" in {event["event"] for event in events}


async def test_loading_gives_signs_of_life_too(
    obedient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = dgemma_backend.open_engine

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return really(*arguments, **options)

    monkeypatch.setattr("dgemma_backend.open_engine", slowly)
    model = ChatDiffusionGemma(model="a", engine="obedient", heartbeat=0.02)
    chunks = [chunk async for chunk in model.astream("hi")]
    assert not chunks[0].content
    assert "".join(chunk.text for chunk in chunks) == "So be it: hi"


# --- leaving early ---


def endless() -> Iterator[str]:
    while True:
        yield "word "


def test_leaving_a_stream_stops_the_engine(scripted: Scripted) -> None:
    engine = scripted(endless())
    stream = ChatDiffusionGemma(engine=engine, max_tokens=50_000).stream("hi")
    next(stream)
    assert engine.running == 1
    stream.close()  # type: ignore[attr-defined]
    assert engine.running == 0
    assert engine.canvases == 1


def test_a_protocol_stream_that_is_dropped_stops_the_engine(scripted: Scripted) -> None:
    engine = scripted(endless())
    stream = ChatDiffusionGemma(engine=engine, max_tokens=50_000).stream_events("hi", version="v3")
    assert next(iter(stream.text))
    assert engine.running == 1
    del stream
    gc.collect()
    assert engine.running == 0


async def stopped(engine: Any) -> bool:
    """Whether the engine lets go within a denoising step."""
    began = time.monotonic()
    while engine.running and time.monotonic() - began < 5:
        await asyncio.sleep(0)
    return time.monotonic() - began < 2 * engine.step_seconds + 0.1 and not engine.running


@pytest.mark.parametrize("heartbeat", [None, 0.001, 2.0])
async def test_cancelling_a_task_stops_the_engine_within_a_step(
    scripted: Scripted, heartbeat: float | None
) -> None:
    engine = scripted(endless(), context=10**9)
    engine.step_seconds = 0.01
    model = ChatDiffusionGemma(engine=engine, max_tokens=10**8, heartbeat=heartbeat)
    task = asyncio.create_task(model.ainvoke("hi"))
    while engine.canvases < 3:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stopped(engine)


async def test_cancelling_does_not_wait_for_the_canvas(scripted: Scripted) -> None:
    engine = scripted(endless())
    engine.step_seconds = 1.0
    task = asyncio.create_task(ChatDiffusionGemma(engine=engine).ainvoke("hi"))
    while not engine.requests:
        await asyncio.sleep(0.01)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 0.5
    assert engine.running == 0


async def test_leaving_an_asynchronous_stream_stops_the_engine(scripted: Scripted) -> None:
    engine = scripted(endless(), context=10**9)
    model = ChatDiffusionGemma(engine=engine, max_tokens=10**8)
    stream: Any = model.astream("hi")
    await anext(stream)
    assert engine.running == 1
    await stream.aclose()
    assert await stopped(engine)


async def test_closing_an_asynchronous_protocol_stream_stops_the_engine(
    scripted: Scripted,
) -> None:
    engine = scripted(endless(), context=10**9)
    model = ChatDiffusionGemma(engine=engine, max_tokens=10**8)
    stream = await model.astream_events("hi", version="v3")
    assert await anext(aiter(stream.text))
    await stream.aclose()
    assert await stopped(engine)


async def test_a_timed_out_task_stops_the_engine(scripted: Scripted) -> None:
    engine = scripted(endless(), context=10**9)
    model = ChatDiffusionGemma(engine=engine, max_tokens=10**8)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(model.ainvoke("hi"), 0.1)
    assert await stopped(engine)
