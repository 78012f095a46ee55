"""The kernels that read no large weights: norms, heads, activation, attention, vocabulary."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dgemma_backend.config import ModelConfig
from dgemma_backend.model.rope import angles_for
from dgemma_kernels import AttentionRow, AttentionRows, Draws, Kernels

from .cases import Case, Draw, Operands
from .compare import Results
from .roofline import (
    ACTIVATION,
    FULL,
    SLIDING,
    Load,
    Work,
    attention_work,
    head_sizes,
    vocabulary_works,
)

EPS = 1e-6


def kernel_cases(config: ModelConfig, load: Load) -> Iterator[Case]:
    """Everything of one load but attention and the products with quantised weights."""
    yield from _norm_cases(config, load)
    for kind in (SLIDING, FULL):
        yield _heads_case(config, kind, load)
    yield _geglu_case(config, load)
    yield _route_case(config, load)
    yield _vocabulary_case(config, load)


def attention_cases(config: ModelConfig, load: Load, *, causal: bool) -> Iterator[Case]:
    """Both kinds of layer, on canvases or, `causal`, on a piece of a prompt."""
    for kind in (SLIDING, FULL):
        yield _attention_case(config, kind, load, causal)


def _norm_cases(config: ModelConfig, load: Load) -> Iterator[Case]:
    tokens, width = load.all_tokens, config.hidden_size
    one = ACTIVATION * tokens * width

    def make(draw: Draw) -> Operands:
        rows = {name: draw.normal(tokens, width) for name in ("x", "y", "z")}
        weights = {f"w{i}": draw.norm_weight(width) for i in range(4)}
        return {**rows, **weights, "scalar": draw.norm_weight(1)}

    def rms_norm(table: Kernels, o: Operands) -> Results:
        return {"out": table.rms_norm(o["x"], o["w0"], EPS)}

    def post_attention(table: Kernels, o: Operands) -> Results:
        found = table.post_attention(o["x"], o["y"], o["w0"], o["w1"], o["w2"], EPS)
        return dict(zip(("residual", "dense", "experts"), found, strict=True))

    def layer_tail(table: Kernels, o: Operands) -> Results:
        weights = (o["w0"], o["w1"], o["w2"], o["scalar"], o["w3"])
        found = table.layer_tail(o["x"], o["y"], o["z"], *weights, EPS)
        return dict(zip(("residual", "normed"), found, strict=True))

    # each result is rounded once, and what it is made of once or twice before
    yield Case("rms_norm", "", "bf16", load, (Work(2 * one, 0),), {"out": 3e-3}, make, rms_norm)
    allowed = dict.fromkeys(("residual", "dense", "experts"), 5e-3)
    yield Case(
        "post_attention", "", "bf16", load, (Work(5 * one, 0),), allowed, make, post_attention
    )
    allowed = dict.fromkeys(("residual", "normed"), 6e-3)
    yield Case("layer_tail", "", "bf16", load, (Work(5 * one, 0),), allowed, make, layer_tail)


def _heads_case(config: ModelConfig, kind: str, load: Load) -> Case:
    tokens, heads = load.all_tokens, config.num_attention_heads
    kv_heads, width = head_sizes(config, kind)

    def make(draw: Draw) -> Operands:
        positions = torch.arange(load.prefix, load.prefix + tokens, device=draw.device)
        angles = angles_for(config, positions, draw.dtype)[kind]
        return {
            "q": draw.normal(tokens, heads, width),
            "k": draw.normal(tokens, kv_heads, width),
            "v": None if kind == FULL else draw.normal(tokens, kv_heads, width),
            "q_weight": draw.norm_weight(width),
            "k_weight": draw.norm_weight(width),
            "cos": angles.cos,
            "sin": angles.sin,
        }

    def run(table: Kernels, o: Operands) -> Results:
        names = ("q", "k", "v", "q_weight", "k_weight", "cos", "sin")
        q, k, v, q_weight, k_weight, cos, sin = (o[name] for name in names)
        found = table.heads(q, k, v, q_weight, k_weight, cos, sin, EPS)
        return dict(zip("qkv", found, strict=True))

    sets = 2 * heads + (3 if kind == FULL else 4) * kv_heads
    work = Work(ACTIVATION * tokens * width * sets, 0)
    allowed = dict.fromkeys("qkv", 4e-3)
    return Case("heads", _short(kind), "bf16", load, (work,), allowed, make, run)


def _geglu_case(config: ModelConfig, load: Load) -> Case:
    tokens, width = load.all_tokens, config.intermediate_size

    def make(draw: Draw) -> Operands:
        return {"x": draw.normal(tokens, 2 * width)}

    def run(table: Kernels, o: Operands) -> Results:
        return {"out": table.geglu(o["x"])}

    work = Work(3 * ACTIVATION * tokens * width, 0)
    return Case("geglu", "", "bf16", load, (work,), {"out": 3e-3}, make, run)


def _route_case(config: ModelConfig, load: Load) -> Case:
    tokens, width, experts = load.all_tokens, config.hidden_size, config.num_experts

    def make(draw: Draw) -> Operands:
        return {
            "x": draw.normal(tokens, width),
            "scale": draw.norm_weight(width),
            "proj": draw.normal(experts, width),
            "each": draw.norm_weight(experts),
        }

    def run(table: Kernels, o: Operands) -> Results:
        x, scale, proj, each = (o[name] for name in ("x", "scale", "proj", "each"))
        found = table.route(x, scale, proj, each, config.top_k_experts, EPS)
        chosen = torch.zeros_like(found.probabilities).scatter(1, found.experts, 1.0)
        ranked = found.weights.sort(dim=1).values
        return {"probabilities": found.probabilities, "weights": ranked, "chosen": chosen}

    bytes_ = ACTIVATION * (tokens + experts) * width + 4 * tokens * experts
    work = Work(bytes_, 2 * tokens * width * experts)
    # Scores are float32 throughout; of two that are nearly level either may come first.
    allowed = {"probabilities": 1e-3, "weights": 1e-3, "chosen": 0.05}
    return Case("route", "", "bf16", load, (work,), allowed, make, run)


def _attention_case(config: ModelConfig, kind: str, load: Load, causal: bool) -> Case:
    tokens, heads = load.all_tokens, config.num_attention_heads
    kv_heads, width = head_sizes(config, kind)
    window = config.sliding_window if causal and kind == SLIDING else None
    prefix = min(load.prefix, config.sliding_window - 1) if kind == SLIDING else load.prefix

    def make(draw: Draw) -> Operands:
        def cached() -> Tensor:
            return draw.normal(prefix, kv_heads, width).transpose(0, 1)

        rows = AttentionRows(
            AttentionRow(row * load.tokens, (row + 1) * load.tokens, cached(), cached())
            for row in range(load.rows)
        )
        q = draw.normal(tokens, heads, width, scale=width**-0.5)
        k, v = (draw.normal(tokens, kv_heads, width) for _ in range(2))
        return {"q": q, "k": k, "v": v, "rows": rows}

    def run(table: Kernels, o: Operands) -> Results:
        return {"out": table.attention(o["q"], o["k"], o["v"], o["rows"], causal, window)}

    work = attention_work(config, kind, load)
    if causal:  # on average half of the new tokens; with a window never more than that
        seen = load.prefix + load.tokens / 2
        seen = min(seen, config.sliding_window) if kind == SLIDING else seen
        work = work._replace(flops=4 * tokens * seen * heads * width)
    moved = 2 * ACTIVATION * tokens * heads * width
    work = work._replace(bytes=work.bytes + moved)
    what = f"{'causal' if causal else 'canvas'} {_short(kind)}"
    return Case("attention", what, "bf16", load, (work,), {"out": 5e-3}, make, run)


def _vocabulary_case(config: ModelConfig, load: Load) -> Case:
    tokens, width, vocabulary = load.all_tokens, config.hidden_size, config.vocab_size

    def make(draw: Draw) -> Operands:
        temperature = torch.linspace(0.4, 0.8, tokens, device=draw.device)
        draws = Draws(temperature, torch.ones_like(temperature), draw.uniform(tokens))
        table = draw.normal(vocabulary, width, scale=4 * width**-0.5)
        return {"hidden": draw.normal(tokens, width), "table": table, "draws": draws}

    def run(table: Kernels, o: Operands) -> Results:
        cap = config.final_logit_softcapping
        found = table.vocabulary(o["hidden"], o["table"], cap, o["draws"], guess=True)
        assert found.guess is not None
        return {
            "argmax": found.argmax,
            "entropy": found.entropy,
            "log_total": found.log_total,
            "finite": found.finite.double(),
            "guess": found.guess,
        }

    head, sampler, soft = vocabulary_works(config, load)
    # Logits rounded to bfloat16 tie, so the argmax may be another of equal ones; at temperature
    # 0.4 half a unit of theirs is a sixth of a nat.
    allowed = {"argmax": 0.3, "entropy": 5e-2, "log_total": 1e-2, "finite": 0.0, "guess": 8e-2}
    return Case("vocabulary", "", "bf16", load, (head, sampler, soft), allowed, make, run)


def _short(kind: str) -> str:
    return kind.removesuffix("_attention")
