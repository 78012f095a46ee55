"""The inside of a tool call: Gemma's own syntax, read leniently, into JSON data.

The model writes `call:NAME{key:value,...}` with strings between quote tokens and everything else
bare. Models slip, so these are taken too: a missing `call`, parentheses for braces, keys or strings
in double quotes, closers missing at the end of a call that was ended properly. What cannot be read
raises CallSyntaxError, which the parser turns into an invalid call; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from dgemma_backend.chat.segments import QUOTE

MAX_DEPTH = 64

_SPACE = frozenset(" \t\r\n")


class CallSyntaxError(Exception):
    """The text of a call cannot be read; internal to this package."""


@dataclass(frozen=True)
class Bare:
    """A value without quotes, whose type the tool's schema decides."""

    text: str


def call_name(atoms: Sequence[str]) -> str:
    """What stands before the arguments, without the word `call`; may be empty."""
    head = ""
    for atom in atoms:
        if atom in "{(" or atom == QUOTE:
            break
        head += atom
    head = head.strip()
    if head.startswith("call") and head[4:].lstrip().startswith(":"):
        head = head[4:].lstrip()
    return head.removeprefix(":").strip()


def read_call(
    atoms: Sequence[str], *, ended: bool, known: Container[str] = ()
) -> tuple[str, dict[str, Any]]:
    """Name and raw arguments of a call.

    `atoms` are single characters and quote tokens. `ended` says that the model ended the call
    itself; only then may closers be missing. Raises CallSyntaxError.
    """
    name = call_name(atoms)
    if not name:
        raise CallSyntaxError("the call names no tool")
    if name not in known and any(letter.isspace() for letter in name):
        raise CallSyntaxError(f"{name[:60]!r} is not the name of a tool")
    return name, _Reader(atoms, ended).arguments()


class _Reader:
    """A recursive descent over the atoms; each atom is looked at a bounded number of times."""

    def __init__(self, atoms: Sequence[str], ended: bool) -> None:
        self.atoms = atoms
        self.ended = ended
        self.place = 0
        self.depth = 0
        self.closers = "}]"
        self.bare_ends = frozenset((",", "{", "[", QUOTE, '"', "", *self.closers))

    def arguments(self) -> dict[str, Any]:
        while self.peek() not in ("{", "(", ""):
            self.place += 1
        if self.peek() == "":
            raise CallSyntaxError("the call has no arguments, not even {}")
        closer = "}" if self.take() == "{" else ")"
        if closer == ")":
            self.closers = "}])"
            self.bare_ends |= {")"}
            self.skip_space()
            if self.peek() == "{":
                self.take()
                closer = "}"
        members = self.members(closer)
        if any(atom not in _SPACE and atom not in "})" for atom in self.atoms[self.place :]):
            raise CallSyntaxError("the call goes on after its arguments")
        return members

    def peek(self) -> str:
        return self.atoms[self.place] if self.place < len(self.atoms) else ""

    def take(self) -> str:
        atom = self.peek()
        self.place += 1
        return atom

    def skip_space(self) -> None:
        while self.peek() in _SPACE:
            self.place += 1

    def at_end(self, what: str) -> bool:
        """Whether the atoms are used up, which is an error unless the model ended the call."""
        if self.peek() != "":
            return False
        if not self.ended:
            raise CallSyntaxError(f"the call was cut off inside {what}")
        return True

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CallSyntaxError(f"the arguments are nested deeper than {MAX_DEPTH} levels")

    def members(self, closer: str) -> dict[str, Any]:
        self.enter()
        found: dict[str, Any] = {}
        while True:
            self.skip_space()
            if self.at_end("an object"):
                break
            if self.peek() == closer:
                self.take()
                break
            key = self.key(closer)
            found[key] = self.value()
            self.separator(closer)
        self.depth -= 1
        return found

    def items(self) -> list[Any]:
        self.enter()
        found: list[Any] = []
        while True:
            self.skip_space()
            if self.at_end("a list"):
                break
            if self.peek() == "]":
                self.take()
                break
            found.append(self.value())
            self.separator("]")
        self.depth -= 1
        return found

    def separator(self, closer: str) -> None:
        self.skip_space()
        if self.peek() == ",":
            self.take()
        elif self.peek() not in (closer, ""):
            raise CallSyntaxError(f"expected ',' or {closer!r}, found {self.peek()!r}")

    def key(self, closer: str) -> str:
        if self.peek() in (QUOTE, '"'):
            key = self.string()
            self.skip_space()
        else:
            start = self.place
            while self.peek() not in self.bare_ends and self.peek() not in (":", "="):
                self.place += 1
            key = "".join(self.atoms[start : self.place]).strip()
        mark = self.take()
        if not key or not (mark == ":" or (mark == "=" and closer == ")")):
            raise CallSyntaxError(f"expected a name and ':', found {key[:60]!r} and {mark!r}")
        return key

    def value(self) -> Any:
        self.skip_space()
        atom = self.peek()
        if atom in (QUOTE, '"'):
            return self.string()
        if atom == "{":
            self.take()
            return self.members("}")
        if atom == "[":
            self.take()
            return self.items()
        start = self.place
        while self.peek() not in self.bare_ends:
            self.place += 1
        if self.peek() == "" and not self.ended:
            raise CallSyntaxError("the call was cut off inside a value")
        text = "".join(self.atoms[start : self.place]).strip()
        if not text:
            raise CallSyntaxError("a value is missing")
        return Bare(text)

    def string(self) -> str:
        if self.take() == '"':
            return self.json_string()
        start = self.place
        while self.peek() not in (QUOTE, ""):
            self.place += 1
        if not self.at_end("a string"):
            text = "".join(self.atoms[start : self.place])
            self.take()
            return text
        end = self.place
        for _ in range(self.depth):  # the closers of what is open belong to the call
            if end > start and self.atoms[end - 1] in self.closers:
                end -= 1
        return "".join(self.atoms[start:end])

    def json_string(self) -> str:
        start = self.place
        while self.peek() not in ('"', QUOTE, ""):
            self.place += 2 if self.peek() == "\\" else 1
        if self.take() != '"':
            raise CallSyntaxError("a string in double quotes has no end")
        spelt = "".join(self.atoms[start : self.place - 1])
        try:
            return str(json.loads(f'"{spelt}"', strict=False))
        except ValueError as error:
            raise CallSyntaxError(f"a string in double quotes cannot be read: {error}") from error
