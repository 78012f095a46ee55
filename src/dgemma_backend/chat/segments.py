"""A prompt before it becomes ids: control tokens and text, which never turn into each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dgemma_backend.chat.tokens import ChatTokenizer

QUOTE = '<|"|>'


@dataclass(frozen=True)
class ControlSegment:
    """One control token, by name."""

    name: str


@dataclass(frozen=True)
class TextSegment:
    """Text, trusted or not: it can only become ordinary tokens."""

    text: str


Segment = ControlSegment | TextSegment


class SegmentWriter:
    """Collects segments, joining neighbouring text so that it is tokenized in one go."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def control(self, name: str) -> None:
        """Append a control token."""
        self.segments.append(ControlSegment(name))

    def text(self, text: str) -> None:
        """Append text to the text before it, or begin a new piece."""
        if not text:
            return
        if self.segments and isinstance(last := self.segments[-1], TextSegment):
            self.segments[-1] = TextSegment(last.text + text)
        else:
            self.segments.append(TextSegment(text))

    def quoted(self, text: str) -> None:
        """Append text between string quotes, which are control tokens."""
        self.control(QUOTE)
        self.text(text)
        self.control(QUOTE)

    def key(self, separator: str, name: str) -> None:
        """Append `separator`, then `name` and a colon."""
        self.text(f"{separator}{name}:")


def segments_to_ids(segments: Iterable[Segment], tokenizer: ChatTokenizer) -> list[int]:
    """Ids of the segments; raises ControlTokenError if text would yield a control token."""
    ids: list[int] = []
    for segment in segments:
        if isinstance(segment, ControlSegment):
            ids.append(tokenizer.control_id(segment.name))
        else:
            ids.extend(tokenizer.encode_text(segment.text))
    return ids


def segments_to_text(segments: Sequence[Segment]) -> str:
    """What the segments look like to a reader. For display only: never tokenize this."""
    return "".join(s.name if isinstance(s, ControlSegment) else s.text for s in segments)
