"""Committed ids -> text, reasoning and tool calls, canvas by canvas.

Tool calls and thoughts begin and end with control tokens, by id; text that spells a control token
stays text. The parser never raises, takes time linear in the ids, and gives the same events however
the ids are cut into canvases (up to where a run of text is cut).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

from dgemma_backend.chat.arguments import CallSyntaxError, call_name, read_call
from dgemma_backend.chat.coercion import coerced
from dgemma_backend.chat.segments import QUOTE
from dgemma_backend.chat.thought import CHANNEL, Thought
from dgemma_backend.chat.tokens import ChatTokenizer, StreamDecoder
from dgemma_backend.events import (
    InvalidToolCallDone,
    ParsedEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDone,
)
from dgemma_backend.messages import InvalidToolCall, Tool, ToolCall

_ENDS = frozenset({"<eos>", "<turn|>", "<|turn>", "<|tool_response>"})


class AnswerParser:
    """Parses one answer: `feed` the committed ids in any pieces, then `finish`.

    Feed the stop token too: it tells a call or thought the model ended from one that was cut off.
    With `thinking` off, the words of a thought that was opened and never closed, only ended by a
    stop token, are the answer: the model has that habit. `reasoning_tokens` counts the ids spent on
    thoughts so far, their markers included; `cut_in_thought` says, after `finish`, that the answer
    was cut off before its thought was over.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        tools: Sequence[Tool] = (),
        *,
        seed: int,
        position: int,
        thinking: bool = False,
        prompt: Sequence[int] = (),
    ) -> None:
        self.reasoning_tokens = 0
        self.cut_in_thought = False
        self._tokenizer = tokenizer
        self._tools = {tool.name: tool for tool in tools}
        # the same request gives the same call ids, another turn of the conversation others
        self._identity = hashlib.sha256(f"{seed}:{position}:{[*prompt]}".encode())
        self._thinking = thinking
        self._decoder = StreamDecoder(tokenizer)
        self._events: list[ParsedEvent] = []
        self._run: list[str] = []  # words not yet made into an event, all of one kind
        self._run_kind: type[TextDelta | ReasoningDelta] = TextDelta
        self._call = _OpenCall()
        in_thought = _leaves_thought_open(tokenizer, prompt)
        self._thought = Thought(headless=in_thought)
        self._state: Literal["text", "thought", "call", "done"] = (
            "thought" if in_thought else "text"
        )
        # a thought may lack its opener, so the first words are held back while they look like one
        self._opening: str | None = None if in_thought else ""
        # with thinking off such words are only a thought if something closes it, see _settle_guess
        self._guessed = False
        # after a call, white space is held back until words follow it
        self._space: list[str] | None = None

    @property
    def in_thought(self) -> bool:
        """Whether the model is thinking: what comes next is reasoning until the thought ends."""
        return self._state == "thought" and not self._guessed

    def feed(self, ids: Iterable[int]) -> list[ParsedEvent]:
        """What `ids` complete, in order."""
        for token_id in ids:
            if self._state == "done":
                break
            name = self._tokenizer.control_name(token_id)
            if name is None:
                self._words(self._decoder.feed((token_id,)))
                self.reasoning_tokens += self._state == "thought"
            else:
                self._words(self._decoder.finish())
                self._control(name)
        return self._taken()

    def finish(self) -> list[ParsedEvent]:
        """What was held back. The answer is over; without a stop token it counts as cut off."""
        if self._state != "done":
            self._words(self._decoder.finish())
            self.cut_in_thought = self.in_thought
            self._leave(ended=False)
            self._state = "done"
        return self._taken()

    def _taken(self) -> list[ParsedEvent]:
        if self._state == "thought" and self._thinking:
            self._emit(ReasoningDelta, self._thought.take())
        self._end_run()
        events, self._events = self._events, []
        return events

    def _emit(self, kind: type[TextDelta | ReasoningDelta], text: str) -> None:
        """Add words to the run of words of one kind."""
        if not text:
            return
        if self._run_kind is not kind:
            self._end_run()
            self._run_kind = kind
        self._run.append(text)

    def _end_run(self) -> None:
        if self._run:
            self._events.append(self._run_kind("".join(self._run)))
            self._run = []

    def _words(self, text: str) -> None:
        if not text:
            return
        if self._state == "call":
            self._call.atoms.extend(text)
        elif self._state == "thought":
            self._thought.add(text)
        elif self._opening is not None:
            self._first_words(text)
        elif self._space is not None:
            self._space.append(text)
            if not text.isspace():
                self._emit(TextDelta, "".join(self._space))
                self._space = None
        else:
            self._emit(TextDelta, text)

    def _first_words(self, text: str) -> None:
        opening = (self._opening or "") + text
        if opening.startswith(CHANNEL):
            self._opening = None
            self._state = "thought"
            self._guessed = not self._thinking
            self._thought.add(opening)
        elif CHANNEL.startswith(opening):
            self._opening = opening
        else:
            self._opening = None
            self._emit(TextDelta, opening)

    def _control(self, name: str) -> None:
        if name in _ENDS:
            self._leave(ended=True)
            self._state = "done"
        elif name == "<|tool_call>":
            self._leave(ended=True, by_call=True)
            self._call = _OpenCall()
            self._state = "call"
        elif name == "<|channel>":
            self._settle_guess(is_thought=False)
            self._open_thought()
        elif self._state == "call":
            if name == "<tool_call|>":
                self._leave(ended=True)
            elif name == QUOTE:
                self._call.atoms.append(QUOTE)
            elif name != "<pad>":
                self._call.stranger = self._call.stranger or name
        elif name == "<channel|>" and self._state == "thought":
            self.reasoning_tokens += 1
            self._leave(ended=True, by_call=True)

    def _open_thought(self) -> None:
        self.reasoning_tokens += 1
        if self._state == "thought":
            self._thought.repeat()
        else:
            self._leave(ended=False)
            self._thought = Thought()
            self._state = "thought"

    def _leave(self, *, ended: bool, by_call: bool = False) -> None:
        """Go back to plain text.

        `ended`: the model meant what is open to end. `by_call`: it closed its thought, or left it
        to call a tool, so the words in it are no answer.
        """
        self._settle_guess(is_thought=by_call)
        if self._state == "call":
            self._finish_call(ended)
            self._space = []
        elif self._state == "thought":
            words = self._thought.close()
            if self._thinking:
                self._emit(ReasoningDelta, words)
            elif words.strip():
                answers = ended and not by_call
                self._emit(TextDelta if answers else ReasoningDelta, words)
        elif self._opening:
            self._emit(TextDelta, self._opening)
        self._opening = None
        self._state = "text"

    def _settle_guess(self, *, is_thought: bool) -> None:
        """Decide on first words that look like a thought without its opener."""
        if not self._guessed:
            return
        self._guessed = False
        if not is_thought:
            self.reasoning_tokens = 0
            self._state = "text"
            self._emit(TextDelta, CHANNEL + self._thought.everything())

    def _finish_call(self, ended: bool) -> None:
        self._end_run()
        atoms, stranger = self._call.atoms, self._call.stranger
        self._identity.update(b"call")
        call_id = f"call_{self._identity.hexdigest()[:24]}"
        try:
            if stranger is not None:
                raise CallSyntaxError(f"the control token {stranger} stands inside the call")
            name, arguments = read_call(atoms, ended=ended, known=self._tools)
        except CallSyntaxError as error:
            invalid = InvalidToolCall(call_id, call_name(atoms) or None, "".join(atoms), str(error))
            self._events.append(InvalidToolCallDone(invalid))
            return
        schema = self._tools[name].parameters if name in self._tools else {}
        self._events.append(ToolCallDone(ToolCall(call_id, name, coerced(arguments, schema))))


class _OpenCall:
    """A call being read: its characters and quote tokens, and a control token out of place."""

    def __init__(self) -> None:
        self.atoms: list[str] = []
        self.stranger: str | None = None


def _leaves_thought_open(tokenizer: ChatTokenizer, prompt: Sequence[int]) -> bool:
    for token_id in reversed(prompt):
        name = tokenizer.control_name(token_id)
        if name is not None:
            return name == "<|channel>"
    return False
