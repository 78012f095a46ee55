"""A grader and a router that read probabilities from one pass, instead of writing text.

    pip install 'dgemma-backend[langchain]'
    python examples/langchain_grader.py
    python examples/langchain_grader.py --model google/diffusiongemma-26B-A4B-it

`Engine.decide` compares given answers with one another in a denoising pass for all of them. In a
function it is a Runnable like any other: here it grades the answers to a multiple-choice question,
and a branch takes the best one where the model is sure, and lets it write where it is not.
"""

import argparse
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableBranch, RunnableLambda, RunnablePassthrough

from dgemma_backend import Engine, open_engine
from dgemma_backend.decisions import Decision
from langchain_dgemma import ChatDiffusionGemma

QUESTIONS = [
    {
        "context": "The Larkfeld Museum stands in Salzburg.",
        "question": "Where is the Larkfeld Museum?",
        "answers": ["It is in Granada.", "It is in Salzburg.", "It is in Porto."],
    },
    {
        "context": "Today Magnus Pinto is the director of the Larkfeld Museum.",
        "question": "Who is the director?",
        "answers": ["It is led by Magnus Pinto.", "It is led by Odette Marsh."],
    },
    {
        "context": "A ticket for the Larkfeld Museum costs 13 euros.",
        "question": "How much is a ticket?",
        "answers": ["I do not know.", "It is closed on Monday."],
    },
]
PROMPT = ChatPromptTemplate([("user", "Context: {context}\n\nQuestion: {question}")])
SURE = 0.05  # of a blind guess's doubt


def grader(engine: Engine) -> Runnable[dict[str, Any], Decision]:
    """How likely each of the `answers` to a question is, in comparison with the others."""

    def grade(asked: dict[str, Any]) -> Decision:
        prompt = PROMPT.invoke(asked).to_string().removeprefix("Human: ")
        return engine.decide(prompt, asked["answers"], canvases=4, settings={"seed": 0})

    return RunnableLambda(grade)


def router(engine: Engine) -> Runnable[dict[str, Any], str]:
    """The best answer where the model is sure of it, else one that it writes."""
    model = ChatDiffusionGemma(engine=engine, temperature=0, max_tokens=64)
    best = RunnableLambda[dict[str, Any], str](lambda told: told["grades"].best)
    graded = RunnablePassthrough[Any].assign(grades=grader(engine))
    return graded | RunnableBranch(
        (lambda told: told["grades"].doubt < SURE, best), PROMPT | model | StrOutputParser()
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny", help="tiny, a folder, or a hub id")
    with open_engine(parser.parse_args(arguments).model) as engine:
        grade, answer = grader(engine), router(engine)
        for asked in QUESTIONS:
            print(f"? {asked['question']}")
            for text, share in grade.invoke(asked).probabilities.items():
                print(f"  {share:6.1%}  {text}")
            print(f"  {answer.invoke(asked)}")


if __name__ == "__main__":
    main()
