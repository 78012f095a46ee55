"""LangChain's own suites for chat models, as they come, over a model that does as it is told.

The model's answers are real protocol tokens, one per byte, in canvases so short that borders fall
into calls, thoughts and characters.
"""

import base64
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_dgemma import ChatDiffusionGemma

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatDiffusionGemma

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "tiny"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"LC_OUTPUT_VERSION": "v1"}, self.chat_model_params, {"output_version": "v1"}


class _Integration(ChatModelIntegrationTests):
    thinking = False
    canvas = 7

    @pytest.fixture(autouse=True)
    def _engines(self, obedient: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(obedient.defaults, "canvas_length", self.canvas)
        monkeypatch.setattr(httpx, "get", _local_picture)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatDiffusionGemma

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "first", "engine": "obedient", "thinking": self.thinking}

    @property
    def model_override_value(self) -> str:
        return "second"

    @property
    def supports_image_inputs(self) -> bool:
        return _can("image_inputs")

    @property
    def supports_image_tool_message(self) -> bool:
        return _can("image_tool_message")

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[Any, Any]:
        return {
            "invoke": ["reasoning_output", "cache_read_input"],
            "stream": ["reasoning_output", "cache_read_input"],
        }

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        params = {**self.chat_model_params, "thinking": True}
        return _asked(self.chat_model_class(**params), stream)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        return _asked(self.chat_model_class(**self.chat_model_params), stream)


def _can(ability: str) -> bool:
    """What the model says of itself."""
    profile = ChatDiffusionGemma(model="tiny").profile
    return bool(profile and profile.get(ability))


def _asked(model: BaseChatModel, stream: bool) -> AIMessage:
    if not stream:
        return model.invoke("hi")
    first, *rest = model.stream("hi")
    total = first
    for chunk in rest:
        total = total + chunk
    return total


def _local_picture(url: str, **_: Any) -> Any:
    """Instead of a download: the suite asks for one picture, and never looks at the answer."""
    assert url.endswith(".png"), url
    return httpx.Response(200, content=base64.b64decode(PIXEL))


class TestIntegration(_Integration):
    pass


class TestIntegrationThinking(_Integration):
    thinking = True
    canvas = 3
