"""Which device, number type and kernels an engine runs on: decided once, when it opens."""

import os
from dataclasses import replace
from importlib.util import find_spec

import torch

from dgemma_backend.errors import MissingDependencyError, SettingError, UnknownPluginError
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime.kernel_trust import trusted
from dgemma_backend.runtime.scheduler import Limits
from dgemma_kernels import Kernels

VARIABLE = "DGEMMA_KERNELS"
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
    """ "auto" is bfloat16 on CUDA and on CPUs that multiply matrices of it (AMX), else float32.

    Without such instructions bfloat16 is slower than float32 on a CPU.
    """
    if asked == "auto":
        fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    if asked not in _DTYPES:
        why = " float16 overflows on this model." if asked == "float16" else ""
        raise SettingError(f"dtype={asked!r} must be 'auto', 'float32' or 'bfloat16'.{why}")
    return _DTYPES[asked]


def choose_kernels(
    asked: str, plugins: Plugins, device: torch.device, dtype: torch.dtype
) -> Kernels:
    """ "auto" is what `DGEMMA_KERNELS` says, else Triton's on CUDA and the reference on CPU.

    Kernels other than the reference are compared with it first, once per device and version: an
    operation that is wrong here is named in a RuntimeWarning and done by the reference. Raises
    `UnknownPluginError` for a name nobody registered and `MissingDependencyError` for Triton's
    kernels without Triton.
    """
    said = f"kernels={asked!r}"
    if asked == "auto" and (chosen := os.environ.get(VARIABLE)):
        asked, said = chosen, f"{VARIABLE}={chosen}"
    if asked == "auto":
        asked = "triton" if device.type == "cuda" and find_spec("triton") else "reference"
    if asked == "triton":
        _require_triton(device, said)
    try:
        table: Kernels = plugins.kernels(asked)()
    except UnknownPluginError as error:
        raise UnknownPluginError(f"{said}: {error} 'auto' is what suits the device.") from error
    return table if asked == "reference" else trusted(table, device, dtype)


def _require_triton(device: torch.device, said: str) -> None:
    if device.type != "cuda" and not os.environ.get("TRITON_INTERPRET"):
        raise SettingError(
            f"{said}: these kernels run on CUDA devices, and this engine's device is {device}. "
            "Take 'reference' or 'auto' there."
        )
    if find_spec("triton") is None:
        raise MissingDependencyError(
            f"{said} needs Triton, which is not installed: "
            "pip install 'dgemma-backend[triton]', or take 'reference'."
        )


def settled_limits(limits: Limits, device: torch.device) -> Limits:
    """`limits` with the memory that nobody set, once the weights are in place.

    On CUDA, 6 of 10 parts of what is free are for running requests and 2 for kept prefixes; the
    rest is for what a pass needs meanwhile. On CPU prefixes may take a quarter of a gigabyte.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        running, prefixes = int(0.6 * free), int(0.2 * free)
    else:
        running, prefixes = None, 1 << 28
    return replace(
        limits,
        cache_bytes=running if limits.cache_bytes is None else limits.cache_bytes,
        prefix_bytes=prefixes if limits.prefix_bytes is None else limits.prefix_bytes,
    )
