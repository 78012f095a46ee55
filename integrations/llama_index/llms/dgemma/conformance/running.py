"""Checks of how an LLM behaves in a program: event loops, threads, cancelling, copies, events."""

from __future__ import annotations

import asyncio
import copy
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import pytest
from llama_index.core.llms.function_calling import FunctionCallingLLM

from llama_index.llms.dgemma.conformance.asked import Asked, user
from llama_index.llms.dgemma.conformance.listening import events

LONGEST_GAP = 0.2
"""Seconds for which an event loop may be held up; other work on the machine counts, too."""
ENOUGH = 0.2
"""Seconds of work below which nothing is learnt about gaps."""


class RunningChecks(Asked):
    """What a server relies on."""

    async def test_the_event_loop_stays_free(self) -> None:
        """While two answers are generated."""
        llm = self.make(**self.slow)
        gaps = []
        done = False

        async def tick() -> None:
            while not done:
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                gaps.append(time.perf_counter() - before)

        async def stream() -> None:
            async for _ in await llm.astream_chat([user(self.long_prompt)]):
                pass

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0)
        start = time.perf_counter()
        await asyncio.gather(llm.achat([user(self.long_prompt)]), stream())
        took = time.perf_counter() - start
        done = True
        await ticking
        if took < ENOUGH and max(gaps) < LONGEST_GAP:
            pytest.skip(f"the answers took only {took:.2f} s; say `slow`")
        assert max(gaps) < LONGEST_GAP, f"the loop was held up for {max(gaps):.2f} s"

    def test_nothing_runs_before_a_stream_is_read(self, llm: FunctionCallingLLM) -> None:
        """A stream that nobody reads costs nothing."""
        before = self.work_done()
        stream = llm.stream_chat([user(self.long_prompt)])
        time.sleep(0.05)
        assert self.work_done() == before
        next(iter(stream))
        assert self.work_done() > before

    def test_bad_arguments_are_refused_at_once(self, llm: FunctionCallingLLM) -> None:
        """Not at the first `next`, where nobody looks for it."""
        with pytest.raises(Exception, match="temprature"):
            llm.stream_chat([user(self.text_prompt)], temprature=0)

    def stopped(self, before: int) -> None:
        """Assert that hardly any work is done after a reader has left."""
        gc.collect()
        time.sleep(0.2)
        assert self.work_done() - before <= 1, "the work went on after the reader had left"

    def test_closing_a_stream_stops_the_work(self) -> None:
        """Within one step."""
        stream = self.make(**self.slow).stream_chat([user(self.long_prompt)])
        next(stream)
        stream.close()
        self.stopped(self.work_done())

    async def test_closing_an_async_stream_stops_the_work(self) -> None:
        """Within one step."""
        stream = await self.make(**self.slow).astream_chat([user(self.long_prompt)])
        await anext(stream)
        await stream.aclose()
        done = self.work_done()
        del stream
        await asyncio.sleep(0.05)
        self.stopped(done)

    async def test_cancelling_the_task_stops_the_work(self) -> None:
        """Within one step."""
        asked = self.make(**self.slow).achat([user(self.long_prompt)])
        task = asyncio.create_task(asked)
        await asyncio.sleep(0.1)
        assert not task.done(), "the answer came too fast to be cancelled; say `slow`"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self.stopped(self.work_done())

    async def test_threads_and_tasks_do_not_mix_answers_up(self, llm: FunctionCallingLLM) -> None:
        """Everyone gets the answer they would get alone."""
        prompts = [self.text_prompt, self.other_prompt]
        alone = [self.ask(llm, prompt) for prompt in prompts]
        assert alone[0] != alone[1]
        with ThreadPoolExecutor(2) as pool:
            threads = [pool.submit(self.ask, llm, prompt) for prompt in prompts]
            tasks = [llm.achat([user(prompt)], **self.repeatable) for prompt in prompts]
            answers = [each.message.content for each in await asyncio.gather(*tasks)]
        assert [each.result() for each in threads] == alone
        assert answers == alone

    def test_copies_share_what_is_big(self, llm: FunctionCallingLLM) -> None:
        """LlamaIndex copies LLMs, and a second model does not fit."""
        twin = copy.deepcopy(llm)
        assert self.weights(twin) is self.weights(llm)
        assert self.ask(twin, self.text_prompt) == self.ask(llm, self.text_prompt)

    def test_a_pickle_is_small_and_works(self, llm: FunctionCallingLLM) -> None:
        """As multiprocessing makes it: what to open, not what is open."""
        self.ask(llm, self.text_prompt)
        data = bytes(ForkingPickler.dumps(llm))
        assert len(data) < 10_000
        assert self.ask(ForkingPickler.loads(data), self.text_prompt)

    def test_events_come_in_pairs(self, llm: FunctionCallingLLM) -> None:
        """A start and an end for each call, and what happens between."""
        with events("LLMChat", "LLMCompletion") as seen:
            llm.chat([user(self.text_prompt)])
            assert seen == ["LLMChatStartEvent", "LLMChatEndEvent"]
            seen.clear()
            chunks = list(llm.stream_chat([user(self.text_prompt)]))
            between = ["LLMChatInProgressEvent"] * len(chunks)
            assert seen == ["LLMChatStartEvent", *between, "LLMChatEndEvent"]
            seen.clear()
            llm.complete(self.text_prompt)
            assert seen[0] == "LLMCompletionStartEvent"
            assert seen[-1] == "LLMCompletionEndEvent"
