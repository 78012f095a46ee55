"""Makes Triton's interpreter refuse what a GPU would do to somebody else's memory.

The interpreter reads and writes whatever address a kernel computes. Here every address has to lie
in the memory of one of the tensors the kernel was launched with. Reads of a kernel whose
arguments hold addresses themselves, as a table of tensors does, are not looked at.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder
from triton.tools.tensor_descriptor import TensorDescriptor

Operation = Callable[..., Any]
LOWEST_ADDRESS, HIGHEST_ADDRESS = 2**32, 2**47  # of anything allocated; sizes are smaller


class Reach:
    """The memory one launch may touch."""

    def __init__(self, given: Iterable[torch.Tensor]) -> None:
        bounds: list[list[int]] = []
        self.may_read_anywhere = False
        for tensor in sorted(given, key=lambda each: each.untyped_storage().data_ptr()):
            start = tensor.untyped_storage().data_ptr()
            stop = start + tensor.untyped_storage().nbytes()
            if bounds and start < bounds[-1][1]:
                bounds[-1][1] = max(stop, bounds[-1][1])
            else:
                bounds.append([start, stop])
            if tensor.dtype == torch.int64:
                address = (tensor > LOWEST_ADDRESS) & (tensor < HIGHEST_ADDRESS)
                self.may_read_anywhere |= bool(address.any())
        self.starts, self.stops = np.array(bounds, dtype=np.uint64).reshape(-1, 2).T

    def check(self, action: str, pointers: Any, mask: Any) -> None:
        """Raise IndexError unless all places that are not masked lie within."""
        places = np.broadcast_to(pointers.data, mask.data.shape)[mask.data]
        if not places.size:
            return
        size = np.uint64(max(1, pointers.get_element_ty().primitive_bitwidth // 8))
        ends = np.array([places.min(), places.max()])  # mostly all lie in one tensor
        owner = np.searchsorted(self.starts, ends, side="right") - 1
        if owner[0] == owner[1] >= 0 and ends[1] + size <= self.stops[owner[1]]:
            return
        owner = np.searchsorted(self.starts, places, side="right") - 1
        outside = (owner < 0) | (places + size > self.stops[owner])
        if outside.any():
            raise IndexError(f"{action} {outside.sum()} places outside of the kernel's arguments")


reach = Reach([])


def tensors(arguments: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Those among the arguments of a kernel, in tuples and in descriptors too."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from tensors(argument)
        elif isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, TensorDescriptor):
            yield argument.base


def looking_at_arguments(original: Operation) -> Operation:
    """Before a launch, note the memory it was given."""

    def prepare(self: Any, arguments: Any, options: Any) -> Any:
        global reach
        hosts = original(self, arguments, options)
        reach = Reach(tensors([*hosts[0], *hosts[1].values()]))
        return hosts

    return prepare


def checked_load(original: Operation) -> Operation:
    """Also what descriptors and block pointers come down to."""

    def load(self: Any, pointers: Any, mask: Any, *others: Any, **options: Any) -> Any:
        if not reach.may_read_anywhere:
            reach.check("reads", pointers, mask)
        return original(self, pointers, mask, *others, **options)

    return load


def checked_store(original: Operation) -> Operation:
    """Also what descriptors and block pointers come down to."""

    def store(self: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        reach.check("writes", pointers, mask)
        return original(self, pointers, value, mask, *others)

    return store


def install() -> None:
    """Patch the interpreter of this process, once."""
    builder = InterpreterBuilder
    if builder.create_masked_load.__name__ == "load":
        return
    builder.create_masked_load = checked_load(builder.create_masked_load)
    builder.create_masked_store = checked_store(builder.create_masked_store)
    GridExecutor._init_args_hst = looking_at_arguments(GridExecutor._init_args_hst)
    # Tensors of the CPU are not copied before a launch, so there is nothing to copy back.
    GridExecutor._restore_args_dev = lambda *arguments: None
    # A GPU gives infinity and NaN without a word; warnings are errors here.
    GridExecutor.__call__ = np.errstate(all="ignore")(GridExecutor.__call__)
