"""A vocabulary as the bytes of its tokens, in a trie that every compilation walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dgemma_backend.constraint.automaton import Ints
from dgemma_backend.errors import ConstraintError


@dataclass(frozen=True)
class TrieLevel:
    """The nodes of one depth: N beginnings of tokens, all of one length.

    `parent` `(N,)` is a node of the level above, `byte` `(N,)` what it is prolonged by. The tokens
    `token` `(T,)` end here, at the nodes `token_node` `(T,)`.
    """

    parent: Ints
    byte: Ints
    token: Ints
    token_node: Ints


class Vocabulary:
    """The tokens of one tokenizer, by id.

    `token_bytes[id]` are the bytes a token stands for; None is a control token, or one that must
    never be used (reserved ids, images, sounds). A token of no bytes is never used either.
    """

    def __init__(self, token_bytes: Sequence[bytes | None]) -> None:
        """Raises ConstraintError for an empty vocabulary."""
        if not token_bytes:
            raise ConstraintError("a vocabulary needs at least one token, got none")
        self.token_bytes = tuple(token_bytes)

    def __len__(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def levels(self) -> list[TrieLevel]:
        """The trie, from one byte downwards; built once."""
        pieces = sorted((data, id_) for id_, data in enumerate(self.token_bytes) if data)
        ids = np.array([id_ for _, id_ in pieces], dtype=np.int32)
        lengths = np.array([len(data) for data, _ in pieces], dtype=np.int64)
        letters = np.frombuffer(b"".join(data for data, _ in pieces), dtype=np.uint8)
        begins = np.cumsum(lengths) - lengths
        rows = np.arange(len(pieces))  # of tokens long enough, sorted by their bytes
        node = np.zeros(len(pieces), dtype=np.int64)
        levels: list[TrieLevel] = []
        while len(rows):
            level, node = _level(node, letters[begins[rows] + len(levels)].astype(np.int64))
            ends = lengths[rows] == len(levels) + 1
            levels.append(TrieLevel(*level, ids[rows[ends]], node[ends].astype(np.int32)))
            rows, node = rows[~ends], node[~ends]
        return levels


def _level(
    parent: NDArray[np.int64], byte: NDArray[np.int64]
) -> tuple[tuple[Ints, Ints], NDArray[np.int64]]:
    """Parents and bytes of the distinct pairs, which come sorted, and the node of each row."""
    key = parent * 256 + byte
    fresh = np.append(True, key[1:] != key[:-1])
    distinct = key[fresh]
    columns = (distinct // 256).astype(np.int32), (distinct % 256).astype(np.int32)
    return columns, np.cumsum(fresh) - 1
