"""The gated activation of the dense MLP, the experts and the self-conditioning MLP."""

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

_TWICE_ROOT = 2 * (2 / pi) ** 0.5


def geglu_reference(gate_up: Tensor) -> Tensor:
    """`(tokens, 2 * width)` -> `(tokens, width)`: `gelu_tanh(gate) * up`, gate first."""
    gate, up = gate_up.chunk(2, dim=-1)
    if gate.dtype != torch.float32 or gate.is_cuda:
        return F.gelu(gate, approximate="tanh") * up
    # (1 + tanh(y)) / 2 is sigmoid(2y), which processors compute in half the time.
    doubled = torch.addcmul(gate, gate * gate, gate, value=0.044715).mul_(_TWICE_ROOT)
    return doubled.sigmoid() * gate * up
