"""Encoded prefixes kept for later requests, the least recently used dropped first.

What is kept is never written again: a request gets a copy of its own (a fork), cut where its
tokens leave the kept ones. Sliding layers hold no more than their window, so a prefix can only be
cut where that window is still whole; where requests keep parting at another place, the scheduler
keeps a prefix that ends there.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]


class Cache(Protocol):
    """Keys and values of a sequence, as far as the store needs to know them."""

    length: int

    @property
    def bytes(self) -> int:
        """Memory held."""

    def can_fork(self, length: int) -> bool:
        """Whether the first `length` positions are all there."""

    def fork(self, length: int, capacity: int = 0) -> "Cache":
        """A copy of the first `length` positions, with room for `capacity` in all."""


class Match(NamedTuple):
    """The best there is for some tokens."""

    cache: Cache | None
    usable: int
    """Tokens of it that a fork can have."""
    common: int
    """Tokens in common with anything kept, also where no fork can be cut."""


@dataclass(eq=False)
class _Kept:
    salt: str | None
    ids: Ids
    cache: Cache


class PrefixStore:
    """Prefixes of finished and running requests; used by one thread."""

    def __init__(self, budget: int) -> None:
        """`budget`: bytes that the kept caches may take together."""
        self.budget = budget
        self.bytes = 0
        self._kept: OrderedDict[_Kept, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def longest(self, salt: str | None, token_ids: Sequence[int]) -> Match:
        """The kept prefix that serves `token_ids` best, among those of the same salt."""
        ids = np.asarray(token_ids, dtype=np.int32)
        best: _Kept | None = None
        usable = common = 0
        for kept in self._kept:
            shared = _shared(kept.ids, ids) if kept.salt == salt else 0
            common = max(common, shared)
            if shared > usable and kept.cache.can_fork(shared):
                best, usable = kept, shared
        if best is None:
            return Match(None, 0, common)
        self._kept.move_to_end(best)
        return Match(best.cache, usable, common)

    def keep(self, salt: str | None, token_ids: Sequence[int], cache: Cache) -> None:
        """Keep a copy of `cache`, which holds `token_ids`, if it fits and adds something."""
        ids = np.asarray(token_ids, dtype=np.int32)
        for kept in list(self._kept):
            if kept.salt != salt:
                continue
            shared = _shared(kept.ids, ids)
            if shared == len(ids) and kept.cache.can_fork(shared):
                self._kept.move_to_end(kept)
                return
            if shared == len(kept.ids) and cache.can_fork(shared):
                self._drop(kept)
        copy = cache.fork(len(ids))
        self._make_room(copy.bytes)
        if self.bytes + copy.bytes <= self.budget:
            self._kept[_Kept(salt, ids, copy)] = None
            self.bytes += copy.bytes

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
        self.bytes = 0

    def _make_room(self, needed: int) -> None:
        while self._kept and self.bytes + needed > self.budget >= needed:
            self._drop(next(iter(self._kept)))

    def _drop(self, kept: _Kept) -> None:
        del self._kept[kept]
        self.bytes -= kept.cache.bytes


def _shared(one: Ids, other: Ids) -> int:
    """Length of the longest common beginning."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length
