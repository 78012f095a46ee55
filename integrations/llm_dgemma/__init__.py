"""DiffusionGemma for the `llm` command line tool: `llm -m dgemma-tiny "Who are you?"`.

`llm` finds this by an entry point and imports it for every command, so it imports nothing heavy,
and whatever is wrong here becomes a warning: `llm` itself must go on working.
"""

import warnings
from collections.abc import Callable
from typing import Any

import llm

OLDEST = "0.32"
"""The first `llm` with the parts that answers are made of."""


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Offer `dgemma-tiny` (built in) and `dgemma` (the published model, or `DGEMMA_MODEL`)."""
    try:
        from llm_dgemma.models import pairs

        for model, async_model in pairs():
            register(model, async_model)
    except Exception as error:  # noqa: BLE001 - see above
        _warn(error)


def _warn(error: Exception) -> None:
    told: Any = f"the dgemma models are not available (they need llm>={OLDEST}): {error!r}"
    try:
        warnings.warn(told, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:  # warnings are errors here, and an error would end `llm`
        return
