"""What the model wrote, put back as history, gives the same ids: so the cache can be reused."""

import pytest

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.events import ReasoningDelta, TextDelta, ToolCallDone
from dgemma_backend.messages import Message, Tool, ToolCall

TOOLS = [Tool("find", "Finds.", {"type": "object", "properties": {"q": {"type": "string"}}})]
TURNS = 6


def read_back(
    protocol: Gemma4Protocol, prompt: list[int], ids: list[int], thinking: bool
) -> Message:
    """The assistant message an adapter would keep of these generated ids."""
    parser = protocol.new_parser(
        TOOLS, seed=1, position=len(prompt), thinking=thinking, prompt=prompt
    )
    events = parser.feed(ids) + parser.finish()
    return Message.assistant(
        "".join(each.text for each in events if isinstance(each, TextDelta)),
        tool_calls=[each.call for each in events if isinstance(each, ToolCallDone)],
        reasoning="".join(each.text for each in events if isinstance(each, ReasoningDelta)) or None,
    )


def generated(protocol: Gemma4Protocol, prompt: list[int], message: Message) -> list[int]:
    """The ids the model writes for `message` after `prompt`, which may have opened the thought."""
    ids = protocol.answer_ids(message)
    opener = protocol.answer_ids(Message.assistant(reasoning="x"))[:1]
    opened = [*opener, *protocol.tokenizer.encode_text("thought\n")]
    return ids[len(opened) :] if message.reasoning and prompt[-len(opened) :] == opened else ids


def common(first: list[int], second: list[int]) -> int:
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def agent_loop(protocol: Gemma4Protocol, thinking: bool) -> list[tuple[int, int, int]]:
    """(reused, held, prompt) tokens of every turn but the first; held: prompt and answer before."""
    messages = [Message.system("Be brief."), Message.user("Who won the cup in six years?")]
    cached: list[int] = []
    found: list[tuple[int, int, int]] = []
    for turn in range(TURNS):
        prompt = protocol.prompt_ids(messages, TOOLS, thinking=thinking)
        if cached:
            found.append((common(cached, prompt), len(cached), len(prompt)))
        last = turn == TURNS - 1
        answer = Message.assistant(
            "They won." if last else f"Looking up {turn}.",
            tool_calls=[] if last else [ToolCall("c", "find", {"q": f"cup {2000 + turn}", "n": 3})],
            reasoning=f"I need year {turn}" if thinking else None,
        )
        ids = generated(protocol, prompt, answer)
        cached = prompt + ids
        kept = read_back(protocol, prompt, ids, thinking)
        messages.append(kept)
        messages += [Message.tool(f"Team {turn}", tool_call_id=call.id) for call in kept.tool_calls]
    return found


@pytest.mark.parametrize(
    ("generation", "thinking", "whole_turns", "reused", "held"),
    [
        # the checkpoint's template opens the model's turn again after a tool result: what the
        # model wrote after the last result is encoded anew, everything before it is reused
        ("diffusiongemma-hub", False, 1, 1518, 1678),
        ("diffusiongemma-hub", True, 1, 1792, 2048),
        # only the empty thought of the first prompt is missing from history
        ("gemma4-2026-07", False, 4, 1620, 1670),
        ("gemma4-2026-07", True, 5, 2030, 2030),
    ],
)
def test_how_much_of_a_six_turn_agent_loop_is_reused(
    toy: ChatTokenizer, generation: str, thinking: bool, whole_turns: int, reused: int, held: int
) -> None:
    loop = agent_loop(Gemma4Protocol(toy, generation=generation), thinking)
    assert (sum(each[0] for each in loop), sum(each[1] for each in loop)) == (reused, held)
    assert sum(each[0] == each[1] for each in loop) == whole_turns
