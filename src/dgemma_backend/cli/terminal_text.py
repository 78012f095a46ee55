"""Makes text from a model, a file or the network safe to print."""

import re

# C0 except tab and line feed, DEL, C1, line and paragraph separators, bidirectional overrides
# (which reorder what is read), and half characters, which no encoding can print.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` without characters that steer a terminal; tabs and line feeds stay."""
    return _UNSAFE.sub("", text)


def one_line(text: str) -> str:
    """The same on a single line: every run of white space is one space."""
    return " ".join(printable(text).split())


def size_in_words(size: int) -> str:
    """Bytes as a person would say them, in decimal units."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
