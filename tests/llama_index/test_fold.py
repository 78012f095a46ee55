"""Any events make responses that keep the law of deltas; and the kit sees who does not."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    ThinkingBlock,
    ToolCallBlock,
)

from dgemma_backend import Message, Reply, ScriptedEngine, ToolCall, Usage
from dgemma_backend.events import (
    CanvasCommitted,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDone,
)
from llama_index.llms.dgemma import DiffusionGemma
from llama_index.llms.dgemma.conformance import LLMConformance
from llama_index.llms.dgemma.conformance.answers import keeps_the_law
from llama_index.llms.dgemma.fold import Fold, Granularity

COMMITTED = CanvasCommitted(0, (), 1, converged=True)
EVENTS = st.lists(
    st.one_of(
        st.text(min_size=1, max_size=20).map(TextDelta),
        st.text(min_size=1, max_size=20).map(ReasoningDelta),
        st.just(COMMITTED),
        st.integers(0, 9).map(lambda n: ToolCallDone(ToolCall(str(n), "add", {"a": n}))),
    ),
    max_size=20,
)


def finished(events: Sequence[Event]) -> Finished:
    text = "".join(each.text for each in events if isinstance(each, TextDelta))
    calls = tuple(each.call for each in events if isinstance(each, ToolCallDone))
    return Finished(Reply(text, "", calls, (), "stop", Usage(3, 4), 0, "scripted"))


@given(events=EVENTS, granularity=st.sampled_from(["block", "sentence", "word"]))
def test_any_events_make_responses_that_add_up(
    events: list[Event], granularity: Granularity
) -> None:
    fold = Fold(granularity)
    end = finished(events)
    found = [response for event in [*events, end] for response in fold.take(event)]
    keeps_the_law(found)
    last = found[-1]
    assert last.message.content == end.reply.text
    thoughts = "".join(each.text for each in events if isinstance(each, ReasoningDelta))
    deltas = [each.additional_kwargs.get("thinking_delta", "") for each in found]
    assert "".join(deltas) == thoughts
    blocks = last.message.blocks
    assert "".join(each.content or "" for each in blocks if isinstance(each, ThinkingBlock)) == (
        thoughts
    )
    calls = [each.tool_kwargs for each in blocks if isinstance(each, ToolCallBlock)]
    assert calls == [dict(call.arguments) for call in end.reply.tool_calls]
    assert last.raw is not None
    assert last.raw["usage"]["total_tokens"] == 7
    assert all(each.raw is None for each in found[:-1])


def test_a_canvas_of_control_tokens_makes_no_response() -> None:
    assert list(Fold().take(COMMITTED)) == []


def test_the_adapter_costs_less_than_a_fifth_of_a_millisecond_a_canvas() -> None:
    events: list[Event] = [TextDelta("some words of a canvas "), COMMITTED] * 100
    fold = Fold()
    start = time.process_time()
    for event in events:
        list(fold.take(event))
    assert (time.process_time() - start) / 100 < 0.0002


# the kit, on LLMs that are wrong in one way each


class Blocking(DiffusionGemma):
    """Answers in the thread of the event loop, as CustomLLM does."""

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        time.sleep(0.5)
        answer: ChatResponse = self.chat(messages, **kwargs)
        return answer


class Eager(DiffusionGemma):
    """Generates before anybody reads, and all of it."""

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        done = list(super().stream_chat(messages, **kwargs))
        return (each for each in done)

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        chunks = [each async for each in await super().astream_chat(messages, **kwargs)]

        async def again() -> ChatResponseAsyncGen:
            for each in chunks:
                yield each

        return again()


class Whole(DiffusionGemma):
    """Its deltas are the whole text so far."""

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        for each in super().stream_chat(messages, **kwargs):
            yield each.model_copy(update={"delta": each.message.content})


def kit(cls: type[DiffusionGemma]) -> tuple[LLMConformance, DiffusionGemma]:
    engine = ScriptedEngine(lambda request: Message.assistant("On and on it goes. " * 40))
    llm = cls(engine=engine)

    class Checks(LLMConformance):
        def make(self, **settings: Any) -> DiffusionGemma:
            return llm

        def work_done(self) -> int:
            return engine.canvases

    return Checks(), llm


async def test_the_kit_sees_a_blocked_event_loop() -> None:
    checks, _ = kit(Blocking)
    with pytest.raises(AssertionError, match="the loop was held up"):
        await checks.test_the_event_loop_stays_free()


def test_the_kit_sees_work_that_nobody_asked_for() -> None:
    checks, llm = kit(Eager)
    with pytest.raises(AssertionError):
        checks.test_nothing_runs_before_a_stream_is_read(llm)


def test_the_kit_sees_deltas_that_do_not_add_up() -> None:
    checks, llm = kit(Whole)
    with pytest.raises(AssertionError, match="not the sum of the deltas"):
        checks.test_deltas_add_up_in_a_chat(llm)


async def test_the_kit_sees_work_that_goes_on_after_the_reader_has_left() -> None:
    checks, llm = kit(DiffusionGemma)
    stream = llm.stream_chat([ChatMessage(role="user", content="Hi")])
    next(stream)
    done = checks.work_done()
    rest = asyncio.create_task(asyncio.to_thread(list, stream))  # somebody else reads on
    await rest
    with pytest.raises(AssertionError, match="went on after the reader had left"):
        checks.stopped(done)
