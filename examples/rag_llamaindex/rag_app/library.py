"""Documents -> an index that is kept on disk, and made anew when a document has changed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Literal

from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode

Store = Literal["simple", "faiss"]
FINGERPRINT = "fingerprint.json"
_SECTION = re.compile(r"^## (.+)\n+((?:(?!^#).*\n?)+)", re.MULTILINE)


def read_sections(folder: Path) -> list[TextNode]:
    """Every `## section` of the Markdown files in `folder`, with its file and title.

    Raises FileNotFoundError if there is none.
    """
    nodes = []
    for file in sorted(folder.glob("*.md")):
        for title, text in _SECTION.findall(file.read_text(encoding="utf-8")):
            node = TextNode(
                id_=f"{file.name}#{title}",
                text=text.strip(),
                metadata={"file": file.name, "section": title},
                excluded_llm_metadata_keys=["file", "section"],
            )
            nodes.append(node)
    if not nodes:
        raise FileNotFoundError(f"{folder} has no Markdown file with a '## section'")
    return nodes


def open_index(
    folder: Path, storage: Path, embedding: BaseEmbedding, store: Store = "simple"
) -> VectorStoreIndex:
    """The index over `folder`: from `storage` if it is of these very documents, else made now."""
    nodes = read_sections(folder)
    told = json.dumps([store, embedding.model_name, *((node.id_, node.text) for node in nodes)])
    fingerprint = hashlib.sha256(told.encode()).hexdigest()
    known = storage / FINGERPRINT
    if known.is_file() and json.loads(known.read_text()) == fingerprint:
        return _loaded(storage, embedding, store)
    shutil.rmtree(storage, ignore_errors=True)
    index = _built(nodes, embedding, store)
    index.storage_context.persist(str(storage))
    known.write_text(json.dumps(fingerprint))
    return index


def _built(nodes: list[TextNode], embedding: BaseEmbedding, store: Store) -> VectorStoreIndex:
    context = StorageContext.from_defaults()
    if store == "faiss":
        import faiss
        from llama_index.vector_stores.faiss import FaissVectorStore

        width = len(embedding.get_query_embedding("width"))
        vectors = FaissVectorStore(faiss_index=faiss.IndexFlatIP(width))
        context = StorageContext.from_defaults(vector_store=vectors)
    return VectorStoreIndex(nodes, storage_context=context, embed_model=embedding)


def _loaded(storage: Path, embedding: BaseEmbedding, store: Store) -> VectorStoreIndex:
    where = str(storage)
    context = StorageContext.from_defaults(persist_dir=where) if store == "simple" else None
    if context is None:
        from llama_index.vector_stores.faiss import FaissVectorStore

        vectors = FaissVectorStore.from_persist_dir(where)
        context = StorageContext.from_defaults(vector_store=vectors, persist_dir=where)
    index = load_index_from_storage(context, embed_model=embedding)
    assert isinstance(index, VectorStoreIndex)
    return index
