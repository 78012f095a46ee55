"""Keys and values of what has been encoded: the prefix that a canvas reads.

One cache holds one sequence. Full layers keep every position; sliding layers keep the last
`sliding_window`, in a buffer of bounded size, because neither pass ever looks further back.
"""

import torch
from torch import Tensor

from dgemma_backend.config import ModelConfig

_FIRST_CAPACITY = 64


class LayerCache:
    """Keys and values of one layer, each `(KV heads, positions, head_dim)`.

    Positions lie in a buffer `[begin, end)`. A sliding layer that reaches the end of its
    buffer moves its last `window` positions to the front, so its buffer stops growing at
    twice the window.
    """

    def __init__(self, window: int | None, capacity: int = 0) -> None:
        """`capacity`: positions to make room for at once; more are made room for when needed."""
        self.window = window
        self._first = max(_FIRST_CAPACITY, capacity)
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._begin = 0
        self._end = 0
        self._unbroken = 0  # from here to the end, no position is missing

    def prefix(self, none: Tensor, limit: int | None) -> tuple[Tensor, Tensor]:
        """Views of the last `limit` positions (None: all kept); before the first append, `none`
        `(KV heads, 0, D)` twice."""
        if self._keys is None or self._values is None:
            return none, none
        begin = self._begin if limit is None else max(self._begin, self._end - limit)
        return self._keys[:, begin : self._end], self._values[:, begin : self._end]

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add `(T, KV heads, D)` after what is there."""
        keys, values = keys.transpose(0, 1), values.transpose(0, 1)
        new = keys.shape[1]
        if self.window is not None:
            keys, values = keys[:, -self.window :], values[:, -self.window :]
        if keys.requires_grad:
            self._join(keys, values)
        else:
            self._write(keys, values)
        if keys.shape[1] < new:
            self._unbroken = self._end - keys.shape[1]

    def _join(self, keys: Tensor, values: Tensor) -> None:
        """Training: a new tensor, because a buffer written in place has no gradient."""
        old_keys, old_values = self.prefix(keys[:, :0], self.window)
        self._keys = torch.cat((old_keys, keys), dim=1)
        self._values = torch.cat((old_values, values), dim=1)
        self._begin, self._end, self._unbroken = 0, self._keys.shape[1], 0

    def _write(self, keys: Tensor, values: Tensor) -> None:
        new = keys.shape[1]
        buffer_keys, buffer_values = self._make_room(keys, values)
        stop = self._end + new
        buffer_keys[:, self._end : stop] = keys
        buffer_values[:, self._end : stop] = values
        self._end = stop
        if self.window is not None:
            self._begin = max(self._begin, self._end - self.window)

    def _make_room(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The two buffers, moved or grown so that the new positions fit behind `_end`."""
        new = keys.shape[1]
        held = self._end - self._begin
        capacity = 0 if self._keys is None else self._keys.shape[1]
        if self._keys is None or self._values is None or self._end + new > capacity:
            needed = held + new
            if self.window is None:
                wanted = max(self._first, needed, 2 * capacity)
            else:
                wanted = min(max(self._first, 2 * needed), 2 * self.window)
            old_keys, old_values = self.prefix(keys[:, :0], None)
            self._keys = _moved(old_keys, self._keys, keys, wanted)
            self._values = _moved(old_values, self._values, values, wanted)
            self._begin, self._end, self._unbroken = 0, held, 0
        return self._keys, self._values

    def reaches(self, length: int, all_: int) -> bool:
        """Whether what the first `length` of `all_` positions would have left is still there."""
        oldest = all_ - (self._end - self._unbroken)  # what lies before `_begin` stays till a move
        return length == 0 or (length <= all_ and oldest <= self._oldest_of(length))

    def fork(self, length: int, all_: int, capacity: int) -> "LayerCache":
        """A copy as it was after the first `length` of `all_` positions."""
        copy = LayerCache(self.window, capacity)
        if self._keys is None or self._values is None or length == 0:
            return copy
        stop = self._end - (all_ - length)
        start = stop - (length - self._oldest_of(length))
        for name, whole in (("_keys", self._keys), ("_values", self._values)):
            part = whole[:, start:stop]
            room = max(stop - start, capacity if self.window is None else 0)
            buffer = part.new_empty(part.shape[0], room, part.shape[2])
            buffer[:, : stop - start] = part
            setattr(copy, name, buffer)
        copy._end = stop - start
        return copy

    def _oldest_of(self, length: int) -> int:
        """The first position that is seen after `length`."""
        return 0 if self.window is None else max(0, length - self.window)

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        held = (self._keys, self._values)
        return sum(t.numel() * t.element_size() for t in held if t is not None)


def _moved(old: Tensor, buffer: Tensor | None, like: Tensor, capacity: int) -> Tensor:
    """`old` at the front of a buffer of at least `capacity`; the same buffer if it is enough."""
    if buffer is None or buffer.shape[1] < capacity:
        buffer = like.new_empty(like.shape[0], capacity, like.shape[2])
        buffer[:, : old.shape[1]] = old
    else:
        buffer[:, : old.shape[1]] = old.clone()  # the two ranges may overlap
    return buffer


class KVCache:
    """The encoded prefix of one sequence, over all layers.

    `length` counts tokens encoded so far and is the next token's position. Encoding writes;
    denoising only reads. A pass that raised has left the cache unusable: drop it.
    """

    def __init__(self, config: ModelConfig, capacity: int = 0) -> None:
        """`capacity`: positions that full layers make room for at once."""
        self.length = 0
        self.layers = tuple(
            LayerCache(config.sliding_window)
            if kind == "sliding_attention"
            else LayerCache(None, capacity)
            for kind in config.layer_types
        )

    def can_fork(self, length: int) -> bool:
        """Whether the first `length` positions are all there, as far as anything looks back."""
        return all(layer.reaches(length, self.length) for layer in self.layers)

    def fork(self, length: int, capacity: int = 0) -> "KVCache":
        """A copy as it was when it held `length` tokens; later writes do not touch each other.

        Only where `can_fork` says so.
        """
        copy = object.__new__(KVCache)
        copy.length = length
        copy.layers = tuple(layer.fork(length, self.length, capacity) for layer in self.layers)
        return copy

    @property
    def bytes(self) -> int:
        """Memory held by keys and values, in bytes."""
        return sum(layer.bytes for layer in self.layers)
