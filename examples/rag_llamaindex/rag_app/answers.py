"""Answers with their sources: one question, a stream, a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llama_index.core import PromptHelper, VectorStoreIndex, get_response_synthesizer
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.chat_engine.types import BaseChatEngine, ChatMode
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore

from llama_index.llms.dgemma import DiffusionGemma

QUESTION = PromptTemplate("Context: {context_str}\n\nQuestion: {query_str}")
CONVERSATION = "Answer the question from the text: {context_str}"


@dataclass(frozen=True)
class Source:
    """What an answer rests on. `score` is the cosine of question and section."""

    number: int
    file: str
    section: str
    text: str
    score: float

    def __str__(self) -> str:
        return f"[{self.number}] {self.file}, {self.section}: {self.text}"

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def sources_of(nodes: Sequence[NodeWithScore]) -> list[Source]:
    """The sections that were put before the model, best first."""
    return [
        Source(
            number,
            found.node.metadata["file"],
            found.node.metadata["section"],
            found.node.get_content(),
            round(found.score or 0.0, 3),
        )
        for number, found in enumerate(nodes, 1)
    ]


class Answers:
    """Engines over one index and one LLM.

    `sections` of the documents are put before the model; the built-in one reads one at a time.
    """

    def __init__(self, index: VectorStoreIndex, llm: DiffusionGemma, sections: int = 1) -> None:
        self.index = index
        self.llm = llm
        self.sections = sections

    def query_engine(self, *, streaming: bool = False) -> BaseQueryEngine:
        """For questions that stand alone; `query`, `aquery`."""
        # prompts are measured in the model's own tokens
        helper = PromptHelper.from_llm_metadata(
            self.llm.metadata, tokenizer=self.llm.tokenizer.encode
        )
        synthesizer = get_response_synthesizer(
            self.llm, helper, text_qa_template=QUESTION, streaming=streaming
        )
        return self.index.as_query_engine(
            self.llm, similarity_top_k=self.sections, response_synthesizer=synthesizer
        )

    def chat_engine(self) -> BaseChatEngine:
        """For one conversation, which it remembers; `chat`, `stream_chat`, `achat`."""
        return self.index.as_chat_engine(
            chat_mode=ChatMode.CONTEXT,
            llm=self.llm,
            similarity_top_k=self.sections,
            memory=ChatMemoryBuffer.from_defaults(
                token_limit=self.llm.metadata.context_window // 2
            ),
            context_template=CONVERSATION,
        )
