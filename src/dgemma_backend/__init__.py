"""Run DiffusionGemma: text that settles out of noise, a canvas at a time.

    from dgemma_backend import open_engine

    with open_engine("tiny") as engine:
        print(engine.generate("Who are you?").text)

Every public name is imported when it is first used, so importing this package loads neither
torch nor a framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgemma_backend import errors, events
    from dgemma_backend.constraint.template import Hole
    from dgemma_backend.decisions import YES_NO, Decision, Score
    from dgemma_backend.infilling import Infill
    from dgemma_backend.messages import (
        Image,
        Message,
        Reply,
        ResponseFormat,
        Text,
        Tool,
        ToolCall,
        ToolChoice,
        UnsafeRawPrompt,
        Usage,
    )
    from dgemma_backend.plugins import provider
    from dgemma_backend.runtime.engine import Engine
    from dgemma_backend.runtime.opening import open_engine
    from dgemma_backend.runtime.scheduler import Limits
    from dgemma_backend.runtime.scripted_engine import ScriptedEngine
    from dgemma_backend.settings import GenerationSettings
    from dgemma_backend.weights.fingerprint import fingerprint
    from dgemma_backend.weights.sources import context_length

__version__ = "0.1.0"

__all__ = [
    "YES_NO",
    "Decision",
    "Engine",
    "GenerationSettings",
    "Hole",
    "Image",
    "Infill",
    "Limits",
    "Message",
    "Reply",
    "ResponseFormat",
    "Score",
    "ScriptedEngine",
    "Text",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "UnsafeRawPrompt",
    "Usage",
    "__version__",
    "context_length",
    "errors",
    "events",
    "fingerprint",
    "open_engine",
    "provider",
]

_HOME = {  # public name -> the module it lives in; a module of that very name is returned whole
    "Decision": "decisions",
    "Engine": "runtime.engine",
    "GenerationSettings": "settings",
    "Hole": "constraint.template",
    "Image": "messages",
    "Infill": "infilling",
    "Limits": "runtime.scheduler",
    "Message": "messages",
    "Reply": "messages",
    "ResponseFormat": "messages",
    "Score": "decisions",
    "ScriptedEngine": "runtime.scripted_engine",
    "Text": "messages",
    "Tool": "messages",
    "ToolCall": "messages",
    "ToolChoice": "messages",
    "UnsafeRawPrompt": "messages",
    "Usage": "messages",
    "YES_NO": "decisions",
    "context_length": "weights.sources",
    "errors": "errors",
    "events": "events",
    "fingerprint": "weights.fingerprint",
    "open_engine": "runtime.opening",
    "provider": "plugins",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOME[name]}")
    value = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = value  # the next look finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
