"""A label for every message of a stream, one denoising pass each, and messages a second.

    python examples/sentiment_bulk.py                       # twelve messages to a bank
    python examples/sentiment_bulk.py --file messages.txt   # one message a line; "-" reads stdin
    python examples/sentiment_bulk.py --model google/diffusiongemma-26B-A4B-it

Nothing is generated: the model's first pass is read for how likely each label is as the answer.
The built-in model has never learnt about moods, so its labels mean nothing; what it shows is the
mechanism, and the rate of this machine.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from dgemma_backend import Message, open_engine

LABELS = ("positive", "neutral", "negative")
INSTRUCTION = (
    "Label the customer's message. Answer with one word: positive, neutral or negative.\n\n"
)
MESSAGES = (
    "Thank you, the card arrived a day early!",
    "My transfer has been pending for four days and nobody answers.",
    "What are the opening hours of the branch in Linz?",
    "The new app is a joy to use.",
    "You charged me twice. I am closing my account.",
    "Please send me the form for a change of address.",
    "Great advice from Ms Okafor, we got our loan.",
    "The machine swallowed my card again.",
    "Is there a fee for payments abroad?",
    "I have been a customer for ten years and always felt in good hands.",
    "Your hotline hung up on me. Twice.",
    "When does the interest rate change?",
)


def lines_of(source: str | None) -> Iterator[str]:
    """Messages from a file, from stdin, or the twelve above."""
    if source is None:
        yield from MESSAGES
    elif source == "-":
        yield from filter(None, map(str.strip, sys.stdin))
    else:
        with Path(source).open(encoding="utf-8") as file:
            yield from filter(None, map(str.strip, file))


def conversations(messages: Iterable[str], seen: list[str]) -> Iterator[list[Message]]:
    """A conversation for each message; `seen` keeps the messages themselves."""
    for text in messages:
        seen.append(text)
        yield [Message.user(INSTRUCTION + text)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--file")
    parser.add_argument("--canvases", type=int, default=1, help="reads a label is the mean of")
    given = parser.parse_args()
    seen: list[str] = []
    with open_engine(given.model) as engine:
        begun, count = time.perf_counter(), 0
        found = engine.decide_all(
            conversations(lines_of(given.file), seen),
            LABELS,
            canvases=given.canvases,
            settings={"seed": 0},
        )
        for count, decision in enumerate(found, start=1):
            share = decision.probabilities[decision.best]
            print(f"{decision.best:9} {share:4.0%}  {seen[count - 1]:.80}")
        spent = time.perf_counter() - begun
    print(f"\n{count} messages in {spent:.2f} s: {count / spent:.0f} messages/s")


if __name__ == "__main__":
    main()
