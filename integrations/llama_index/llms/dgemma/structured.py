"""Answers as objects of a pydantic class: the schema is enforced while the answer is decoded."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.program.utils import FlexibleModel, create_flexible_model
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, Field, ValidationError

from llama_index.llms.dgemma.convert import schema_format
from llama_index.llms.dgemma.failures import InvalidAnswerError
from llama_index.llms.dgemma.partial_json import partial_json

dispatcher = get_dispatcher(__name__)

TOOL_WORDS = ("tools", "tool_choice", "tool_required", "allow_parallel_tool_calls")
"""What core passes to programs that call tools; an object is no tool call here."""


class StructuredPrediction(FunctionCallingLLM):
    """The `structured_predict` family over decoding that cannot leave the schema.

    With a `pydantic_program_mode` other than DEFAULT, LlamaIndex's own programs are used.
    """

    tell_schema: bool = Field(
        default=True,
        description="Show the schema to the model in the prompt; it is enforced either way.",
    )

    @dispatcher.span
    def structured_predict(
        self,
        output_cls: type[Any],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """An `output_cls` that answers the prompt.

        Raises UnsupportedSchemaError or ConstraintError for a schema that cannot be enforced, and
        InvalidAnswerError where a validator of the class refuses the answer.
        """
        if not self._enforces:
            return super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        _started(output_cls, prompt, prompt_args)
        messages = self._asked(output_cls, prompt, prompt_args)
        return _ended(_object(output_cls, self.chat(messages, **_forced(output_cls, llm_kwargs))))

    @dispatcher.span
    async def astructured_predict(
        self,
        output_cls: type[Any],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """`structured_predict` that leaves the event loop free."""
        if not self._enforces:
            return await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        _started(output_cls, prompt, prompt_args)
        messages = self._asked(output_cls, prompt, prompt_args)
        answer = await self.achat(messages, **_forced(output_cls, llm_kwargs))
        return _ended(_object(output_cls, answer))

    def _structured_stream_call(
        self,
        output_cls: type[Any],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """What `stream_structured_predict` yields: partial objects, and the whole one last."""
        if not self._enforces:
            yield from super()._structured_stream_call(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return
        messages = self._asked(output_cls, prompt, prompt_args)
        growing = _Growing(output_cls)
        for response in self.stream_chat(messages, **_forced(output_cls, llm_kwargs)):
            if (partial := growing.take(response)) is not None:
                yield partial
        yield growing.whole()

    async def _structured_astream_call(
        self,
        output_cls: type[Any],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """`_structured_stream_call` for an event loop."""
        if not self._enforces:
            return await super()._structured_astream_call(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
        messages = self._asked(output_cls, prompt, prompt_args)
        responses = await self.astream_chat(messages, **_forced(output_cls, llm_kwargs))

        async def objects() -> AsyncGenerator[Any, None]:
            growing = _Growing(output_cls)
            async for response in responses:
                if (partial := growing.take(response)) is not None:
                    yield partial
            yield growing.whole()

        return objects()

    @property
    def _enforces(self) -> bool:
        return self.pydantic_program_mode == PydanticProgramMode.DEFAULT

    def _asked(
        self, cls: type[BaseModel], prompt: PromptTemplate, arguments: Mapping[str, Any]
    ) -> list[ChatMessage]:
        """The prompt's messages, behind the system prompt, with the schema if it is told."""
        messages = list(self._extend_messages(prompt.format_messages(llm=self, **arguments)))
        if not self.tell_schema:
            return messages
        schema = json.dumps(cls.model_json_schema(), ensure_ascii=False)
        told = f"Answer with a JSON object of this schema:\n{schema}"
        return _with_instruction(messages, told)


def _with_instruction(messages: Sequence[ChatMessage], text: str) -> list[ChatMessage]:
    """The conversation with `text` at the end of its system message, or as a new one in front."""
    if messages and messages[0].role in (MessageRole.SYSTEM, MessageRole.DEVELOPER):
        first = messages[0].content or ""
        system = ChatMessage(role=MessageRole.SYSTEM, content=f"{first}\n\n{text}")
        return [system, *messages[1:]]
    return [ChatMessage(role=MessageRole.SYSTEM, content=text), *messages]


class _Growing:
    """An object that more and more is known of."""

    def __init__(self, cls: type[BaseModel]) -> None:
        self._cls = cls
        self._flexible = create_flexible_model(cls)
        self._last: ChatResponse | None = None

    def take(self, response: ChatResponse) -> BaseModel | None:
        """The object as far as the answer goes, None where that says nothing new or readable."""
        self._last = response
        text = response.message.content
        if not response.delta or not text or response.raw is not None:
            return None
        try:
            known = self._flexible.model_validate(partial_json(text))
        except ValueError:  # not an object yet, or none at all: `whole` will say so
            return None
        return _as(self._cls, known)

    def whole(self) -> BaseModel:
        """The object of the finished answer."""
        return _object(self._cls, self._last)


def _as(cls: type[BaseModel], known: FlexibleModel) -> BaseModel:
    try:
        return cls.model_validate(known.model_dump(exclude_unset=True))
    except ValidationError:
        return known


def _object(cls: type[BaseModel], response: ChatResponse | None) -> BaseModel:
    text = "" if response is None else response.message.content or ""
    try:
        return cls.model_validate_json(text)
    except ValidationError as error:
        raw = None if response is None else response.raw
        cut = isinstance(raw, Mapping) and raw.get("finish_reason") == "length"
        hint = " It was cut off: raise max_tokens." if cut else ""
        raise InvalidAnswerError(
            f"the answer {text!r:.200} is no {cls.__name__}.{hint} {error}"
        ) from error


def _forced(cls: type[BaseModel], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of a chat call whose answer is a `cls`."""
    kept = {name: value for name, value in (given or {}).items() if name not in TOOL_WORDS}
    return {**kept, "response_format": schema_format(cls)}


def _started(cls: type[Any], prompt: PromptTemplate, arguments: dict[str, Any]) -> None:
    dispatcher.event(
        LLMStructuredPredictStartEvent(output_cls=cls, template=prompt, template_args=arguments)
    )


def _ended(found: BaseModel) -> BaseModel:
    dispatcher.event(LLMStructuredPredictEndEvent(output=found))
    return found
