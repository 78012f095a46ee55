"""What else there is to run: the same operation as torch offers it, for its time."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma_kernels import reference_kernels

from .cases import Case, Operands

Other = Callable[[Operands], object]
_CAP = 30.0
_PLAIN = ("rms_norm", "post_attention", "layer_tail", "heads", "geglu", "route", "attention")


def others(case: Case) -> dict[str, Other]:
    """By name; none where torch has nothing but a loop."""
    if case.kernel in _PLAIN:
        return {"torch": lambda operands: case.run(reference_kernels(), operands)}
    if case.kernel == "vocabulary":
        return {"torch": vocabulary_in_torch}
    if case.kernel == "experts" and case.form == "bf16":
        return {"grouped_mm": experts_by_grouped_mm}
    if case.kernel == "linear" and case.form in ("fp8", "w8a8"):
        return {"scaled_mm": scaled_product}
    return {}


def vocabulary_in_torch(operands: Operands) -> tuple[Tensor, ...]:
    """Operation by operation, as transformers does it in one step and at the head of the next."""
    temperature = operands["draws"].temperature.unsqueeze(1)
    logits = F.linear(operands["hidden"], operands["table"]).float()
    logits = torch.tanh(logits / _CAP) * _CAP
    logits = logits / temperature
    share = logits.softmax(dim=-1)
    sample = torch.multinomial(share, 1)
    argmax = logits.argmax(dim=-1)
    entropies = [torch.distributions.Categorical(logits=logits).entropy() for _ in range(2)]
    rounded = logits.to(operands["table"].dtype).softmax(dim=-1, dtype=torch.float32)
    guess = rounded.to(operands["table"].dtype) @ operands["table"]
    return sample, argmax, *entropies, guess


def experts_by_grouped_mm(operands: Operands) -> Tensor:
    """Slots sorted by expert, then torch's grouped product twice."""
    x, weights, ids = operands["x"], operands["weights"], operands["ids"]
    tokens, chosen = ids.shape
    order = ids.flatten().argsort(stable=True)
    counts = ids.new_zeros(operands["gate_up"].shape[0])  # as bincount, which waits
    counts.scatter_add_(0, ids.flatten(), torch.ones_like(ids.flatten()))
    ends = counts.cumsum(0).to(torch.int32)
    rows = x[order // chosen]
    both = _grouped(rows, operands["gate_up"], ends)
    gate, up = both.chunk(2, dim=-1)
    rows = _grouped(F.gelu(gate, approximate="tanh") * up, operands["down"], ends)
    by_slot = torch.empty_like(rows)
    by_slot[order] = rows
    mixed: Tensor = by_slot.view(tokens, chosen, -1) * weights.unsqueeze(-1).to(x.dtype)
    return mixed.sum(dim=1)


def _grouped(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    product: Any = getattr(F, "grouped_mm", None) or torch._grouped_mm
    found: Tensor = product(rows, weights.transpose(-2, -1), offs=ends)
    return found


def scaled_product(operands: Operands) -> Tensor:
    """Activations rounded to FP8 by row, then torch's product on FP8 units."""
    x, weight = operands["x"], operands["weight"]
    scale = (x.abs().amax(dim=1, keepdim=True).float() / 448).clamp_min(1e-12)
    values = (x.float() / scale).to(torch.float8_e4m3fn)
    return torch._scaled_mm(
        values,
        weight.values.t(),
        scale_a=scale,
        scale_b=weight.scale.unsqueeze(0),
        out_dtype=x.dtype,
    )
