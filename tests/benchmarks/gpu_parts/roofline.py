"""The least time a step can take: bytes over bandwidth or operations over rate, whichever is more.

Components run one after another, so their floors add up. A byte counts once however often it is
read; activations that half of the L2 cache holds do not count. `step_floor_ms` of one canvas after
1024 tokens, at 3.0 TB/s and 800 TFLOP/s: 17.9 bf16, 10.3 fp8, 9.8 w8a8, 6.7 int4.
"""

from typing import NamedTuple

from dgemma_backend.config import ModelConfig

ACTIVATION = 2  # bytes
SLIDING, FULL = "sliding_attention", "full_attention"


class Ceilings(NamedTuple):
    """What the device was measured to reach."""

    bandwidth: float  # bytes read and written a second
    bf16: float  # floating-point operations a second
    fp8: float
    cache: float  # bytes of L2


class Work(NamedTuple):
    """Bytes through device memory, and operations, on FP8 units or not."""

    bytes: float
    flops: float
    fp8: bool = False

    def times(self, count: int) -> "Work":
        return Work(count * self.bytes, count * self.flops, self.fp8)

    def floor_ms(self, ceilings: Ceilings) -> float:
        rate = ceilings.fp8 if self.fp8 else ceilings.bf16
        return 1000 * max(self.bytes / ceilings.bandwidth, self.flops / rate)


class WeightBytes(NamedTuple):
    """Of one weight; router, self-conditioning and embedding are bfloat16 in every format."""

    experts: float
    dense: float  # attention and dense MLP


WEIGHT_BYTES = {
    "bf16": WeightBytes(2.0, 2.0),
    "fp8": WeightBytes(1.0, 1.0),
    "w8a8": WeightBytes(1.0, 1.0),
    "int4": WeightBytes(0.5 + 2 / 64, 1.0),  # a bfloat16 scale for 64 columns
    "fp4": WeightBytes(0.5 + 1 / 16, 1.0),  # a float8 scale for 16
}


class Load(NamedTuple):
    """`rows` sequences of `tokens` new tokens, each after `prefix` cached ones."""

    rows: int
    tokens: int
    prefix: int

    @property
    def all_tokens(self) -> int:
        return self.rows * self.tokens


def step_floor_ms(config: ModelConfig, form: str, load: Load, ceilings: Ceilings) -> float:
    """Of a whole denoising step."""
    works = [*layer_works(config, form, load, ceilings.cache), *vocabulary_works(config, load)]
    return sum(work.floor_ms(ceilings) for work in works)


def token_floor_ms(config: ModelConfig, form: str, load: Load, ceilings: Ceilings) -> float:
    """Of one autoregressive step: all layers, and the logits of one token a row."""
    head = config.vocab_size * config.hidden_size
    works = [
        *layer_works(config, form, load, ceilings.cache),
        Work(2 * head, 2 * load.rows * head),
    ]
    return sum(work.floor_ms(ceilings) for work in works)


def layer_works(config: ModelConfig, form: str, load: Load, cache: float) -> list[Work]:
    """The components of all layers. Quantised weights are multiplied in bf16, but for w8a8."""
    width, tokens, layers = WEIGHT_BYTES[form], load.all_tokens, config.num_hidden_layers
    fp8, hidden = form == "w8a8", config.hidden_size
    residual = tokens * hidden * ACTIVATION
    dense = 3 * hidden * config.intermediate_size
    router = hidden * config.num_experts
    inner = tokens * config.intermediate_size * ACTIVATION

    def unless_cached(bytes_: float) -> float:
        return 0.0 if bytes_ < cache / 2 else bytes_

    works = []
    for kind in config.layer_types:
        projections = projection_weights(config, kind)
        works += [
            Work(
                width.dense * projections + unless_cached(6 * residual),
                2 * tokens * projections,
                fp8,
            ),
            attention_work(config, kind, load),
        ]
    works += [
        Work(
            width.dense * dense + unless_cached(2 * residual + 2 * inner), 2 * tokens * dense, fp8
        ).times(layers),
        Work(2 * router + unless_cached(residual), 2 * tokens * router).times(layers),
        Work(unless_cached(10 * residual), 0).times(layers),  # norms
        expert_work(config, form, tokens, cache).times(layers),
    ]
    return works


def expert_work(config: ModelConfig, form: str, tokens: int, cache: float) -> Work:
    """Of one layer, when every expert is as likely as any other."""
    one = 3 * config.hidden_size * config.moe_intermediate_size
    slots = tokens * config.top_k_experts
    moved = ACTIVATION * (
        tokens * config.hidden_size
        + 2 * slots * config.moe_intermediate_size
        + 2 * slots * config.hidden_size
    )
    asked = config.num_experts * (1 - (1 - config.top_k_experts / config.num_experts) ** tokens)
    held = WEIGHT_BYTES[form].experts * one * asked
    return Work(held + (0 if moved < cache / 2 else moved), 2 * slots * one, form == "w8a8")


def attention_work(config: ModelConfig, kind: str, load: Load) -> Work:
    """Of one layer; keys and values are read once."""
    heads, width = head_sizes(config, kind)
    prefix = min(load.prefix, config.sliding_window - 1) if kind == SLIDING else load.prefix
    keys = prefix + load.tokens
    flops = 4 * load.all_tokens * keys * config.num_attention_heads * width
    return Work(2 * ACTIVATION * load.rows * keys * heads * width, flops)


def vocabulary_works(config: ModelConfig, load: Load) -> list[Work]:
    """Logits, sampler and self-conditioning."""
    tokens, hidden = load.all_tokens, config.hidden_size
    table, mlp = config.vocab_size * hidden, 3 * hidden * config.intermediate_size
    return [
        Work(2 * table, 2 * tokens * table),
        # probabilities are written once and read once
        Work(2 * ACTIVATION * tokens * config.vocab_size, 0),
        Work(2 * (table + mlp), 2 * tokens * (table + mlp)),
    ]


def head_sizes(config: ModelConfig, kind: str) -> tuple[int, int]:
    """Key heads and head width of a kind of layer."""
    if kind == FULL:
        return config.num_global_key_value_heads, config.global_head_dim
    return config.num_key_value_heads, config.head_dim


def projection_weights(config: ModelConfig, kind: str) -> int:
    """Weights of queries, keys, values and output; full layers take values from the keys."""
    heads, width = head_sizes(config, kind)
    key_sets = 1 if kind == FULL else 2
    return config.hidden_size * width * (2 * config.num_attention_heads + key_sets * heads)
