"""`dgemma render`: what a prompt looks like to the model, without running it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgemma_backend.cli import options
from dgemma_backend.cli.terminal_text import printable
from dgemma_backend.errors import PromptError
from dgemma_backend.messages import Message, Text, Tool, ToolCall

if TYPE_CHECKING:
    from dgemma_backend.chat.protocol import Gemma4Protocol
    from dgemma_backend.chat.segments import Segment


@click.command()
@click.argument("prompt", nargs=-1)
@click.option("-m", "--model", default="tiny", show_default=True, metavar="NAME",
              help="'tiny' (built in), a checkpoint's folder, or a hub id.")  # fmt: skip
@click.option("--system", metavar="TEXT", help="Instructions above the conversation.")
@click.option("--messages", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A JSON file with the messages and tools of a request to OpenAI.")  # fmt: skip
@click.option("--thinking", is_flag=True, help="Let the model think first.")
@click.option("--generation", metavar="NAME", default="diffusiongemma-hub", show_default=True,
              help="The published chat template to follow.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print segments and ids as JSON.")
def render(
    prompt: tuple[str, ...],
    model: str,
    system: str | None,
    file: Path | None,
    thinking: bool,
    generation: str,
    as_json: bool,
) -> None:
    """Show the prompt that PROMPT makes. Control tokens are marked [[like this]].

    Text that merely spells a control token is not marked: it stays text. The model does not run.
    """
    from dgemma_backend.chat.protocol import Gemma4Protocol
    from dgemma_backend.chat.tokens import ChatTokenizer
    from dgemma_backend.weights.sources import resolve

    tools: list[Tool] = []
    if file is not None:
        messages, tools = conversation_from(file)
    else:
        messages = options.conversation(options.prompt_from(prompt), system)
    tokenizer = ChatTokenizer.from_file(resolve(model) / "tokenizer.json")
    protocol = Gemma4Protocol(tokenizer, generation=generation)
    ids = protocol.prompt_ids(messages, tools, thinking=thinking)
    segments = protocol.segments(messages, tools, thinking=thinking)
    if as_json:
        described = [_described(protocol, each) for each in segments]
        click.echo(json.dumps({"tokens": len(ids), "segments": described}, indent=2))
        return
    click.echo(_marked(segments, color=sys.stdout.isatty()))
    click.echo(f"{len(ids)} tokens", err=True)


def conversation_from(file: Path) -> tuple[list[Message], list[Tool]]:
    """Messages and tools of a JSON file. Raises PromptError where they cannot be read."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        messages = [_message(each) for each in read["messages"]]
        tools = [Tool(**each.get("function", each)) for each in read.get("tools") or ()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, PromptError):
            raise
        raise PromptError(f"{file} cannot be read as a conversation: {error!s:.200}") from error
    return messages, tools


def _message(said: dict[str, Any]) -> Message:
    calls = []
    for call in said.get("tool_calls") or ():
        function = call["function"]
        arguments = function["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        calls.append(ToolCall(str(call.get("id", "")), function["name"], arguments))
    content = said.get("content", "")
    if isinstance(content, list):
        content = tuple(Text(str(part["text"])) for part in content)
    return Message(
        said["role"],
        content,
        tuple(calls),
        said.get("reasoning_content") or said.get("reasoning"),
        said.get("tool_call_id"),
        said.get("name"),
    )


def _marked(segments: "Sequence[Segment]", *, color: bool) -> str:
    from dgemma_backend.chat.segments import ControlSegment

    text = ""
    for each in segments:
        if isinstance(each, ControlSegment):
            mark = f"[[{each.name}]]"
            text += click.style(mark, fg="cyan") if color else mark
        else:
            text += printable(each.text)
    return text


def _described(protocol: "Gemma4Protocol", segment: "Segment") -> dict[str, Any]:
    from dgemma_backend.chat.segments import ControlSegment, segments_to_ids

    ids = segments_to_ids([segment], protocol.tokenizer)
    if isinstance(segment, ControlSegment):
        return {"control": segment.name, "ids": ids}
    return {"text": segment.text, "ids": ids}
