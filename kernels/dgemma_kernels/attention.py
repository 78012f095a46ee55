"""Grouped-query attention of new tokens over [cached prefix | new tokens].

One operation serves both passes: prefill is causal, the canvas looks both ways. Rows of a
batch lie one after another in the token axis and each brings its own prefix, so nothing is
padded and a row never sees another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class AttentionRow(NamedTuple):
    """One sequence of a batch: its tokens `[start, stop)` and the prefix they also see."""

    start: int
    stop: int
    prefix_keys: Tensor  # (KV heads, P, D)
    prefix_values: Tensor  # (KV heads, P, D)


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Sequence[AttentionRow],
    causal: bool,
    window: int | None,
) -> Tensor:
    """`q (T, H, D)`, `k, v (T, KV heads, D)` -> `(T, H, D)`, softmax in at least float32.

    Scores are not scaled (queries and keys are already normalised). With `causal`, a token
    sees itself and what came before, and with `window` only the last `window` of those,
    itself included. Without `causal`, every token sees its whole prefix and its whole row;
    limiting the prefix is the caller's choice of `prefix_keys`.
    """
    return torch.cat([_attend_row(q, k, v, row, causal, window) for row in rows])


def _attend_row(
    q: Tensor, k: Tensor, v: Tensor, row: AttentionRow, causal: bool, window: int | None
) -> Tensor:
    mine = slice(row.start, row.stop)
    keys = torch.cat((row.prefix_keys, k[mine].transpose(0, 1)), dim=1)
    values = torch.cat((row.prefix_values, v[mine].transpose(0, 1)), dim=1)
    length, prefix = row.stop - row.start, row.prefix_keys.shape[1]
    # One token sees all it is given; without prefix or window the mask is plain causal.
    plain = causal and prefix == 0 and (window is None or window >= length)
    mask = causal_mask(length, prefix, window, q.device) if causal and not plain else None
    out = F.scaled_dot_product_attention(
        q[mine].transpose(0, 1).unsqueeze(0),
        keys.unsqueeze(0),
        values.unsqueeze(0),
        attn_mask=mask,
        is_causal=plain,
        scale=1.0,
        enable_gqa=True,
    )
    return out[0].transpose(0, 1)


def causal_mask(length: int, prefix: int, window: int | None, device: torch.device) -> Tensor:
    """`(length, prefix + length)` booleans: may new token i see key j?"""
    query = torch.arange(prefix, prefix + length, device=device).unsqueeze(1)
    key = torch.arange(prefix + length, device=device).unsqueeze(0)
    seen = key <= query
    return seen if window is None else seen & (key > query - window)
