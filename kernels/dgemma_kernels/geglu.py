"""The gated activation of the dense MLP, the experts and the self-conditioning MLP."""

import torch.nn.functional as F
from torch import Tensor


def geglu_reference(gate_up: Tensor) -> Tensor:
    """`(tokens, 2 * width)` -> `(tokens, width)`: `gelu_tanh(gate) * up`, gate first."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up
