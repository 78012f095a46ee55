"""Which device, number type and kernels an engine runs on: decided once, when it opens."""

import os

import torch

from dgemma_backend.errors import SettingError
from dgemma_backend.plugins import Plugins
from dgemma_kernels import Kernels

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(asked: str) -> torch.device:
    """ "auto" is CUDA where there is some. Raises `SettingError` for what is not there."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = asked.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise SettingError(f"device={asked!r} must be 'auto', 'cpu', 'cuda' or 'cuda:N'.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise SettingError(
            f"device={asked!r} is not there: torch sees {torch.cuda.device_count()} CUDA "
            "devices. `dgemma doctor` shows what this machine has; device='cpu' always works."
        )
    return torch.device(asked)


def choose_dtype(asked: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on CUDA and float32 on CPU, where bfloat16 is no faster."""
    if asked == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if asked not in _DTYPES:
        why = " float16 overflows on this model." if asked == "float16" else ""
        raise SettingError(f"dtype={asked!r} must be 'auto', 'float32' or 'bfloat16'.{why}")
    return _DTYPES[asked]


def choose_kernels(asked: str, plugins: Plugins) -> Kernels:
    """ "auto" is what `DGEMMA_KERNELS` says, else the reference.

    Raises `UnknownPluginError` for a name nobody registered.
    """
    if asked == "auto":
        asked = os.environ.get("DGEMMA_KERNELS", "auto")
    table: Kernels = plugins.kernels("reference" if asked == "auto" else asked)()
    return table
