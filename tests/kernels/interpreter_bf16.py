"""Makes Triton's interpreter compute in bfloat16, and in float8, as a GPU does.

The interpreter of Triton 3.7 holds bfloat16 values as uint16 bit patterns and then adds,
compares and multiplies those patterns; casts to bfloat16 cut off instead of rounding. Here every
such operation is done in float32 and rounded to the nearest even bfloat16.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, ScanOps, TensorHandle

Array = NDArray[Any]
Operation = Callable[..., Any]
BF16 = tl.bfloat16
FLOAT8 = {tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2}


def widen(handle: Any) -> Any:
    """The same values in a type that numpy computes in."""
    if handle.dtype.scalar != BF16:
        return handle
    data = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return TensorHandle(data, tl.float32)


def narrow(data: Array) -> Any:
    """Rounded to the nearest bfloat16, ties to even; what a comparison gave stays as it is."""
    if data.dtype == np.bool_:
        return TensorHandle(data, tl.int1)
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32).reshape(data.shape)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40  # rounding a NaN could carry it over into infinity
    return TensorHandle(np.where(np.isnan(data), quiet_nan, rounded).astype(np.uint16), BF16)


def in_float32(original: Operation) -> Operation:
    """A builder method that rounds its result when the last of its values is bfloat16."""

    def method(self: Any, *arguments: Any) -> Any:
        handles = [each for each in arguments if isinstance(each, TensorHandle)]
        if handles[-1].dtype.scalar != BF16:
            return original(self, *arguments)
        wide = [widen(each) if isinstance(each, TensorHandle) else each for each in arguments]
        return narrow(original(self, *wide).data)

    return method


def cast(self: Any, source: Any, target: Any) -> Any:
    """Any cast between a number and another that is not a float8."""
    if source.dtype.scalar == target.scalar == BF16:
        return source
    wide = widen(source)
    if target.scalar == BF16:
        return narrow(wide.data.astype(np.float32))
    return TensorHandle(wide.data.astype(interpreter._get_np_dtype(target)), target.scalar)


def cast_float8(original: Operation) -> Operation:
    """Casts that start or end in a float8; those that round towards zero stay as they were."""

    def method(self: Any, source: Any, target: Any, rounding: Any) -> Any:
        here, there = source.dtype.scalar, target.scalar
        if here in FLOAT8:
            bits = torch.from_numpy(np.array(source.data)).view(FLOAT8[here])
            return self.cast_impl(TensorHandle(bits.float().numpy(), tl.float32), target)
        if there in FLOAT8 and rounding == interpreter._ir.ROUNDING_MODE.RTNE:
            wide = torch.from_numpy(np.array(widen(source).data, dtype=np.float32))
            most = torch.finfo(FLOAT8[there]).max  # a GPU saturates, torch gives NaN
            bits = wide.clamp(-most, most).to(FLOAT8[there]).view(torch.uint8)
            return TensorHandle(bits.numpy(), there)
        return original(self, source, target, rounding)

    return method


def dot(original: Operation) -> Operation:
    """Products of bfloat16 are exact in float32."""

    def method(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return original(self, widen(a), widen(b), *others)

    return method


def folded_in_float32(original: Operation) -> Operation:
    """Reductions and scans."""

    def method(self: Any, inputs: tuple[Any, ...]) -> Any:
        kinds = [each.dtype for each in inputs]
        wide = [self.to_tensor(widen(each.handle).data, tl.float32) if each.dtype == BF16 else each
                for each in inputs]  # fmt: skip
        folded = original(self, tuple(wide))
        if isinstance(folded, tl.tensor):
            folded = [folded]
        return [
            self.to_tensor(narrow(each.handle.data).data, BF16)
            if kind == BF16 and each.dtype == tl.float32
            else each
            for kind, each in zip(kinds, folded, strict=False)
        ]

    return method


def install() -> None:
    """Patch the interpreter of this process, once."""
    builder = InterpreterBuilder
    if builder.cast_impl is cast:
        return
    builder.cast_impl = cast
    builder.create_fp_to_fp = cast_float8(builder.create_fp_to_fp)
    builder.create_dot = dot(builder.create_dot)
    builder.get_bf16 = lambda self, value: narrow(np.array([value], dtype=np.float32))
    for name in ("binary_op", "unary_op", "create_fma", "create_clampf"):
        setattr(builder, name, in_float32(getattr(builder, name)))
    for fold in (ReduceOps, ScanOps):
        fold.apply_impl = folded_in_float32(fold.apply_impl)
