"""Which tokens of a batch belong together, and where the prefix lies that they also see."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor

TABLE_COLUMNS = 9


class AttentionRow(NamedTuple):
    """One sequence of a batch: its tokens `[start, stop)` and the prefix they also see."""

    start: int
    stop: int
    prefix_keys: Tensor  # (KV heads, P, D)
    prefix_values: Tensor  # (KV heads, P, D)


class AttentionRows(Sequence[AttentionRow]):
    """The rows of a batch, one after another in the token axis, and their device table.

    Prefixes stay where they are: the table holds their addresses, so a captured CUDA graph
    serves other caches once their table is copied into the one it was captured with.
    """

    def __init__(self, rows: Iterable[AttentionRow]) -> None:
        """Raises ValueError if there is no row, if one does not begin where the one before
        ends, or if prefixes differ in heads, width, dtype or device."""
        self._rows = tuple(rows)
        self._table: Tensor | None = None
        _check(self._rows)
        self.max_length = max(row.stop - row.start for row in self._rows)
        self.max_prefix = max(row.prefix_keys.shape[1] for row in self._rows)

    @overload
    def __getitem__(self, index: int) -> AttentionRow: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[AttentionRow]: ...

    def __getitem__(self, index: int | slice) -> AttentionRow | Sequence[AttentionRow]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tokens(self) -> int:
        """The tokens of all rows together."""
        return self._rows[-1].stop

    @property
    def table(self) -> Tensor:
        """`(rows, 9)` int64 on the prefixes' device, made when first asked for.

        Columns: addresses of prefix keys and values; strides, in elements, over heads and
        positions of the keys, then of the values; prefix length; start; stop. Raises
        ValueError for a prefix that kernels cannot load 16 bytes at a time.
        """
        if self._table is None:
            entries = [_table_entry(row) for row in self._rows]
            device = self._rows[0].prefix_keys.device
            self._table = torch.tensor(entries, dtype=torch.int64).to(device)
        return self._table

    def load(self, other: "AttentionRows") -> None:
        """Become `other`, in place: what was captured with this table now reads its prefixes.

        `max_length` and `max_prefix` stay, because a captured launch was sized by them.
        Raises ValueError if `other` has another number of rows or tokens, longer rows, or
        prefixes of another kind. Prefixes may have any length.
        """
        if len(other) != len(self) or other.tokens != self.tokens:
            raise ValueError(
                f"rows for {len(self)} sequences of {self.tokens} tokens together cannot become "
                f"{len(other)} of {other.tokens}"
            )
        if other.max_length > self.max_length:
            raise ValueError(
                f"a row of {other.max_length} tokens does not fit where the longest has "
                f"{self.max_length}"
            )
        _check_alike(self._rows[0].prefix_keys, other[0].prefix_keys)
        self.table.copy_(other.table)
        self._rows = other._rows  # also keeps alive what the table points at


def _check(rows: Sequence[AttentionRow]) -> None:
    if not rows:
        raise ValueError("attention needs at least one row")
    end = 0
    for row in rows:
        if row.start != end or row.stop < row.start:
            raise ValueError(f"a row of tokens [{row.start}, {row.stop}) cannot follow {end}")
        end = row.stop
        if row.prefix_keys.shape != row.prefix_values.shape:
            raise ValueError(
                f"prefix keys {tuple(row.prefix_keys.shape)} and values "
                f"{tuple(row.prefix_values.shape)} differ in shape"
            )
        _check_alike(rows[0].prefix_keys, row.prefix_keys)
        _check_alike(rows[0].prefix_keys, row.prefix_values)


def _check_alike(first: Tensor, other: Tensor) -> None:
    kinds = [(t.shape[0], t.shape[2], t.dtype, t.device) for t in (first, other)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"prefixes differ in heads, width, dtype or device: {kinds[0]} and {kinds[1]}"
        )


def is_loadable(x: Tensor) -> bool:
    """Whether a kernel can load `x (A, B, D)` 16 bytes at a time, wherever its rows begin."""
    wide = all(stride % 8 == 0 for stride in x.stride()[:2])
    return x.stride(2) == 1 and wide and x.data_ptr() % 16 == 0


def _table_entry(row: AttentionRow) -> list[int]:
    keys, values = row.prefix_keys, row.prefix_values
    for prefix in (keys, values):
        if not is_loadable(prefix):
            raise ValueError(
                f"a prefix with strides {prefix.stride()} at {prefix.data_ptr():#x} cannot be "
                "loaded 16 bytes at a time"
            )
    return [
        keys.data_ptr(),
        values.data_ptr(),
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        keys.shape[1],
        row.start,
        row.stop,
    ]
