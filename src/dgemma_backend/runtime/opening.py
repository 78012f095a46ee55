"""Opening an engine by the name of its model."""

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from dgemma_backend.errors import UnknownSettingError
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime.engine import Engine
from dgemma_backend.runtime.registry import registered_engine


def open_engine(
    model: str | Path = "tiny",
    *,
    engine: str = "auto",
    quantization: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    kernels: str = "auto",
    **options: Any,
) -> Engine:
    """An engine for a model: `"tiny"` (built in), a folder, or a hub id.

    The same arguments give the same live engine, so weights are loaded once in a process;
    it lives until it has been closed as often as it was opened. Copies of an engine are the
    engine itself, and pickle stores these arguments.
    `engine` names a kind that a plugin registered ("auto": in this process), `device` is "auto",
    "cpu" or "cuda[:N]", `dtype` "auto", "float32" or "bfloat16", `kernels` "auto" or a
    registered name. Raises `ModelNotFoundError`, `CheckpointError`, `ConfigError`,
    `UnknownPluginError` or `SettingError`.
    """
    plugins = Plugins.load()
    factory = plugins.engine("torch" if engine == "auto" else engine)
    chosen: dict[str, Any] = {
        "quantization": quantization,
        "device": device,
        "dtype": dtype,
        "kernels": kernels,
        **options,
    }
    _check_options(factory, chosen)

    def opener() -> Engine:
        made: Engine = factory(model, plugins=plugins, **chosen)
        made._recipe = (partial(open_engine, model, engine=engine, **chosen), ())
        return made

    # a fork has none of its parent's threads, so it gets an engine of its own
    key = (
        os.getpid(),
        engine,
        str(model),
        *sorted((name, repr(value)) for name, value in chosen.items()),
    )
    opened: Engine = registered_engine(key, opener)
    return opened


def _check_options(factory: Callable[..., Engine], chosen: Mapping[str, Any]) -> None:
    parameters = signature(factory).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    for name in chosen:
        if name not in parameters:
            known = [each for each in parameters if each not in ("model", "plugins", "self")]
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownSettingError(
                f"open_engine has no option {name!r}.{hint} There are: {', '.join(known)}."
            )
