"""An answer watched while it settles, through LangChain's own event stream.

    pip install 'dgemma-backend[langchain]'
    python examples/langchain_drafts.py "Who are you?"
    python examples/langchain_drafts.py "Who are you?" --model google/diffusiongemma-26B-A4B-it

In a terminal the canvas is redrawn in place; elsewhere every draft is a line. A draft is not an
answer: the next one may change any of it, and nothing that redacts answers has seen it.
"""

import argparse
import sys
import warnings
from typing import Any

from langchain_core._api import LangChainBetaWarning

from langchain_dgemma import ChatDiffusionGemma

WIDTH = 100


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("question", nargs="?", default="Who are you?")
    parser.add_argument("--model", default="tiny", help="tiny, a folder, or a hub id")
    given = parser.parse_args(arguments)
    model = ChatDiffusionGemma(model=given.model, temperature=0, drafts="events")

    live = sys.stdout.isatty()
    warnings.simplefilter("ignore", LangChainBetaWarning)  # these streams are new
    for event in model.stream_events(given.question, version="v3"):
        told: Any = event
        if told["event"] == "dgemma-draft":
            line = " ".join(told["text"].split())[:WIDTH]
            if live:
                print(f"\r\x1b[2K\x1b[2m{line}\x1b[0m", end="", flush=True)
            else:
                print(f"canvas {told['block'] + 1} step {told['step']:2}/{told['of']}  {line}")
        elif told["event"] == "content-block-delta" and "text" in told["delta"]:
            print("\r\x1b[2K" if live else "", told["delta"]["text"], sep="", end="", flush=True)
        elif told["event"] == "message-finish":
            cost = told["metadata"]["dgemma"]
            print(
                f"\n{cost['denoising_steps']} steps, {cost['tokens_per_forward']:.2f} tokens each"
            )


if __name__ == "__main__":
    main()
