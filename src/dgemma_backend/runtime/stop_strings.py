"""Ending an answer at a stop string, also one that straddles canvases."""


class StopStrings:
    """Passes text through until a stop string appears; what might begin one is held back.

    The stop string itself, and what follows it, is never passed on. Of two stop strings the one
    that is complete first wins, then the longer, so it does not matter how the text is cut.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = sorted(stops, key=len, reverse=True)
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """More text -> what is safe to pass on now."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        begins = [(self._held.find(stop), stop) for stop in self._stops]
        hits = [(at + len(stop), at, stop) for at, stop in begins if at >= 0]
        if hits:
            _, at, self.found = min(hits)
            passed, self._held = self._held[:at], ""
            return passed
        keep = self._longest_beginning()
        passed, self._held = (
            self._held[: len(self._held) - keep],
            self._held[-keep:] if keep else "",
        )
        return passed

    def finish(self) -> str:
        """No more text comes -> what was held back."""
        held, self._held = self._held, ""
        return "" if self.found is not None else held

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self._stops)) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
