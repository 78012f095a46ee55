"""JSON that is still being written, read as far as it goes."""

from __future__ import annotations

import json
import re
from typing import Any

_MISSING: Any = object()
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"((?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)')
_WORD = re.compile(r"[^,\]}\s]+")


def partial_json(text: str) -> Any:
    """The value that `text` begins, None where nothing can be said yet.

    Strings, lists and objects may be unfinished. Keys without a value, and numbers and words that
    more could follow, are left out. Raises ValueError for text that begins no JSON.
    """
    value = _Reader(text).value()
    return None if value is _MISSING else value


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def value(self) -> Any:
        """The value that begins here, _MISSING if its end is needed and not there."""
        mark = self.mark()
        if mark == "{":
            return self.members()
        if mark == "[":
            return self.items()
        if mark == '"':
            return self.string()[0]
        found = _WORD.match(self.text, self.at)
        if found is None or found.end() == len(self.text):
            self.at = len(self.text)
            return _MISSING
        self.at = found.end()
        return json.loads(found[0])

    def members(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        self.at += 1
        while (mark := self.mark()) not in ("", "}"):
            if mark == ",":
                self.at += 1
                continue
            name, finished = self.string()
            if not finished or self.mark() == "":
                break
            self.at += 1  # the colon
            value = self.value()
            if value is _MISSING:
                break
            members[name] = value
        self.at += 1
        return members

    def items(self) -> list[Any]:
        items: list[Any] = []
        self.at += 1
        while (mark := self.mark()) not in ("", "]"):
            if mark == ",":
                self.at += 1
                continue
            value = self.value()
            if value is _MISSING:
                break
            items.append(value)
        self.at += 1
        return items

    def string(self) -> tuple[str, bool]:
        """The string that begins here as far as it goes, and whether it has ended."""
        found = _STRING.match(self.text, self.at)
        if found is None:
            raise ValueError(f"expected a string at {self.text[self.at : self.at + 20]!r}")
        self.at = found.end() + 1
        read: str = json.loads(f'"{found[1]}"', strict=False)
        if found.end() < len(self.text) and self.text[found.end()] == '"':
            return read, True
        self.at = len(self.text)
        return re.sub("[\ud800-\udbff]$", "", read), False  # half of a character

    def mark(self) -> str:
        """The next character that is no space, "" at the end."""
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.text[self.at : self.at + 1]
