"""What the model can do, as LangChain's `model.profile` tells agents and middleware."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models.model_profile import ModelProfile

import dgemma_backend
from dgemma_backend.errors import DgemmaError

_ABILITIES: dict[str, Any] = {
    "open_weights": True,
    "text_inputs": True,
    "text_outputs": True,
    "image_inputs": False,
    "image_url_inputs": False,
    "image_tool_message": False,
    "audio_inputs": False,
    "video_inputs": False,
    "pdf_inputs": False,
    "tool_calling": True,
    "tool_choice": True,
    "tool_call_streaming": True,
    "structured_output": True,
    "reasoning_output": True,
    "reasoning_effort_levels": ["none", "low", "medium", "high"],
    "mid_conversation_system_messages": True,
    "temperature": True,
}


def profile_of(model: str, engine: Any) -> ModelProfile:
    """The profile of a model, from its config.json or open engine; no weight is read.

    `max_input_tokens` is missing for a model that is not on this machine. Abilities that the
    installed LangChain has no word for are left out.
    """
    if isinstance(engine, str):
        name, context = model, _context_of(model)
    else:
        name, context = engine.info.model, engine.info.context_length
    told = {"name": name, **_ABILITIES}
    if context is not None:
        told |= {"max_input_tokens": context, "max_output_tokens": context}
    known = ModelProfile.__annotations__
    profile: Any = {key: value for key, value in told.items() if key in known}
    return profile  # type: ignore[no-any-return]


def _context_of(model: str) -> int | None:
    try:
        return dgemma_backend.context_length(model)
    except DgemmaError:  # the call that needs the model says what is wrong with it
        return None
