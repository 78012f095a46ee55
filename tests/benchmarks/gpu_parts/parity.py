"""The whole model at full size: right layer by layer, and from the canvas to the logits."""

from typing import NamedTuple

import torch
from torch import Tensor

from dgemma_backend.model import DiffusionGemma, KVCache
from dgemma_backend.model.diffusion_gemma import Context
from dgemma_kernels import Draws
from dgemma_kernels.routing import Routing

from .bench import Bench
from .compare import Distance, facts, relative_error, share_apart
from .layer_walk import Theirs, exact_hidden, walk, walk_one
from .transformers_side import (
    logits_of,
    positions,
    prefix_cache,
    route_as,
    route_freely,
    shared_decoder,
)
from .weights import random_cache

# Of a layer in bfloat16, and of thirty in a row: a few roundings, and what they add up to.
_LAYER, _MODEL = 1.5e-2, 8e-2
_LAYER_W8A8 = 1e-1
# What another version of transformers may raise; it must not end the phase.
_OTHER_VERSION = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)
_COMPARISON = "comparison with transformers"
_ROWS = 8  # whose logits are computed in float64
_CHUNK = 16384  # rows of the table at once


def check_model(bench: Bench) -> None:
    """In bfloat16, beside transformers on the same tensors where there is one."""
    model = bench.model_in("bf16")
    cache = random_cache(model, bench.shapes.prefixes[0], bench.draw())
    context = model.canvas_context([cache])
    canvas = bench.draw().ids(model.config.vocab_size, 1, model.config.canvas_length)
    theirs = _theirs(bench, model, cache)
    whole = _check_whole(bench, model, context, canvas)
    if theirs is not None:
        try:
            _check_theirs(bench, model, whole, canvas, theirs)
        except _OTHER_VERSION as error:
            bench.give_up_if_lost("")
            _skip(bench, error)
            theirs = None
    hidden = whole.hidden
    del whole
    _check_vocabulary(bench, model, hidden)
    _check_layers(bench, model, context, canvas, theirs)


def _theirs(bench: Bench, model: DiffusionGemma, cache: KVCache) -> Theirs | None:
    decoder, missing = shared_decoder(bench.shapes, model)
    if missing:
        bench.journal.add("skipped", what=_COMPARISON, why=missing)
        return None
    places = positions([cache], model.config.canvas_length, bench.device)
    try:
        return Theirs(decoder, prefix_cache(decoder, [cache], model.config), places)
    except _OTHER_VERSION as error:
        _skip(bench, error)
        return None


def _skip(bench: Bench, error: Exception) -> None:
    why = f"{type(error).__name__}: {str(error)[:300]}"
    bench.journal.add("skipped", what=_COMPARISON, why=why)


def check_quantized(bench: Bench, form: str) -> None:
    """A sliding and a full layer against the weights as they were rounded."""
    model = bench.model_in(form)
    cache = random_cache(model, bench.shapes.prefixes[0], bench.draw())
    context = model.canvas_context([cache])
    width, canvas = model.config.hidden_size, model.config.canvas_length
    for index in sorted(map(model.config.layer_types.index, set(model.config.layer_types))):
        bench.clock.check()
        x = bench.draw().normal(canvas, width)
        found = walk_one(model, bench.route, context, index, x, None)
        limit = _LAYER_W8A8 if form == "w8a8" else _LAYER
        apart = {"ours": Distance(relative_error(found.ours, found.exact), limit)}
        bench.journal.add("check", what=f"layer {index}, {form}", **facts(apart))


def _embedded(model: DiffusionGemma, canvas: Tensor) -> Tensor:
    return model.self_conditioning.condition(model.embed_tokens(canvas.flatten()), None)


def _check_layers(
    bench: Bench, model: DiffusionGemma, context: Context, canvas: Tensor, theirs: Theirs | None
) -> None:
    for found in walk(model, bench.route, context, _embedded(model, canvas), theirs):
        apart = {"ours": Distance(relative_error(found.ours, found.exact), _LAYER)}
        if found.theirs is not None:
            error = relative_error(found.theirs, found.exact)
            apart["transformers"] = Distance(error, float("inf"))
        bench.journal.add("check", what=f"layer {found.layer}, bf16", **_without_limit(apart))
        bench.clock.check()


class Whole(NamedTuple):
    """What came of a canvas, a row for each position."""

    hidden: Tensor  # after the final norm
    logits: Tensor  # float32
    exact: Tensor  # the hidden states in float32 throughout
    routings: list[Routing]  # of all layers, ours


def _check_whole(bench: Bench, model: DiffusionGemma, context: Context, canvas: Tensor) -> Whole:
    bench.route.said = []
    logits = model.denoise(canvas, None, context)
    routings, bench.route.said = bench.route.said, None
    exact = exact_hidden(model, context, _embedded(model, canvas), routings)
    dense = logits.dense().flatten(0, 1)
    found = Whole(logits.hidden.flatten(0, 1), dense, exact, routings)
    apart = {
        "hidden": Distance(relative_error(found.hidden, exact), _MODEL),
        "logits": Distance(_logit_error(model, dense, exact), _MODEL),
    }
    bench.journal.add("check", what="whole model, ours against float32", **facts(apart))
    return found


def _check_theirs(
    bench: Bench, model: DiffusionGemma, ours: Whole, canvas: Tensor, theirs: Theirs
) -> None:
    """With our routing and with its own; the second tells what a choice between equals costs."""
    cap = model.config.final_logit_softcapping
    for how in ("our routing", "its own routing"):
        bench.clock.check()
        if how == "our routing":
            route_as(theirs.decoder, ours.routings)
        hidden = theirs.decoder(
            decoder_input_ids=canvas,
            past_key_values=theirs.cache,
            decoder_position_ids=theirs.positions,
        ).last_hidden_state.flatten(0, 1)
        route_freely(theirs.decoder)
        logits = logits_of(theirs.decoder, hidden, cap)
        limit = _MODEL if how == "our routing" else float("inf")
        apart = {
            "ours against transformers": Distance(relative_error(ours.logits, logits), limit),
            "transformers against float64": Distance(
                _logit_error(model, logits, ours.exact), float("inf")
            ),
            "argmax": Distance(
                share_apart(ours.logits.argmax(-1), logits.argmax(-1)), float("inf")
            ),
        }
        row = _without_limit(apart)
        bench.journal.add("check", what=f"whole model, transformers with {how}", **row)


def _logit_error(model: DiffusionGemma, logits: Tensor, hidden: Tensor) -> float:
    """Of a few rows of softcapped logits, from `hidden` in float64."""
    rows = _spread(hidden.shape[0])
    cap = model.config.final_logit_softcapping
    exact = torch.tanh(_raw_logits(model, hidden[rows]) / cap) * cap
    return relative_error(logits[rows], exact)


def _raw_logits(model: DiffusionGemma, hidden: Tensor) -> Tensor:
    """`(N, hidden)` -> `(N, V)` in float64, the table read a part at a time."""
    parts = model.embed_tokens.weight.split(_CHUNK)
    return torch.cat([hidden.double() @ part.double().t() for part in parts], dim=1)


def _spread(count: int) -> slice:
    return slice(None, None, max(1, count // _ROWS))


def _check_vocabulary(bench: Bench, model: DiffusionGemma, hidden: Tensor) -> None:
    """Statistics, sample and guess of a few rows against float64, from the same hidden states."""
    count, cap = hidden.shape[0], model.config.final_logit_softcapping
    temperature = torch.linspace(0.4, 0.8, count, device=bench.device)
    draws = Draws(temperature, torch.ones_like(temperature), bench.draw().uniform(count))
    found = model.embed_tokens.vocabulary_pass(hidden, draws, guess=True)
    assert found.guess is not None
    rows = _spread(count)
    logits = torch.tanh(_raw_logits(model, hidden[rows]) / cap) * cap
    tempered = logits / temperature[rows].double().unsqueeze(1)
    share = tempered.softmax(dim=1)
    entropy = -(share * tempered.log_softmax(dim=1)).sum(dim=1)
    best = logits.gather(1, found.argmax[rows].unsqueeze(1))[:, 0]
    upto = share.cumsum(dim=1).gather(1, found.sample[rows].unsqueeze(1))[:, 0]
    drawn = share.gather(1, found.sample[rows].unsqueeze(1))[:, 0]
    uniform = draws.uniform[rows]
    outside = torch.maximum(uniform - upto, upto - drawn - uniform).clamp_min(0)
    guess = _expected(model, share)
    apart = {
        "entropy": Distance(relative_error(found.entropy[rows], entropy), 5e-2),
        "log_total": Distance(
            relative_error(found.log_total[rows], tempered.logsumexp(dim=1)), 1e-2
        ),
        "guess": Distance(relative_error(found.guess[rows], guess), 8e-2),
        # in logits: bfloat16 tells those between 16 and 32 apart in steps of an eighth
        "argmax below the best": Distance(float((logits.amax(dim=1) - best).max()), 0.25),
        "sample off its quantile": Distance(float(outside.max()), 2e-2),
    }
    bench.journal.add("check", what="vocabulary pass against float64", **facts(apart))


def _expected(model: DiffusionGemma, share: Tensor) -> Tensor:
    weight = model.embed_tokens.weight
    scale = float(torch.tensor(weight.shape[1] ** 0.5, dtype=weight.dtype))
    parts = zip(share.split(_CHUNK, dim=1), weight.split(_CHUNK), strict=True)
    total = torch.zeros(share.shape[0], weight.shape[1], dtype=torch.float64, device=share.device)
    for some, rows in parts:
        total += some @ rows.double()
    return total * scale


def _without_limit(apart: dict[str, Distance]) -> dict[str, object]:
    """As `facts`, with errors that are only told left out of what is allowed."""
    row = facts(apart)
    row["allowed"] = {n: d.allowed for n, d in apart.items() if d.allowed != float("inf")}
    return row
