"""DiffusionGemma as a LlamaIndex LLM.

from llama_index.llms.dgemma import DiffusionGemma

llm = DiffusionGemma(model="tiny")
print(llm.complete("Hello!"))

Importing this loads neither LlamaIndex nor torch; the names below are loaded when first used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dgemma_backend.errors import MissingDependencyError

if TYPE_CHECKING:
    from llama_index.llms.dgemma.base import DiffusionGemma
    from llama_index.llms.dgemma.drafts import DraftEvent
    from llama_index.llms.dgemma.failures import InvalidAnswerError, NoToolCallError

__all__ = ["DiffusionGemma", "DraftEvent", "InvalidAnswerError", "NoToolCallError"]

_HOME = {
    "DiffusionGemma": "base",
    "DraftEvent": "drafts",
    "InvalidAnswerError": "failures",
    "NoToolCallError": "failures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("llama_index.core") is None:
        raise MissingDependencyError(
            f"{name} needs llama-index-core. Install it: pip install 'dgemma-backend[llama-index]'"
        )
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next look finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
