"""One kernel in one shipped configuration, as the ahead-of-time compile check needs it."""

from typing import Any, NamedTuple


class CompileCase(NamedTuple):
    """What `triton.compile` needs to know of a launch at the real model's sizes."""

    name: str
    kernel: Any  # a triton.jit function
    signature: dict[str, str]  # argument -> Triton type, such as "*bf16" or "i32"
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    matmul: bool  # a matrix instruction has to appear in what was compiled
