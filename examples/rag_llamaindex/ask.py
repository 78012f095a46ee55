"""Questions to the documents beside this file, or to a folder of your own.

    python examples/rag_llamaindex/ask.py                      every question of questions.json
    python examples/rag_llamaindex/ask.py "Who founded it?"    one question
    python examples/rag_llamaindex/ask.py --chat               a conversation
    python examples/rag_llamaindex/ask.py --users              two users at once

`--model` takes a folder or a hub id, `--documents` a folder of Markdown files, `--store faiss`
another index. The index is kept in `--storage` and made anew when a document has changed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from llama_index.core import Settings
from rag_app.answers import Answers, sources_of
from rag_app.embedding import MiniLMEmbedding
from rag_app.library import open_index

from llama_index.llms.dgemma import DiffusionGemma

HERE = Path(__file__).parent


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Questions to a folder of documents.")
    parser.add_argument("--model", default="tiny", help="tiny, a folder, or a hub id")
    parser.add_argument("--documents", type=Path, default=HERE / "documents")
    parser.add_argument("--storage", type=Path, default=HERE / "storage")
    parser.add_argument("--store", choices=["simple", "faiss"], default="simple")
    parser.add_argument("--sections", type=int, default=1, help="how many the model reads")
    return parser


def open_answers(given: argparse.Namespace) -> Answers:
    index = open_index(given.documents, given.storage / given.store, MiniLMEmbedding(), given.store)
    llm = DiffusionGemma(model=given.model, temperature=0, draft_events=True)
    Settings.llm = llm  # or LlamaIndex would look for OpenAI's where nothing is said
    Settings.tokenizer = llm.tokenizer.encode
    return Answers(index, llm, given.sections)


def ask(answers: Answers, question: str) -> str:
    """Print the answer while it is written, then what it rests on."""
    print(f"\n> {question}")
    response: Any = answers.query_engine(streaming=True).query(question)
    text = ""
    for piece in response.response_gen:
        text += piece
        print(piece, end="", flush=True)
    print(*("", *(f"  {source}" for source in sources_of(response.source_nodes))), sep="\n")
    return text


def ask_all(answers: Answers, folder: Path) -> None:
    cases = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    right = sum(case["value"] in ask(answers, case["question"]) for case in cases)
    print(f"\n{right} of {len(cases)} answers hold the value that the documents state")


def chat(answers: Answers) -> None:
    engine = answers.chat_engine()
    for line in sys.stdin:
        response = engine.stream_chat(line.strip())
        for piece in response.response_gen:
            print(piece, end="", flush=True)
        print(*("", *(f"  {source}" for source in sources_of(response.source_nodes))), sep="\n")


async def two_users(answers: Answers) -> None:
    """Two users ask at the same time; neither waits for the other."""
    engine = answers.query_engine()
    questions = ("Who founded the Ternwick Lighthouse?", "When does the Salt Museum open?")
    for question, response in zip(
        questions, await asyncio.gather(*map(engine.aquery, questions)), strict=True
    ):
        print(f"> {question}\n{response}")


def main() -> None:
    parser = arguments()
    parser.add_argument("question", nargs="?")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--users", action="store_true")
    given = parser.parse_args()
    answers = open_answers(given)
    if given.chat:
        chat(answers)
    elif given.users:
        asyncio.run(two_users(answers))
    elif given.question:
        ask(answers, given.question)
    else:
        ask_all(answers, given.documents)


if __name__ == "__main__":
    main()
