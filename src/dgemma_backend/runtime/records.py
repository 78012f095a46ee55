"""What an engine says of itself and of the requests it has served."""

from dataclasses import dataclass

from dgemma_backend.messages import Reply


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is and runs on. Lengths are in tokens."""

    engine: str
    model: str
    folder: str
    device: str
    dtype: str
    kernels: str
    quantization: str | None
    canvas_length: int
    context_length: int
    vocabulary: int
    parameters: int
    weight_bytes: int


@dataclass(frozen=True)
class RequestRecord:
    """What observers learn when a request is over: its reply, or the error that ended it.

    A reader that leaves early shows as `GeneratorExit`.
    """

    model: str
    seed: int
    prompt_tokens: int
    reply: Reply | None
    error: BaseException | None
