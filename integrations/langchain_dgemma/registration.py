"""`init_chat_model("dgemma:...")` and deep agents, for programs that name models by a string."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dgemma_backend.errors import MissingDependencyError, PluginError
from langchain_dgemma.chunks import PROVIDER


def register() -> None:
    """Teach `langchain.chat_models.init_chat_model` the provider "dgemma".

    Afterwards `init_chat_model("dgemma:tiny")` and `create_agent("dgemma:tiny", ...)` work in
    this process. LangChain has no public way for others to add a provider, so this writes into
    its private table `_BUILTIN_PROVIDERS`, and does so only when called. Calling it again changes
    nothing. Raises MissingDependencyError without the package `langchain`, and PluginError if
    this version of it keeps its providers elsewhere: pass a `ChatDiffusionGemma` then.
    """
    try:
        base: Any = import_module("langchain.chat_models.base")
    except ImportError as error:
        raise MissingDependencyError(
            "register() is for init_chat_model of the package langchain, which is not installed: "
            "pip install langchain"
        ) from error
    providers = getattr(base, "_BUILTIN_PROVIDERS", None)
    if not isinstance(providers, dict):
        raise PluginError(
            "this version of langchain keeps its providers elsewhere. Pass the model itself: "
            "ChatDiffusionGemma(...)"
        )
    providers[PROVIDER] = ("langchain_dgemma", "ChatDiffusionGemma", _made)


def _made(cls: Any, **arguments: Any) -> Any:
    return cls(**arguments)


def register_for_deep_agents() -> None:
    """Let `create_deep_agent(model="dgemma:...")` find the provider by itself.

    deepagents calls this through the entry point group `deepagents.provider_profiles`.
    """
    profiles: Any = import_module("deepagents")
    profiles.register_provider_profile(
        PROVIDER, profiles.ProviderProfile(pre_init=lambda _: register())
    )
