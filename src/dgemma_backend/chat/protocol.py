"""The conversation format of Gemma 4, rendered by hand.

A conversation becomes segments, which are control tokens or text, and segments become ids. No
template language runs, and no text can become a control token. The result equals the checkpoint's
published chat template; where that template is malformed the input is put in order first:

- Text beside tool calls is rendered before the calls, where the model wrote it. The template puts
  it after the results and closes the turn, which leaves the model nothing to continue.
- Tool schemas the template cannot express are rewritten, see `tool_schema.normalised`.
- A tool result that follows no call is an error; the template drops it without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

from dgemma_backend.chat.conversation import (
    Conversation,
    LeftIn,
    answer_text,
    parts_of,
    write_call,
    write_system_turn,
    write_thought,
)
from dgemma_backend.chat.parser import AnswerParser
from dgemma_backend.chat.segments import Segment, SegmentWriter, segments_to_ids
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.chat.tool_schema import normalised
from dgemma_backend.errors import EmptyPromptError, PromptError, SettingError
from dgemma_backend.messages import Image, Message, Tool, ToolChoice

REQUIRED_CONTROLS = (
    "<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>",
    "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
    '<|"|>',
)  # fmt: skip
STOPS = ("<eos>", "<turn|>", "<|tool_response>")
OPENERS = frozenset({"<pad>", "<|channel>", "<channel|>"})
"""What may stand in front of a stop token in an answer that says nothing."""
UNUSABLE = (
    "<bos>", "<unk>", "<mask>", "<|image>", "<|image|>", "<image|>", "<|audio>", "<|audio|>",
    "<audio|>", "<|video|>",
)  # fmt: skip
"""Control tokens no answer holds: the start of text, placeholders, and sounds and images."""
GENERATIONS = ("diffusiongemma-hub", "gemma4-2026-07")


class Gemma4Protocol:
    """Renders conversations for one tokenizer and makes the parsers for its answers.

    `generation` names the published template to follow: `diffusiongemma-hub`, the checkpoint's
    own, or `gemma4-2026-07`, which adds an empty thought when thinking is off and continues the
    model's turn after tool results. With `normalise=False` malformed input is rendered as the
    template renders it. Raises CheckpointError when the tokenizer lacks a control token.

    `stop_ids` are the tokens that end an answer, `pad_id` fills the canvas behind them.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        generation: str = "diffusiongemma-hub",
        normalise: bool = True,
    ) -> None:
        if generation not in GENERATIONS:
            raise SettingError(
                f"there is no chat template generation {generation!r}; there are "
                f"{', '.join(GENERATIONS)}"
            )
        self.tokenizer = tokenizer
        self.generation = generation
        self.normalise = normalise
        for name in REQUIRED_CONTROLS:
            tokenizer.control_id(name)
        self.stop_ids: tuple[int, ...] = tuple(tokenizer.control_id(name) for name in STOPS)
        self.pad_id: int = tokenizer.control_id("<pad>")

    def prompt_ids(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        thinking: bool = False,
        tool_choice: ToolChoice | None = None,
    ) -> list[int]:
        """The ids the model sees before it answers.

        Raises EmptyPromptError when nothing is said, PromptError when the conversation makes no
        sense or holds an image, SettingError when a tool choice would need forcing.
        """
        if tool_choice is not None and tool_choice.mode != "auto":
            raise SettingError(
                f"tool choice {tool_choice.mode!r} is not supported yet: the model decides by "
                "itself (auto). To prevent a call, pass no tools."
            )
        if any(isinstance(part, Image) for message in messages for part in parts_of(message)):
            raise PromptError("this model cannot look at images yet; send text only")
        if not any(message.text.strip() or message.tool_calls for message in messages):
            raise EmptyPromptError("the conversation is empty: no message says anything")
        return segments_to_ids(self.segments(messages, tools, thinking=thinking), self.tokenizer)

    def segments(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        thinking: bool = False,
        preserve_thinking: bool = False,
        generation_prompt: bool = True,
    ) -> list[Segment]:
        """The conversation as control tokens and text.

        `preserve_thinking` keeps the thoughts of earlier tool calls, which are dropped otherwise;
        without `generation_prompt` the model is not asked to answer.
        """
        out = SegmentWriter()
        out.control("<bos>")
        if self.normalise:
            tools = [normalised(tool) for tool in tools]
        system = messages[0] if messages and messages[0].role == "system" else None
        if thinking or tools or system:
            write_system_turn(out, system, tools, thinking=thinking)
        conversation = Conversation(
            messages[1:] if system else messages,
            reopens_after_results=self.generation == "diffusiongemma-hub",
            text_before_calls=self.normalise,
            preserve_thinking=preserve_thinking,
        )
        left_in = conversation.write(out)
        if generation_prompt:
            self._ask(out, left_in, thinking)
        return out.segments

    def answer_ids(self, message: Message) -> list[int]:
        """What the model has to generate to give this assistant message, its stop token included.

        Raises PromptError for a message of another role.
        """
        if message.role != "assistant":
            raise PromptError(f"only an assistant message is an answer, not a {message.role} one")
        out = SegmentWriter()
        if message.reasoning:
            write_thought(out, message.reasoning)
        out.text(answer_text(message))
        for call in message.tool_calls:
            write_call(out, call)
        out.control("<|tool_response>" if message.tool_calls else "<turn|>")
        return segments_to_ids(out.segments, self.tokenizer)

    def unsafe_prompt_ids(self, unsafe_raw_prompt: str) -> list[int]:
        """The ids of a whole prompt spelt out by hand, control tokens and all, `<bos>` first.

        The only way around the separation of text and control tokens: whoever writes any part of
        `unsafe_raw_prompt` can end turns, forge tool results and speak as the system. Raises
        EmptyPromptError for an empty one.
        """
        if not unsafe_raw_prompt:
            raise EmptyPromptError("the raw prompt is empty")
        ids, begin = (
            self.tokenizer.unsafe_encode(unsafe_raw_prompt),
            self.tokenizer.control_id("<bos>"),
        )
        return ids if ids[:1] == [begin] else [begin, *ids]

    def unusable_ids(self) -> tuple[int, ...]:
        """Sorted ids that must never stand in a committed canvas.

        These are the vocabulary's reserved ids, the soft tokens of images, audio and video with
        their marks, and `<bos>`, `<unk>` and `<mask>`. No answer the model learnt from holds one,
        so leaving them out of argmax and proposals conditions on what the model takes for certain.
        Noise between steps may hold them: it is never committed, and the model was trained on
        noise uniform over the whole vocabulary.
        """
        known = self.tokenizer.control_ids
        return tuple(
            sorted({*self.tokenizer.reserved_ids(), *(known[n] for n in UNUSABLE if n in known)})
        )

    def closes_at_once(self, committed: Sequence[int]) -> bool:
        """Whether an answer's first canvas ends the turn before anything is said.

        With thinking off the model has that habit on very short answers; white space and an empty
        thought say nothing. Another canvas (once) usually answers.
        """
        spoken: list[int] = []
        for token_id in committed:
            name = self.tokenizer.control_name(token_id)
            if name is None:
                spoken.append(token_id)
            elif name in ("<eos>", "<turn|>"):
                return self.tokenizer.decode(spoken).strip() in ("", "thought")
            elif name not in OPENERS:
                return False
        return False

    @property
    def end_of_turn_id(self) -> int:
        """What ends an answer in words."""
        return self.tokenizer.control_id("<turn|>")

    def empty_thought_ids(self) -> list[int]:
        """A thought that says nothing, as the model may open one where thinking is off."""
        controls = self.tokenizer.control_id("<|channel>"), self.tokenizer.control_id("<channel|>")
        return [controls[0], *self.tokenizer.encode_text("thought\n"), controls[1]]

    def end_of_thought_ids(self) -> list[int]:
        """What to commit behind a thought that has used up its budget, so that it is over."""
        return [*self.tokenizer.encode_text("\n"), self.tokenizer.control_id("<channel|>")]

    def new_parser(
        self,
        tools: Sequence[Tool] = (),
        *,
        seed: int,
        position: int,
        thinking: bool = False,
        prompt: Sequence[int] = (),
    ) -> AnswerParser:
        """A parser for the answer to one prompt.

        `seed`, `position` (tokens before the answer) and `prompt` (its ids) make the ids of the
        calls. A prompt that leaves a thought open makes the answer begin inside it.
        """
        return AnswerParser(
            self.tokenizer, tools, seed=seed, position=position, thinking=thinking, prompt=prompt
        )

    def _ask(self, out: SegmentWriter, left_in: LeftIn | None, thinking: bool) -> None:
        """Open the model's turn, unless the conversation left it open."""
        if left_in is None:
            out.control("<|turn>")
            out.text("model\n")
            if self.generation == "gemma4-2026-07" and not thinking:
                out.control("<|channel>")
                out.text("thought\n")
                out.control("<channel|>")
        elif left_in == "response" and thinking:
            out.control("<|channel>")
            out.text("thought\n")
