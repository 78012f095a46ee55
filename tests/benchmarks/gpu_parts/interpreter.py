"""Triton's interpreter computes in bfloat16 only with what the kernels' tests patch into it."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import torch

_PATCH = Path(__file__).resolve().parents[2] / "kernels" / "interpreter_bf16.py"


def interpreted() -> bool:
    """Whether kernels of this process run in the interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def prepare() -> None:
    """Make this process' interpreter right in bfloat16, if it is to interpret."""
    if not interpreted():
        return
    torch.set_num_threads(1)  # operations are tiny
    np.seterr(all="ignore")  # a GPU gives infinity and NaN without a word
    found = importlib.util.spec_from_file_location("interpreter_bf16", _PATCH)
    assert found is not None
    assert found.loader is not None
    patch = importlib.util.module_from_spec(found)
    found.loader.exec_module(patch)
    patch.install()
