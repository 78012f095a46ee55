"""The tensors of a model by name, quantised ones among them, and how they get there.

A quantised matrix is a plain attribute where the parameter was: `state_dict`, `parameters()` and
`to()` do not see it. `stored_matrices` does.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from dgemma_kernels.quantized import QuantizedMatrix


def install(model: nn.Module, name: str, matrix: Tensor | QuantizedMatrix) -> None:
    """Put `matrix` where `model` has its parameter, buffer or quantised matrix `name`.

    A parameter keeps its `requires_grad`; a quantised matrix has no gradient.
    """
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._buffers:
        module.register_buffer(leaf, matrix if isinstance(matrix, Tensor) else None)
        return
    old = getattr(module, leaf)
    delattr(module, leaf)
    if isinstance(matrix, Tensor):
        trained = isinstance(old, nn.Parameter) and old.requires_grad
        setattr(module, leaf, nn.Parameter(matrix, requires_grad=trained))
    else:
        setattr(module, leaf, matrix)


def stored_matrices(model: nn.Module) -> Iterator[tuple[str, Tensor | QuantizedMatrix]]:
    """All that a checkpoint keeps of `model`: parameters, buffers and quantised matrices.

    `.shape` is that of the dense tensor; `memory_of` tells the bytes.
    """
    yield from model.state_dict().items()
    for path, module in model.named_modules():
        for leaf, value in vars(module).items():
            if isinstance(value, QuantizedMatrix):
                yield (f"{path}.{leaf}" if path else leaf), value


def memory_of(matrix: Tensor | QuantizedMatrix) -> int:
    """Bytes of a tensor, or of all parts of a quantised matrix."""
    return matrix.nbytes if isinstance(matrix, Tensor) else matrix.bytes
