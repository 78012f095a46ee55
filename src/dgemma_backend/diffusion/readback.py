"""Flags from the device to the host: the only wait of a denoising step."""

import torch
from torch import Tensor


def read_back(flags: Tensor) -> list[bool]:
    """A small tensor of booleans as a list, as soon as the device has computed it.

    From CUDA it travels through pinned memory, and only the work before it is waited for.
    """
    if not flags.is_cuda:
        found: list[bool] = flags.tolist()
        return found
    pinned = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
    pinned.copy_(flags, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    arrived.synchronize()
    landed: list[bool] = pinned.tolist()
    return landed
