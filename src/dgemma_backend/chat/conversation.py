"""The turns of a conversation, as Gemma 4 writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dgemma_backend.chat.segments import SegmentWriter
from dgemma_backend.chat.tool_schema import sorted_items, write_declaration, write_value
from dgemma_backend.errors import PromptError
from dgemma_backend.messages import Image, Message, Part, Text, Tool, ToolCall

LeftIn = Literal["call", "response"]
"""How the model's turn was left open: a call waits for its result, or results to be used."""


def write_system_turn(
    out: SegmentWriter, message: Message | None, tools: Sequence[Tool], *, thinking: bool
) -> None:
    """The first system turn: thinking switch, instructions, tool declarations."""
    out.control("<|turn>")
    out.text("system\n")
    if thinking:
        out.control("<|think|>")
        out.text("\n")
    if message is not None and isinstance(message.content, str):
        out.text(message.content.strip())
    elif message is not None:
        for part in parts_of(message):
            if isinstance(part, Image):
                raise PromptError("a system message cannot hold an image")
            out.text(part.text.strip() + " ")
    for tool in tools:
        out.control("<|tool>")
        write_declaration(out, tool)
        out.control("<tool|>")
    out.control("<turn|>")
    out.text("\n")


class Conversation:
    """Writes the turns that follow the first system turn.

    `reopens_after_results`: an assistant message after tool results opens the model's turn again,
    as the checkpoint's own template does. `text_before_calls`: text beside calls goes before them.
    `preserve_thinking`: thoughts before tool calls are kept in turns that are over.
    """

    def __init__(
        self,
        turns: Sequence[Message],
        *,
        reopens_after_results: bool,
        text_before_calls: bool,
        preserve_thinking: bool,
    ) -> None:
        self.turns = turns
        self.reopens_after_results = reopens_after_results
        self.text_before_calls = text_before_calls
        self.preserve_thinking = preserve_thinking
        users = [place for place, turn in enumerate(turns) if turn.role == "user"]
        self.last_user = users[-1] if users else -1

    def write(self, out: SegmentWriter) -> LeftIn | None:
        """Write all turns and say whether the model's last turn was left open."""
        left_in: LeftIn | None = None
        place = 0
        while place < len(self.turns):
            turn = self.turns[place]
            if turn.role == "tool":
                raise PromptError(
                    f"a tool result (for {turn.tool_call_id or turn.name!r}) follows no tool call; "
                    "put the assistant message with the call before it"
                )
            end = self._end_of_results(place)
            left_in = None
            if turn.role == "assistant":
                left_in = self._model_turn(out, place, end)
            else:
                _plain_turn(out, turn)
            place = end
        return left_in

    def _end_of_results(self, place: int) -> int:
        end = place + 1
        if self.turns[place].tool_calls:
            while end < len(self.turns) and self.turns[end].role == "tool":
                end += 1
        return end

    def _model_turn(self, out: SegmentWriter, place: int, end: int) -> LeftIn | None:
        turn = self.turns[place]
        results = self.turns[place + 1 : end]
        if not self._continues(place):
            out.control("<|turn>")
            out.text("model\n")
        recent = place > self.last_user
        if turn.reasoning and (recent or (self.preserve_thinking and turn.tool_calls)):
            write_thought(out, turn.reasoning)
        text = answer_text(turn)
        if self.text_before_calls:
            out.text(text)
        for call in turn.tool_calls:
            write_call(out, call)
        for number, result in enumerate(results):
            _write_result(out, result, _tool_name(result, number, turn.tool_calls))
        if not self.text_before_calls:
            out.text(text)
        if turn.tool_calls and not results:
            out.control("<|tool_response>")
            return "call"
        following = self.turns[end] if end < len(self.turns) else None
        waits = bool(results) and following is None and (self.text_before_calls or not text)
        goes_on = following is not None and following.role == "assistant"
        if not waits and not goes_on:
            out.control("<turn|>")
            out.text("\n")
        return "response" if results else None

    def _continues(self, place: int) -> bool:
        """Whether the assistant message at `place` goes on with the turn of the one before it."""
        before = place - 1
        while not self.reopens_after_results and before >= 0 and self.turns[before].role == "tool":
            before -= 1
        return before >= 0 and self.turns[before].role == "assistant"


def _plain_turn(out: SegmentWriter, turn: Message) -> None:
    out.control("<|turn>")
    out.text(f"{turn.role}\n")
    for part in parts_of(turn):
        if isinstance(part, Image):
            out.control("<|image|>")
        else:
            out.text(part.text.strip())
    out.control("<turn|>")
    out.text("\n")


def write_thought(out: SegmentWriter, reasoning: str) -> None:
    """A finished thought."""
    out.control("<|channel>")
    out.text(f"thought\n{reasoning}\n")
    out.control("<channel|>")


def write_call(out: SegmentWriter, call: ToolCall) -> None:
    """A finished tool call; keys sorted, strings between quote tokens."""
    out.control("<|tool_call>")
    out.text(f"call:{call.name}{{")
    for number, (name, value) in enumerate(sorted_items(call.arguments)):
        out.text(f"{',' if number else ''}{name}:")
        write_value(out, value)
    out.text("}")
    out.control("<tool_call|>")


def _write_result(out: SegmentWriter, result: Message, name: str) -> None:
    out.control("<|tool_response>")
    out.text(f"response:{name}{{value:")
    write_value(out, None if result.content is None else result.text)
    out.text("}")
    out.control("<tool_response|>")
    for part in parts_of(result):
        if isinstance(part, Image):
            out.control("<|image|>")


def _tool_name(result: Message, number: int, calls: Sequence[ToolCall]) -> str:
    """The tool a result comes from: by id, by its own name, or by its place among the results."""
    for call in calls:
        if call.id == result.tool_call_id:
            return call.name
    if result.name:
        return result.name
    if result.tool_call_id is None and number < len(calls):
        return calls[number].name
    return "unknown"


def parts_of(message: Message) -> tuple[Part, ...]:
    """The content of a message as parts."""
    if isinstance(message.content, str):
        return (Text(message.content),)
    return message.content or ()


def answer_text(message: Message) -> str:
    """What an assistant message says, spelt-out thoughts removed."""
    texts = (part.text for part in parts_of(message) if isinstance(part, Text))
    return "".join(_without_thoughts(text).strip() for text in texts)


def _without_thoughts(text: str) -> str:
    """`text` without its spans `<|channel>...<channel|>`."""
    return "".join(part.split("<|channel>")[0] for part in text.split("<channel|>"))
