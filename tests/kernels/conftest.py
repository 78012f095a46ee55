"""Kernels run here without a GPU too: in Triton's interpreter, on tensors of the CPU."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
GPU = torch.cuda.is_available()
TRITON = importlib.util.find_spec("triton") is not None

# Without Triton there is nothing to test: it is an extra, and there is none for macOS.
collect_ignore_glob = (
    [] if TRITON else ["test_*_triton.py", "test_interpreter.py", "test_compile_check.py"]
)


def _interpret() -> None:
    """Choose the interpreter for this process; Triton looks when it is first imported."""
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            "triton was imported before tests/kernels/conftest.py could set TRITON_INTERPRET=1. "
            "A test module or conftest imports it, or transformers, at its head: import it in "
            "the fixture or test that needs it."
        )
    os.environ["TRITON_INTERPRET"] = "1"
    for name in ("interpreter_bf16", "interpreter_memory"):
        # Test folders are no packages, so a neighbour is loaded by its path.
        spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        patch = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(patch)
        patch.install()


if TRITON and not GPU:
    _interpret()


@pytest.fixture(scope="session")
def kernel_device() -> str:
    """Where kernels run: "cuda", or "cpu" in the interpreter."""
    return "cuda" if GPU else "cpu"


@pytest.fixture
def far_rows(kernel_device: str) -> Callable[[int], torch.Tensor]:
    """`far_rows(width)` -> `(3, width)` bfloat16 random numbers, 2**30 elements from row to row.

    The third row begins where a 32-bit offset ends. Hardly any of the memory is ever touched.
    """

    def make(width: int) -> torch.Tensor:
        if GPU:
            memory = torch.empty(2**31 + width, dtype=torch.bfloat16, device=kernel_device)
        else:
            memory = torch.from_numpy(np.zeros(2**31 + width, np.int16)).view(torch.bfloat16)
        rows = memory.as_strided((3, width), (2**30, 1))
        return rows.copy_(torch.randn(3, width, generator=torch.Generator().manual_seed(0)))

    return make


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that torch does not initialise holds NaN, or garbage where it holds integers.

    A kernel that leaves a place of its output unwritten, or reads one before, is found out.
    """
    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
        (torch.Tensor, "new_empty_strided"),
    ):
        monkeypatch.setattr(owner, name, _poisoning(getattr(owner, name)))


def _poisoning(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def poisoned(*arguments: Any, **options: Any) -> torch.Tensor:
        made = allocate(*arguments, **options)
        if made.is_floating_point() or made.is_complex():
            return made.fill_(float("nan"))
        if made.dtype == torch.bool:
            return made.fill_(True)
        return made.fill_(torch.iinfo(made.dtype).max - 89)

    return poisoned
