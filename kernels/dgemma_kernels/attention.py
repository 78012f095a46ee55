"""Grouped-query attention of new tokens over [cached prefix | new tokens].

One operation serves both passes: prefill is causal, the canvas looks both ways. Rows of a
batch lie one after another in the token axis and each brings its own prefix, so nothing is
padded and a row never sees another.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma_kernels.attention_rows import AttentionRow, AttentionRows


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, rows: AttentionRows, causal: bool, window: int | None
) -> Tensor:
    """`q (T, H, D)`, `k, v (T, KV heads, D)` -> `(T, H, D)`, softmax in at least float32.

    Scores are not scaled (queries and keys are already normalised). With `causal`, a token
    sees itself and what came before, and with `window` only the last `window` of those,
    itself included. Without `causal`, every token sees its whole prefix and its whole row;
    limiting the prefix is the caller's choice of `prefix_keys`.
    """
    attend = _attend_causally if causal else _attend_both_ways
    pieces = [
        attend(
            q[row.start : row.stop], k[row.start : row.stop], v[row.start : row.stop], row, window
        )
        for row in rows
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _attend_both_ways(q: Tensor, k: Tensor, v: Tensor, row: AttentionRow, _: int | None) -> Tensor:
    """The queries of one key head lie one after another: nobody asks where a query stands."""
    length, heads, width = q.shape
    kv_heads = k.shape[1]
    queries = q.view(length, kv_heads, heads // kv_heads, width).permute(1, 2, 0, 3)
    queries = queries.reshape(1, kv_heads, -1, width)
    keys, values = k.transpose(0, 1).unsqueeze(0), v.transpose(0, 1).unsqueeze(0)
    if row.prefix_keys.shape[1] == 0:
        out = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    elif _can_attend_in_two_parts(q):
        out = _attend_in_two_parts(queries, keys, values, row)
    else:
        keys = torch.cat((row.prefix_keys.unsqueeze(0), keys), dim=2)
        values = torch.cat((row.prefix_values.unsqueeze(0), values), dim=2)
        out = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    return out.view(kv_heads, -1, length, width).permute(2, 0, 1, 3).reshape(length, heads, width)


def _can_attend_in_two_parts(q: Tensor) -> bool:
    """Not in bfloat16, where rounding both parts costs more precision than a copy costs time."""
    plain = not (torch.is_grad_enabled() and q.requires_grad)
    return plain and q.device.type == "cpu" and q.dtype == torch.float32


def _attend_in_two_parts(q: Tensor, k: Tensor, v: Tensor, row: AttentionRow) -> Tensor:
    """Prefix and row apart, then joined by their log-sum-exps: the prefix is never copied."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    before, before_total = attend(
        q, row.prefix_keys.unsqueeze(0), row.prefix_values.unsqueeze(0), scale=1.0
    )
    own, own_total = attend(q, k, v, scale=1.0)
    share = torch.sigmoid(own_total - before_total).unsqueeze(-1)
    return torch.lerp(before, own, share)


def _attend_causally(
    q: Tensor, k: Tensor, v: Tensor, row: AttentionRow, window: int | None
) -> Tensor:
    keys = torch.cat((row.prefix_keys, k.transpose(0, 1)), dim=1)
    values = torch.cat((row.prefix_values, v.transpose(0, 1)), dim=1)
    length, prefix = q.shape[0], row.prefix_keys.shape[1]
    # Without prefix or window the mask is plain causal.
    plain = prefix == 0 and (window is None or window >= length)
    mask = None if plain else causal_mask(length, prefix, window, q.device)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0),
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
