"""Objects, and answers of a wanted form, over the well-behaved model."""

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, field_validator

from dgemma_backend import ResponseFormat, ScriptedEngine
from dgemma_backend.errors import SettingError
from llama_index.llms.dgemma import DiffusionGemma, InvalidAnswerError
from llama_index.llms.dgemma.convert import to_response_format


class Song(BaseModel):
    """A song."""

    title: str
    year: int


def test_the_schema_is_told_unless_it_should_not_be(
    llm: DiffusionGemma, engine: ScriptedEngine
) -> None:
    prompt = PromptTemplate("A song of {topic}.")
    assert llm.structured_predict(Song, prompt, topic="rain").year == 1987
    assert '"title": "Song"' in engine.prompt_of()
    quiet = DiffusionGemma(engine=engine, tell_schema=False)
    quiet.structured_predict(Song, prompt, topic="rain")
    assert "schema" not in engine.prompt_of()
    wanted = engine.requests[-1].response_format
    assert wanted is not None
    assert wanted.on_unsupported == "validate"


def test_partial_objects_grow(llm: DiffusionGemma) -> None:
    stream = llm.stream_structured_predict(Song, PromptTemplate("A song of {t}."), t="rain")
    *partial, last = stream
    titles: list[str] = [title for each in partial if (title := getattr(each, "title", None))]
    assert len(set(titles)) > 1
    assert titles == sorted(titles, key=len)
    assert last == Song(title="Blaues Flüstern", year=1987)


def test_an_answer_that_a_validator_refuses_is_our_error(llm: DiffusionGemma) -> None:
    class Old(Song):
        @field_validator("year")
        @classmethod
        def is_old(cls, year: int) -> int:
            if year > 1900:
                raise ValueError("too young")
            return year

    with pytest.raises(InvalidAnswerError, match=r"is no Old.*\n?.*too young|too young"):
        llm.structured_predict(Old, PromptTemplate("A song."))
    cut = {"llm_kwargs": {"max_tokens": 9}}
    with pytest.raises(InvalidAnswerError, match="raise max_tokens"):
        llm.structured_predict(Song, PromptTemplate("A song."), **cut)
    with pytest.raises(InvalidAnswerError, match="raise max_tokens"):
        list(llm.stream_structured_predict(Song, PromptTemplate("A song."), **cut))


async def test_an_async_answer_that_is_no_object_is_our_error(llm: DiffusionGemma) -> None:
    cut = {"llm_kwargs": {"max_tokens": 9}}
    with pytest.raises(InvalidAnswerError, match="raise max_tokens"):
        await llm.astructured_predict(Song, PromptTemplate("A song."), **cut)
    stream = await llm.astream_structured_predict(Song, PromptTemplate("A song."), **cut)
    with pytest.raises(InvalidAnswerError, match="raise max_tokens"):
        [each async for each in stream]


def test_what_programs_pass_about_tools_is_no_matter_for_objects(llm: DiffusionGemma) -> None:
    about = {"tool_required": True, "tool_choice": "Song", "allow_parallel_tool_calls": False}
    found = llm.structured_predict(Song, PromptTemplate("A song."), llm_kwargs=about)
    assert found.year == 1987


def test_another_program_mode_is_llama_indexs_own(llm: DiffusionGemma) -> None:
    llm.pydantic_program_mode = PydanticProgramMode.FUNCTION
    with pytest.raises(ValueError, match="validation error"):  # the scripted call has no arguments
        llm.structured_predict(Song, PromptTemplate("A song."))
    assert llm.engine.requests[-1].tools[0].name == "Song"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"type": "json_object"}, "json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, "json_schema"),
        (Song, "json_schema"),
        (ResponseFormat.choices(["yes", "no"]), "choices"),
    ],
)
def test_response_formats_in_every_form(
    llm: DiffusionGemma, engine: ScriptedEngine, given: Any, kind: str
) -> None:
    llm.chat([ChatMessage(content="Hello!")], response_format=given)
    wanted = engine.requests[-1].response_format
    assert wanted is not None
    assert wanted.kind == kind


def test_a_response_format_that_is_none_is_refused() -> None:
    assert to_response_format({"type": "text"}) is None
    with pytest.raises(SettingError, match=r"must be a ResponseFormat"):
        to_response_format({"type": "xml"})
