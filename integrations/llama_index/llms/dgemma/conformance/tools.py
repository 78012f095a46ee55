"""Checks of tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection

from llama_index.llms.dgemma.conformance.answers import keeps_the_law
from llama_index.llms.dgemma.conformance.asked import ADD, ROLL, Asked, needed, user


def calls_in(llm: FunctionCallingLLM, response: ChatResponse) -> list[ToolSelection]:
    """The calls of a response."""
    return llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)


class ToolChecks(Asked):
    """What agents rely on."""

    def called(
        self, llm: FunctionCallingLLM, prompt: str, tools: Sequence[Any] = (ADD, ROLL), **how: Any
    ) -> list[ToolSelection]:
        """The calls that a prompt gets, streamed and not, which must be the same."""
        how = {"allow_parallel_tool_calls": True, **self.repeatable, **how}
        answer = llm.chat_with_tools(tools, user_msg=prompt, **how)
        chunks = list(llm.stream_chat_with_tools(tools, user_msg=prompt, **how))
        keeps_the_law(chunks)
        calls = calls_in(llm, answer)
        streamed = calls_in(llm, chunks[-1])
        assert [(each.tool_name, each.tool_kwargs) for each in calls] == [
            (each.tool_name, each.tool_kwargs) for each in streamed
        ]
        return calls

    def test_a_call_has_name_arguments_and_id(self, llm: FunctionCallingLLM) -> None:
        """Streamed or not."""
        (call,) = self.called(llm, needed(self.call_prompt))
        assert (call.tool_name, call.tool_kwargs) == ("add", {"a": 1, "b": 2})
        assert call.tool_id

    def test_a_call_is_told_in_both_places(self, llm: FunctionCallingLLM) -> None:
        """Blocks are for new code; parts of LlamaIndex still read `additional_kwargs`."""
        answer = llm.chat_with_tools([ADD], user_msg=needed(self.call_prompt), **self.repeatable)
        assert [each for each in answer.message.blocks if isinstance(each, ToolCallBlock)]
        older = answer.message.additional_kwargs.get("tool_calls")
        assert isinstance(older, list)
        assert len(older) == 1

    def test_calls_of_a_stream_are_objects_of_their_own(self, llm: FunctionCallingLLM) -> None:
        """Whoever changes those of one chunk changes no other."""
        chunks = list(llm.stream_chat_with_tools([ADD], user_msg=needed(self.call_prompt)))
        blocks = [id(block) for chunk in chunks for block in chunk.message.blocks]
        assert len(set(blocks)) == len(blocks)

    def test_no_call_is_an_error_only_if_asked(self, llm: FunctionCallingLLM) -> None:
        """Agents ask every chunk."""
        answer = llm.chat_with_tools([ADD], user_msg=self.text_prompt, **self.repeatable)
        assert calls_in(llm, answer) == []
        with pytest.raises(ValueError, match="tool call"):
            llm.get_tool_calls_from_response(answer)

    def test_two_calls_of_one_tool_are_two(self, llm: FunctionCallingLLM) -> None:
        """With ids of their own, or their results cannot be told apart."""
        calls = self.called(llm, needed(self.twice_prompt))
        assert [(each.tool_name, each.tool_kwargs) for each in calls] == [
            ("roll_die", {"sides": 6})
        ] * 2
        assert len({each.tool_id for each in calls}) == 2

    def test_arguments_have_the_types_of_the_tool(self, llm: FunctionCallingLLM) -> None:
        """LlamaIndex hands them to the function as they are, and "1" + "2" is "12"."""
        (call,) = self.called(llm, needed(self.untyped_prompt))
        assert call.tool_kwargs == {"a": 1, "b": 2}

    def test_a_required_call_is_made(self, llm: FunctionCallingLLM) -> None:
        """Whatever the model would rather say."""
        assert self.called(llm, self.text_prompt, tool_required=True)

    def test_a_chosen_tool_is_called(self, llm: FunctionCallingLLM) -> None:
        """Each of them, by its name."""
        for name in ("add", "roll_die"):
            calls = self.called(llm, self.text_prompt, tool_choice=name)
            assert {each.tool_name for each in calls} == {name}

    def test_no_parallel_calls_means_one_call(self, llm: FunctionCallingLLM) -> None:
        """In streams too, where LlamaIndex does not check it."""
        prompt = needed(self.twice_prompt)
        assert len(self.called(llm, prompt, allow_parallel_tool_calls=False)) == 1

    def test_the_history_of_the_caller_is_left_alone(self, llm: FunctionCallingLLM) -> None:
        """The new message is not put into it."""
        history = [user("Hello!"), ChatMessage(role="assistant", content="Hello.")]
        before = [each.model_copy(deep=True) for each in history]
        llm.chat_with_tools([ADD], user_msg=user(self.text_prompt), chat_history=history)
        assert history == before

    def test_a_user_message_may_be_an_object(self, llm: FunctionCallingLLM) -> None:
        """It is not dropped."""
        llm.chat_with_tools([ADD], user_msg=user("Where is the lighthouse?"))
        assert "Where is the lighthouse?" in self.sent()

    def test_the_model_learns_which_result_is_whose(self, llm: FunctionCallingLLM) -> None:
        """Results come with an id alone; it or the tool's name must reach the model with them."""
        calls = [
            ToolCallBlock(tool_call_id="call-17", tool_name="add", tool_kwargs={"a": 3, "b": 4}),
            ToolCallBlock(tool_call_id="call-18", tool_name="roll_die", tool_kwargs={"sides": 9}),
        ]
        results = [
            ChatMessage(role="tool", content=text, additional_kwargs={"tool_call_id": name})
            for name, text in (("call-17", "7"), ("call-18", "5"))
        ]
        said = ChatMessage(role="assistant", blocks=calls)
        llm.chat([user("Play."), said, *results])  # tools are not declared, so names are not there
        sent = self.sent()
        for name, call_id in (("add", "call-17"), ("roll_die", "call-18")):
            assert sent.count(name) > 1 or sent.count(call_id) > 1, f"whose result is {name}'s?"

    def test_predict_and_call_runs_the_tool(self, llm: FunctionCallingLLM) -> None:
        """With what LlamaIndex's programs pass beside it."""
        done = llm.predict_and_call(
            [ADD], user_msg=needed(self.call_prompt), tool_choice=None, tool_required=True
        )
        assert str(done) == "3"
        (source,) = done.sources
        assert (source.tool_name, source.is_error) == ("add", False)

    def test_agents_without_tools_can_chat(self, llm: FunctionCallingLLM) -> None:
        """An empty list of tools is no tools."""
        answer = llm.chat_with_tools([], chat_history=[user(self.text_prompt)])
        assert answer.message.content
