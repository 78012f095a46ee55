"""The words of one thought, without the marks around them."""

from __future__ import annotations

CHANNEL = "thought\n"


class Thought:
    """Collects a thought. It begins with the channel's name and ends with a line break, both of
    which belong to the protocol; `headless` when the name stands in the prompt already."""

    def __init__(self, *, headless: bool = False) -> None:
        self._ready: list[str] = []
        self._pending: list[str] = []
        self._headless = headless

    def add(self, text: str) -> None:
        """More words."""
        self._pending.append(text)

    def repeat(self) -> None:
        """The thought was opened once more; its name may come again."""
        self._ready.append(self._pending_text())
        self._headless = False

    def take(self) -> str:
        """The words that are certain by now; they are not given out again."""
        text = "".join(self._pending)
        if not self._headless:
            if CHANNEL.startswith(text):
                return self._taken("")
            text = text.removeprefix(CHANNEL)
            self._headless = True
        kept = "\n" if text.endswith("\n") else ""
        self._pending = [kept] if kept else []
        return self._taken(text.removesuffix("\n"))

    def close(self) -> str:
        """All words not taken yet."""
        return self._taken(self._pending_text())

    def everything(self) -> str:
        """All words not taken yet, behind the channel's name, line breaks kept."""
        text = "".join(self._pending)
        self._pending = []
        return text if self._headless else text.removeprefix(CHANNEL)

    def _pending_text(self) -> str:
        text = "".join(self._pending)
        self._pending = []
        if not self._headless:
            text = "" if text == CHANNEL.rstrip() else text.removeprefix(CHANNEL)
        return text.removesuffix("\n")

    def _taken(self, text: str) -> str:
        text = "".join(self._ready) + text
        self._ready = []
        return text
