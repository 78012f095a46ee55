"""Checks of plain answers: metadata, streams, settings, messages, history."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CompletionResponse,
    DocumentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM

from llama_index.llms.dgemma.conformance.asked import Asked, accepts, user

SPEAKERS = [role for role in MessageRole if role not in (MessageRole.TOOL, MessageRole.FUNCTION)]


def keeps_the_law(chunks: Sequence[Any]) -> None:
    """Deltas are strings and add up to the text so far, in every chunk."""
    assert chunks, "the stream is empty"
    so_far = ""
    for chunk in chunks:
        assert isinstance(chunk.delta, str), f"the delta of a chunk is {chunk.delta!r}"
        so_far += chunk.delta
        assert text_of(chunk) == so_far, "a chunk's text is not the sum of the deltas so far"


def text_of(response: ChatResponse | CompletionResponse) -> str:
    """The text of a response of either kind."""
    return (response.message.content or "") if isinstance(response, ChatResponse) else response.text


class AnswerChecks(Asked):
    """What holds for every answer."""

    def test_it_is_an_llm_with_a_name_of_its_own(self, llm: FunctionCallingLLM) -> None:
        """`class_name` tells stored LLMs apart."""
        assert isinstance(llm, BaseLLM)
        assert llm.class_name() not in ("base_component", "LLM", "HuggingFace_LLM", "custom_llm")

    def test_metadata_is_sane_and_costs_nothing(self, llm: FunctionCallingLLM) -> None:
        """Prompts are planned with it, and it is read at every call."""
        metadata = llm.metadata
        assert metadata.is_chat_model
        assert metadata.is_function_calling_model
        assert 0 < metadata.num_output < metadata.context_window
        start = time.process_time()
        for _ in range(100):
            assert llm.metadata == metadata
        assert time.process_time() - start < 0.1

    def test_num_output_follows_max_tokens(self) -> None:
        """Or prompts leave the wrong room for the answer."""
        assert self.make(max_tokens=17).metadata.num_output == 17

    def test_deltas_add_up_in_a_chat(self, llm: FunctionCallingLLM) -> None:
        """Whoever reads the deltas and whoever reads the last message see the same."""
        keeps_the_law(list(llm.stream_chat([user(self.text_prompt)])))

    def test_deltas_add_up_in_a_completion(self, llm: FunctionCallingLLM) -> None:
        """The same for completions."""
        keeps_the_law(list(llm.stream_complete(self.text_prompt)))

    async def test_deltas_add_up_in_async_streams(self, llm: FunctionCallingLLM) -> None:
        """The same without blocking."""
        keeps_the_law([each async for each in await llm.astream_chat([user(self.text_prompt)])])
        keeps_the_law([each async for each in await llm.astream_complete(self.text_prompt)])

    async def test_all_eight_endpoints_give_the_same_answer(self, llm: FunctionCallingLLM) -> None:
        """They are eight ways to ask one question."""
        text, how = self.text_prompt, self.repeatable
        chat = [user(text)]
        found: list[Any] = [llm.chat(chat, **how), llm.complete(text, **how)]
        found += [await llm.achat(chat, **how), await llm.acomplete(text, **how)]
        found += [
            list(llm.stream_chat(chat, **how))[-1],
            list(llm.stream_complete(text, **how))[-1],
        ]
        found += [[each async for each in await llm.astream_chat(chat, **how)][-1]]
        found += [[each async for each in await llm.astream_complete(text, **how)][-1]]
        assert len({text_of(each) for each in found}) == 1
        assert text_of(found[0])

    def test_an_answer_without_stream_has_no_delta(self, llm: FunctionCallingLLM) -> None:
        """A delta is what a chunk adds."""
        assert llm.chat([user(self.text_prompt)]).delta is None

    def test_messages_of_a_stream_are_objects_of_their_own(self, llm: FunctionCallingLLM) -> None:
        """Chat engines write into the last one."""
        chunks = list(llm.stream_chat([user(self.text_prompt)]))
        blocks = [id(block) for chunk in chunks for block in chunk.message.blocks]
        assert len(set(blocks)) == len(blocks)

    def test_max_tokens_of_a_call_is_honoured(self, llm: FunctionCallingLLM) -> None:
        """A setting of a call is not dropped."""
        full = self.ask(llm, self.text_prompt)
        cut = llm.chat([user(self.text_prompt)], **{**self.repeatable, "max_tokens": 3})
        assert len(cut.message.content or "") < len(full)

    def test_stop_strings_of_a_call_are_honoured(self, llm: FunctionCallingLLM) -> None:
        """The answer ends before them."""
        full = self.ask(llm, self.text_prompt)
        stop = full[len(full) // 2 :][:3]
        said = llm.chat([user(self.text_prompt)], **{**self.repeatable, "stop": [stop]})
        assert stop not in (said.message.content or "")

    def test_a_setting_that_does_not_exist_is_refused(self, llm: FunctionCallingLLM) -> None:
        """A misspelt name must not vanish."""
        chat = [user(self.text_prompt)]
        assert not accepts(lambda: llm.chat(chat, temprature=0)), "a misspelt setting was dropped"

    def test_usage_and_finish_reason_are_told(self, llm: FunctionCallingLLM) -> None:
        """Token counters read them from `raw`."""
        streamed = list(llm.stream_chat([user(self.text_prompt)]))[-1]
        for response in (llm.chat([user(self.text_prompt)]), streamed):
            raw = response.raw
            assert isinstance(raw, dict)
            assert raw["usage"]["prompt_tokens"] > 0
            assert raw["usage"]["completion_tokens"] > 0
            assert raw["finish_reason"]

    def test_thoughts_are_kept_apart(self) -> None:
        """A thought is a block and a `thinking_delta` of the response, never text."""
        if self.thinking is None:
            pytest.skip("the model does not think")
        chunks = list(self.make(**self.thinking).stream_chat([user(self.text_prompt)]))
        keeps_the_law(chunks)
        deltas = "".join(each.additional_kwargs.get("thinking_delta") or "" for each in chunks)
        blocks = [each for each in chunks[-1].message.blocks if isinstance(each, ThinkingBlock)]
        assert deltas, "no chunk has a thinking_delta"
        assert "".join(each.content or "" for each in blocks) == deltas
        assert deltas.strip() not in (chunks[-1].message.content or "")

    def test_thinking_can_be_switched_off_for_a_call(self) -> None:
        """A call's setting comes before the object's."""
        if self.thinking is None:
            pytest.skip("the model does not think")
        off = dict.fromkeys(self.thinking, False)
        answer = self.make(**self.thinking).chat([user(self.text_prompt)], **off)
        assert not [each for each in answer.message.blocks if isinstance(each, ThinkingBlock)]

    def test_a_formatted_prompt_is_sent_as_it_is(self, llm: FunctionCallingLLM) -> None:
        """It was rendered from a template already."""
        llm.complete(self.raw_prompt, formatted=True)
        assert self.sent() == self.raw_prompt

    def test_an_answer_survives_json(self, llm: FunctionCallingLLM) -> None:
        """Chat stores and contexts keep messages as JSON."""
        answer = llm.chat([user(self.text_prompt)])
        json.dumps(answer.message.additional_kwargs)
        json.dumps(answer.raw)
        again = ChatMessage.model_validate_json(answer.message.model_dump_json())
        assert again == answer.message
        assert text_of(llm.chat([user(self.text_prompt), again, user(self.other_prompt)]))

    @pytest.mark.parametrize("role", SPEAKERS)
    def test_every_role_is_understood(self, llm: FunctionCallingLLM, role: MessageRole) -> None:
        """A conversation may hold any of them."""
        odd = ChatMessage(role=role, content="Be kind.")
        assert text_of(llm.chat([user(self.text_prompt), odd, user(self.other_prompt)]))

    def test_a_system_message_may_come_last(self, llm: FunctionCallingLLM) -> None:
        """Agents that run out of turns end with one."""
        last = ChatMessage(role="system", content="Be short.")
        assert text_of(llm.chat([user(self.text_prompt), last]))

    def test_blocks_of_text_are_joined_and_citable_ones_read(self, llm: FunctionCallingLLM) -> None:
        """All of them reach the model."""
        cited = CitableBlock(
            title="Almanac", source="shelf 3", content=[TextBlock(text="Rain on Tuesday.")]
        )
        blocks = [TextBlock(text="Read this."), cited, TextBlock(text=self.text_prompt)]
        assert text_of(llm.chat([ChatMessage(role="user", blocks=blocks)]))
        sent = self.sent()
        assert all(word in sent for word in ("Read this.", "Rain on Tuesday.", self.text_prompt))

    @pytest.mark.parametrize(
        "block",
        [AudioBlock(audio=b"RIFF", format="wav"), DocumentBlock(data=b"%PDF-", title="report")],
        ids=["audio", "document"],
    )
    def test_blocks_it_cannot_take_are_refused_by_name(
        self, llm: FunctionCallingLLM, block: AudioBlock | DocumentBlock
    ) -> None:
        """Nothing is dropped in silence."""
        message = ChatMessage(role="user", blocks=[TextBlock(text=self.text_prompt), block])
        with pytest.raises(ValueError, match=block.block_type):
            llm.chat([message])

    def test_the_payload_of_events_is_plain_and_has_no_secret(self) -> None:
        """It goes to whoever observes."""
        payload = json.dumps(self.make().to_payload(), default=str)
        assert not [secret for secret in self.secrets if secret in payload]
