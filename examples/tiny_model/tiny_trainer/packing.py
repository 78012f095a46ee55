"""Scenes as tensors: conversations that share a beginning are encoded as one tree of tokens.

Several questions about one context, or the steps of one tool loop, differ only at their ends.
Every token is encoded once and sees its own ancestors, at the position it has in its
conversation; so each conversation is computed exactly as it would be alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from tiny_trainer.rendering import Encoded


@dataclass(frozen=True)
class Scene:
    """One tree of N encoded tokens with C canvases hung into it.

    `sees` `(N, N)`: whether a token (row) sees another; `canvas_sees` `(C, N)`. The `near` ones
    are those of sliding layers. `edges` `(E, 2)`: places after which an id follows, and that id;
    `of_answer` `(E,)` whether the id is part of an answer. `starts` `(C,)` are the positions of the
    canvases' first tokens, `targets` `(C, L)` their ids, `tasks` their tasks' names.
    """

    ids: Tensor
    positions: Tensor
    sees: Tensor
    near: Tensor
    canvas_sees: Tensor
    canvas_near: Tensor
    edges: Tensor
    of_answer: Tensor
    starts: Tensor
    targets: Tensor
    tasks: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Encoded tokens and canvas tokens."""
        return int(self.ids.numel() + self.targets.numel())


class _Tree:
    """Grows by whole conversations; a node is a token, its path the tokens before it."""

    def __init__(self) -> None:
        self.children: dict[tuple[int, int], int] = {}
        self.ids: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.answers: list[bool] = []

    def add(self, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
        """The nodes of a conversation, new or shared."""
        node, path = -1, []
        for place, token in enumerate([*prompt, *answer]):
            key = (node, token)
            if (found := self.children.get(key)) is None:
                found = self.children[key] = len(self.ids)
                self.ids.append(token)
                self.parents.append(node)
                self.depths.append(place)
                self.answers.append(False)
            self.answers[found] |= place >= len(prompt)
            node = found
            path.append(node)
        return path

    def visibility(self) -> np.ndarray:
        """`(N, N)` bool: itself and its ancestors."""
        count = len(self.ids)
        sees = np.zeros((count, count), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] = sees[parent]
            sees[node, node] = True
        return sees


def pack(
    conversations: Sequence[Encoded],
    canvas: int,
    window: int,
    pad: int,
    canvases_per_answer: int,
    rng: Random,
    *,
    of_prompts: bool = True,
) -> Scene:
    """One scene; of every answer one block of `canvas` tokens, `canvases_per_answer` times.

    Without `of_prompts` the edges are those of answers alone.
    """
    tree = _Tree()
    paths = [tree.add(each.prompt, each.answer) for each in conversations]
    sees = tree.visibility()
    depths = np.array(tree.depths)
    near = sees & (depths[:, None] - depths[None, :] < window)
    last, starts, targets, tasks = [], [], [], []
    for each, path in zip(conversations, paths, strict=True):
        block = rng.randrange(-(-len(each.answer) // canvas))
        start = len(each.prompt) + block * canvas
        ids = each.answer[block * canvas : (block + 1) * canvas]
        for _ in range(canvases_per_answer):
            last.append(path[start - 1])
            starts.append(start)
            targets.append(ids + [pad] * (canvas - len(ids)))
            tasks.append(each.task)
    canvas_sees = sees[last]
    canvas_near = canvas_sees & (depths[None, :] >= np.array(starts)[:, None] - window)
    followed = [
        (node, parent)
        for node, parent in enumerate(tree.parents)
        if parent >= 0 and (of_prompts or tree.answers[node])
    ]
    edges = [(parent, tree.ids[node]) for node, parent in followed]
    answers = [tree.answers[node] for node, _ in followed]
    return Scene(
        ids=torch.tensor(tree.ids),
        positions=torch.from_numpy(depths),
        sees=torch.from_numpy(sees),
        near=torch.from_numpy(near),
        canvas_sees=torch.from_numpy(canvas_sees),
        canvas_near=torch.from_numpy(canvas_near),
        edges=torch.tensor(edges),
        of_answer=torch.tensor(answers),
        starts=torch.tensor(starts),
        targets=torch.tensor(targets),
        tasks=tuple(tasks),
    )
