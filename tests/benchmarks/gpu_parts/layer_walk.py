"""Layers one at a time: ours and transformers' beside the same layer in float32.

All three are given the same numbers and the same routing. A router sees experts nearly level with
each other all the time, and one chosen otherwise would hide every smaller error; how kernels route
is checked by itself.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dgemma_backend.model import DiffusionGemma
from dgemma_backend.model.attention import Batch
from dgemma_backend.model.diffusion_gemma import Context
from dgemma_backend.model.layer import Layer
from dgemma_backend.model.norm import RMSNorm
from dgemma_backend.model.rope import Angles
from dgemma_backend.weights.placing import install, stored_matrices
from dgemma_kernels import Kernels, reference_kernels
from dgemma_kernels.routing import Routing

from .bench import RecordedRoute
from .cases import upcast


class Walked(NamedTuple):
    """A layer's output `(T, hidden)` in three ways, and the routing that all of them used."""

    layer: int
    ours: Tensor
    exact: Tensor
    theirs: Tensor | None
    routing: Routing


class Theirs(NamedTuple):
    """transformers' decoder and what its layers are called with."""

    decoder: Any
    cache: Any
    positions: Tensor  # (1, L)


class ExactLayer:
    """One layer of a model in float32 and plain torch, told how to route."""

    def __init__(self, model: DiffusionGemma, index: int) -> None:
        self._routing: Routing | None = None
        table = replace(reference_kernels(), route=self._route)
        with torch.device("meta"):
            self._layer = Layer(model.config, index, table)
        self._layer.requires_grad_(False)
        for name, matrix in stored_matrices(model.layers[index]):
            dense = (
                matrix.float() if isinstance(matrix, Tensor) else matrix.dequantize(torch.float32)
            )
            install(self._layer, name, dense)
        self._index = index
        self._kind = model.config.layer_types[index]

    def __call__(self, x: Tensor, context: Context, routing: Routing) -> Tensor:
        """`(T, hidden)` of any dtype -> the same in float32."""
        self._routing = routing
        first: RMSNorm = self._layer.input_layernorm
        angles = Angles(*(each.float() for each in context.angles[self._kind]))
        batch = _exact_batch(context.batch, self._index)
        out: Tensor = self._layer(x.float(), first(x.float()), angles, batch, first)[0]
        return out

    def _route(self, *_: object) -> Routing:
        assert self._routing is not None
        return self._routing


def walk(
    model: DiffusionGemma,
    route: RecordedRoute,
    context: Context,
    x: Tensor,
    theirs: Theirs | None,
) -> Iterator[Walked]:
    """Every layer given the exact output of the one before, in the model's dtype."""
    for index in range(model.config.num_hidden_layers):
        walked = walk_one(model, route, context, index, x, theirs)
        yield walked
        x = walked.exact.to(x.dtype)


def walk_one(
    model: DiffusionGemma,
    route: RecordedRoute,
    context: Context,
    index: int,
    x: Tensor,
    theirs: Theirs | None,
) -> Walked:
    """One layer on `x (T, hidden)`."""
    layer, kind = model.layers[index], model.config.layer_types[index]
    assert isinstance(layer, Layer)
    route.said = []
    first = layer.input_layernorm
    ours, _ = layer(x, first(x), context.angles[kind], context.batch, first)
    (routing,), route.said = route.said, None
    exact = ExactLayer(model, index)(x, context, routing)
    other = None if theirs is None else _their_layer(theirs, context, kind, index, x, routing)
    return Walked(index, ours, exact, other, routing)


def exact_hidden(
    model: DiffusionGemma, context: Context, x: Tensor, routings: list[Routing]
) -> Tensor:
    """Embedded tokens through all layers and the final norm, in float32 throughout."""
    for index, routing in enumerate(routings):
        x = ExactLayer(model, index)(x, context, routing)
    table: Kernels = reference_kernels()
    return table.rms_norm(x, model.norm.weight.float(), model.norm.eps)


def _exact_batch(batch: Batch, index: int) -> Batch:
    rows = list(batch.rows)
    rows[index] = upcast(rows[index])
    return batch._replace(rows=tuple(rows))


def _their_layer(
    theirs: Theirs, context: Context, kind: str, index: int, x: Tensor, routing: Routing
) -> Tensor:
    layer = theirs.decoder.layers[index]
    found = routing.probabilities, routing.weights, routing.experts
    layer.router.forward = lambda _: found
    try:
        out = layer(
            x.unsqueeze(0).clone(),  # it multiplies its output in place
            position_embeddings=theirs.decoder.rotary_emb(x, theirs.positions, kind),
            attention_mask=None,
            position_ids=theirs.positions,
            past_key_values=theirs.cache,
        )
    finally:
        del layer.router.forward
    return out.squeeze(0)  # type: ignore[no-any-return]
