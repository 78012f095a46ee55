"""Checks of structured prediction."""

from __future__ import annotations

import pytest
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate

from llama_index.llms.dgemma.conformance.asked import Asked, Song, needed, user
from llama_index.llms.dgemma.conformance.listening import events

SYSTEM = "You are the archivist of Oldham."


class ObjectChecks(Asked):
    """The four `structured_predict` methods, and what is built on them."""

    @pytest.fixture
    def prompt(self) -> PromptTemplate:
        """The prompt for a song."""
        return PromptTemplate(needed(self.song_prompt))

    def test_structured_predict_gives_an_object(
        self, llm: FunctionCallingLLM, prompt: PromptTemplate
    ) -> None:
        """Of the class that was asked for."""
        assert isinstance(llm.structured_predict(Song, prompt, topic="rain"), Song)

    async def test_astructured_predict_gives_an_object(
        self, llm: FunctionCallingLLM, prompt: PromptTemplate
    ) -> None:
        """The same without blocking."""
        assert isinstance(await llm.astructured_predict(Song, prompt, topic="rain"), Song)

    def test_a_stream_of_objects_ends_with_a_whole_one(
        self, llm: FunctionCallingLLM, prompt: PromptTemplate
    ) -> None:
        """And shows it growing before."""
        found = list(llm.stream_structured_predict(Song, prompt, topic="rain"))
        assert isinstance(found[-1], Song)
        assert len(found) > 2, "nothing was seen of the object before it was whole"

    async def test_an_async_stream_of_objects_ends_with_a_whole_one(
        self, llm: FunctionCallingLLM, prompt: PromptTemplate
    ) -> None:
        """The same without blocking."""
        stream = await llm.astream_structured_predict(Song, prompt, topic="rain")
        assert isinstance([each async for each in stream][-1], Song)

    async def test_the_system_prompt_reaches_the_model(self, prompt: PromptTemplate) -> None:
        """In all four methods."""
        llm = self.make(system_prompt=SYSTEM)
        llm.structured_predict(Song, prompt, topic="rain")
        assert SYSTEM in self.sent()
        await llm.astructured_predict(Song, prompt, topic="sun")
        assert SYSTEM in self.sent()
        list(llm.stream_structured_predict(Song, prompt, topic="wind"))
        assert SYSTEM in self.sent()
        async for _ in await llm.astream_structured_predict(Song, prompt, topic="snow"):
            assert SYSTEM in self.sent()

    async def test_each_method_tells_of_its_start_and_end(
        self, llm: FunctionCallingLLM, prompt: PromptTemplate
    ) -> None:
        """With events of their own around those of the chat."""
        start, end = "LLMStructuredPredictStartEvent", "LLMStructuredPredictEndEvent"
        with events("LLMStructured") as seen:
            llm.structured_predict(Song, prompt, topic="rain")
            await llm.astructured_predict(Song, prompt, topic="rain")
            assert seen == [start, end] * 2
            seen.clear()
            found = list(llm.stream_structured_predict(Song, prompt, topic="rain"))
            between = ["LLMStructuredPredictInProgressEvent"] * len(found)
            assert seen == [start, *between, end]

    def test_arguments_for_the_llm_are_left_alone(
        self, llm: FunctionCallingLLM, prompt: PromptTemplate
    ) -> None:
        """They are used, and are the same afterwards."""
        given = {**self.repeatable, "tool_choice": "auto"}
        before = dict(given)
        llm.structured_predict(Song, prompt, llm_kwargs=given, topic="rain")
        assert given == before

    def test_braces_in_what_is_said_do_no_harm(self, llm: FunctionCallingLLM) -> None:
        """`as_structured_llm` puts messages into a prompt template."""
        asked = needed(self.song_prompt).format(topic='{"a": 1} }{')
        answer = llm.as_structured_llm(Song).chat([user(asked)])
        assert isinstance(answer.raw, Song)
