"""The model's own layers over packed scenes: the same numbers as `encode` and `denoise`.

Linear work runs over all tokens of all scenes at once; attention runs scene by scene under the
scene's mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma_backend.model import DiffusionGemma
from dgemma_backend.model.attention import Batch
from dgemma_backend.model.layer import Layer
from dgemma_backend.model.rope import Angles, angles_for
from dgemma_kernels import AttentionRow, AttentionRows
from tiny_trainer.packing import Scene

FULL, SLIDING = "full_attention", "sliding_attention"
_HIDDEN = -1e9  # added to the scores of what is not seen


@dataclass(frozen=True)
class Masks:
    """What is added to attention scores, by layer type, one tensor a scene."""

    encoding: dict[str, list[Tensor]]  # (N, N)
    canvases: dict[str, list[Tensor]]  # (C, 1, N + L)


class PackedRows(AttentionRows):
    """Rows that know their own masks; the training kernels let them do the attending."""

    def __init__(self, like: Tensor, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        super().__init__([AttentionRow(0, sum(lengths), like, like)])

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`q (T, H, D)`, `k, v (T, KV heads, D)` -> `(T, H, D)`."""
        raise NotImplementedError


class EncodedRows(PackedRows):
    """Tokens of scenes that see their ancestors; keeps keys and values for the canvases."""

    def __init__(self, like: Tensor, masks: Sequence[Tensor]) -> None:
        self.masks = masks
        self.kept: list[tuple[Tensor, Tensor]] = []
        super().__init__(like, [mask.shape[0] for mask in masks])

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Every token sees its ancestors."""
        outs = []
        self.keep(k, v)
        for queries, (keys, values), mask in zip(
            q.split(self.lengths), self.kept, self.masks, strict=True
        ):
            groups = queries.shape[1] // keys.shape[0]
            grouped = queries.view(-1, keys.shape[0], groups, keys.shape[2]).permute(1, 2, 0, 3)
            scores = torch.matmul(grouped, keys.unsqueeze(1).mT) + mask
            out = torch.matmul(scores.softmax(-1), values.unsqueeze(1))
            outs.append(out.permute(2, 0, 1, 3).flatten(1, 2))
        return torch.cat(outs)

    def keep(self, k: Tensor, v: Tensor) -> None:
        """Remember keys and values, `(KV heads, N, D)` a scene."""
        parts = zip(k.split(self.lengths), v.split(self.lengths), strict=True)
        self.kept = [(keys.transpose(0, 1), values.transpose(0, 1)) for keys, values in parts]


class CanvasRows(PackedRows):
    """Canvases that see the kept keys and values of their scene, and themselves."""

    def __init__(
        self,
        like: Tensor,
        masks: Sequence[Tensor],
        kept: Sequence[tuple[Tensor, Tensor]],
        length: int,
    ) -> None:
        self.masks, self.prefixes, self.length = masks, kept, length
        super().__init__(like, [mask.shape[0] * length for mask in masks])

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Every canvas sees what comes before it, and all of itself."""
        outs = []
        split = (x.split(self.lengths) for x in (q, k, v))
        for queries, keys, values, mask, prefix in zip(
            *split, self.masks, self.prefixes, strict=True
        ):
            heads, width = keys.shape[1:]
            groups = queries.shape[1] // heads
            grouped = queries.view(-1, self.length, heads, groups, width).permute(0, 2, 3, 1, 4)
            all_keys, all_values = (
                torch.cat((before.expand(mask.shape[0], -1, -1, -1), own), dim=2)
                for before, own in zip(prefix, map(self._by_canvas, (keys, values)), strict=True)
            )
            scores = torch.matmul(grouped.flatten(2, 3), all_keys.mT) + mask.unsqueeze(1)
            out = torch.matmul(scores.softmax(-1), all_values)
            out = out.view(-1, heads, groups, self.length, width)
            outs.append(out.permute(0, 3, 1, 2, 4).reshape(-1, heads * groups, width))
        return torch.cat(outs)

    def _by_canvas(self, x: Tensor) -> Tensor:
        return x.view(-1, self.length, *x.shape[1:]).transpose(1, 2)


Kept = list[list[tuple[Tensor, Tensor]]]


class PackedModel:
    """Encodes and denoises one batch of scenes with a model's weights."""

    def __init__(self, model: DiffusionGemma, scenes: Sequence[Scene]) -> None:
        self.model, self.scenes = model, scenes
        self.length = model.config.canvas_length
        self.masks = _masks(scenes, self.length)
        self._stack = [layer for layer in model.layers if isinstance(layer, Layer)]

    def encode(self) -> tuple[Tensor, Kept]:
        """All tokens -> `(T, hidden)` as the last layer reads them, and every layer's keys.

        The last layer's output is used by nobody, so it is not computed.
        """
        ids = torch.cat([scene.ids for scene in self.scenes])
        positions = torch.cat([scene.positions for scene in self.scenes])
        angles = self._angles(positions)
        x = self.model.embed_tokens(ids)
        rows = [
            EncodedRows(self._none(index), self.masks.encoding[kind])
            for index, kind in enumerate(self.model.config.layer_types)
        ]
        _, normed = self._through(x, rows[:-1], angles)
        last = self._stack[-1].self_attn
        kind = self.model.config.layer_types[-1]
        _, keys, values = last._project(normed, angles[kind])
        rows[-1].keep(keys, values)
        return normed, [each.kept for each in rows]

    def denoise(self, canvases: Tensor, guess: Tensor | None, kept: Kept) -> Tensor:
        """Ids `(C, L)` of all scenes' canvases, guess `(C, L, hidden)` -> logits `(C, L, V)`."""
        starts = torch.cat([scene.starts for scene in self.scenes])
        angles = self._angles((starts[:, None] + torch.arange(self.length)).flatten())
        soft = None if guess is None else guess.flatten(0, 1)
        embedded = self.model.embed_tokens(canvases.flatten())
        x = self.model.self_conditioning.condition(embedded, soft)
        rows = [
            CanvasRows(self._none(index), self.masks.canvases[kind], kept[index], self.length)
            for index, kind in enumerate(self.model.config.layer_types)
        ]
        _, normed = self._through(x, rows, angles)
        logits: Tensor = self.model.embed_tokens.logits(normed)
        return logits.view(*canvases.shape, -1)

    def _through(
        self, x: Tensor, rows: Sequence[AttentionRows], angles: dict[str, Angles]
    ) -> tuple[Tensor, Tensor]:
        """Through as many layers as there are `rows`: the residual, and its next norm."""
        norms = [layer.input_layernorm for layer in self._stack] + [self.model.norm]
        batch = Batch((), (), False, tuple(rows))
        normed: Tensor = norms[0](x)
        kinds = self.model.config.layer_types
        for index in range(len(rows)):
            layer = self._stack[index]
            x, normed = layer(x, normed, angles[kinds[index]], batch, norms[index + 1])
        return x, normed

    def _angles(self, positions: Tensor) -> dict[str, Angles]:
        return angles_for(self.model.config, positions, torch.float32)

    def _none(self, index: int) -> Tensor:
        attention = self._stack[index].self_attn
        return torch.empty(attention.kv_heads, 0, attention.head_dim)


def _masks(scenes: Sequence[Scene], length: int) -> Masks:
    return Masks(
        {
            FULL: [_added(scene.sees) for scene in scenes],
            SLIDING: [_added(scene.near) for scene in scenes],
        },
        {
            FULL: [_with_canvas(scene.canvas_sees, length) for scene in scenes],
            SLIDING: [_with_canvas(scene.canvas_near, length) for scene in scenes],
        },
    )


def _added(sees: Tensor) -> Tensor:
    return torch.zeros(sees.shape).masked_fill_(~sees, _HIDDEN)


def _with_canvas(sees: Tensor, length: int) -> Tensor:
    return F.pad(_added(sees), (0, length)).unsqueeze(1)
