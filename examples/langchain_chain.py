"""Questions to a small document, answered by a LangChain chain while you watch the canvas.

    python examples/langchain_chain.py
    python examples/langchain_chain.py --model google/diffusiongemma-26B-A4B-it

The chain is: look up the section | prompt | model | text. The built-in model is tiny; it answers
from a passage that states one fact of the kind asked for, so each section is short.
"""

import argparse
import time
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda

from dgemma_backend import open_engine
from dgemma_backend.cli.canvas_view import CanvasView
from dgemma_backend.cli.terminal_text import one_line
from langchain_dgemma import ChatDiffusionGemma

DOCUMENT = {
    "Where it stands": "The Larkfeld Museum stands in Salzburg. Many visitors like it.",
    "Who founded it": "The Larkfeld Museum was founded by Odette Marsh.",
    "When it opened": "The Larkfeld Museum opened in 1867. It is a nice story.",
    "Its director": "Today Magnus Pinto is the director of the Larkfeld Museum.",
    "What a ticket costs": "A ticket for the Larkfeld Museum costs 13 euros.",
    "When it is closed": "The Larkfeld Museum is closed on Tuesday.",
}

QUESTIONS = [
    "Where is the museum?",
    "Who founded the Larkfeld Museum?",
    "When was the museum opened?",
    "Who is the director?",
    "How much is a ticket?",
    "When is the museum closed?",
]

PROMPT = ChatPromptTemplate([("user", "Context: {context}\n\nQuestion: {question}")])


def look_up(asked: dict[str, str]) -> dict[str, str]:
    """Add the section whose heading has most words in common with the question."""
    words = _words(asked["question"])
    heading = max(DOCUMENT, key=lambda heading: len(words & _words(heading)))
    return {**asked, "context": DOCUMENT[heading]}


def _words(text: str) -> set[str]:
    """The words of more than three letters."""
    return {word.strip("?") for word in text.lower().split() if len(word) > 3}


class Cost(BaseCallbackHandler):
    """Keeps what the model says about its own answer."""

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        message: Any = response.generations[0][0].message  # type: ignore[union-attr]
        self.message: AIMessage = message

    def line(self, seconds: float) -> str:
        cost = self.message.response_metadata["dgemma"]
        return (
            f"{cost['denoising_steps']:3} steps  {cost['tokens_per_forward']:5.2f} tokens per "
            f"forward  {seconds:6.2f} s"
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--model", default="tiny", help="tiny, a folder, or a hub id")
    engine = open_engine(arguments.parse_args().model)
    info = engine.info
    print(f"{info.model}: {info.parameters:,} parameters on {info.device}")

    model = ChatDiffusionGemma(engine=engine, temperature=0)
    summary = []
    for question in QUESTIONS:
        print(f"\n? {question}")
        cost, start = Cost(), time.perf_counter()
        with CanvasView() as view:
            # without on_draft, this is the chain as it would be with any other chat model
            chain: Runnable[dict[str, str], str] = (
                RunnableLambda(look_up)
                | PROMPT
                | model.bind(on_draft=view.draft)
                | StrOutputParser()
            )
            for text in chain.stream({"question": question}, {"callbacks": [cost]}):
                view.committed(text)
        answer = one_line(cost.message.text)
        summary.append(f"{cost.line(time.perf_counter() - start)}  {question} {answer}")

    print("\n" + "\n".join(summary))


if __name__ == "__main__":
    main()
