"""The products with weights that may be quantised: experts and projections."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from dgemma_backend.config import ModelConfig
from dgemma_kernels import Kernels
from dgemma_kernels.quantized import Fp4Matrix, Fp8Matrix, Int4Matrix, Matrix

from .cases import Case, Draw, Operands
from .compare import Results
from .roofline import ACTIVATION, FULL, WEIGHT_BYTES, Load, Work, expert_work, head_sizes

QUANTIZE: Mapping[str, Callable[[Tensor], Matrix]] = {
    "bf16": lambda dense: dense,
    "fp8": Fp8Matrix.quantize,
    "w8a8": Fp8Matrix.quantize,
    "int4": Int4Matrix.quantize,
    "fp4": Fp4Matrix.quantize,
}


def experts_case(config: ModelConfig, form: str, load: Load) -> Case:
    """The whole mixture of one layer."""
    tokens, width = load.all_tokens, config.hidden_size
    count, inner, chosen = (
        config.num_experts,
        config.moe_intermediate_size,
        config.top_k_experts,
    )

    def make(draw: Draw) -> Operands:
        scores = torch.rand(tokens, count, device=draw.device, generator=draw.generator)
        weights, ids = scores.topk(chosen, dim=1)
        return {
            "x": draw.normal(tokens, width),
            "weights": weights / weights.sum(dim=1, keepdim=True),
            "ids": ids,
            "gate_up": QUANTIZE[form](draw.weight(count, 2 * inner, width)),
            "down": QUANTIZE[form](draw.weight(count, width, inner)),
        }

    def run(table: Kernels, o: Operands) -> Results:
        return {"out": table.experts(*o.values())}

    work = expert_work(config, form, tokens, cache=0)
    return Case("experts", form, form, load, (work,), _allowed(form, 8e-3), make, run)


def linear_cases(config: ModelConfig, form: str, load: Load) -> Iterator[Case]:
    """The largest and the smallest product with a matrix outside of the experts."""
    heads = config.num_attention_heads * head_sizes(config, FULL)[1]
    shapes = {
        "output full": (config.hidden_size, heads),
        "dense gate": (config.intermediate_size, config.hidden_size),
    }
    for name, (rows, columns) in shapes.items():
        yield _linear_case(f"{name} {form}", form, rows, columns, load)


def _linear_case(what: str, form: str, rows: int, columns: int, load: Load) -> Case:
    tokens = load.all_tokens

    def make(draw: Draw) -> Operands:
        weight = QUANTIZE[form](draw.weight(rows, columns))
        return {"x": draw.normal(tokens, columns), "weight": weight}

    def run(table: Kernels, o: Operands) -> Results:
        return {"out": table.linear(o["x"], o["weight"])}

    moved = ACTIVATION * tokens * (rows + columns)
    held = WEIGHT_BYTES[form].experts * rows * columns
    work = Work(held + moved, 2 * tokens * rows * columns, form == "w8a8")
    return Case("linear", what, form, load, (work,), _allowed(form, 4e-3), make, run)


def _allowed(form: str, bf16: float) -> dict[str, float]:
    """`bf16` is what one or two roundings to it do; activations rounded to FP8 cost far more."""
    return {"out": 8e-2 if form == "w8a8" else bf16}
