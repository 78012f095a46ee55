"""Our own kit over the embedded model: real tokens, real denoising, real constraints."""

from typing import Any

import pytest
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate

from llama_index.llms.dgemma import DiffusionGemma
from llama_index.llms.dgemma.conformance import LLMConformance
from llama_index.llms.dgemma.conformance.asked import Song

pytestmark = pytest.mark.slow


class TestTiny(LLMConformance):
    text_prompt = "Who are you?"
    other_prompt = "Tell me something."
    long_prompt = "Repeat: the old red house stands near the river and nobody lives there now"
    call_prompt = None  # it has never seen these tools; test_tiny.py asks for one it knows
    untyped_prompt = None
    twice_prompt = None
    song_prompt = "Make a song of {topic}."
    thinking = None  # it has not learnt to think
    raw_prompt = "<bos><|turn>user\nWho are you?<turn|>\n<|turn>model\n"
    secrets = ("sesame",)

    def make(self, **settings: Any) -> DiffusionGemma:
        settings.setdefault("max_tokens", 64)
        return DiffusionGemma(model="tiny", device="cpu", cache_salt="sesame", **settings)

    def weights(self, llm: Any) -> object:
        return llm._handle.open()

    def test_a_stream_of_objects_ends_with_a_whole_one(
        self, llm: FunctionCallingLLM, prompt: PromptTemplate
    ) -> None:
        found = list(llm.stream_structured_predict(Song, prompt, topic="rain"))
        assert isinstance(found[-1], Song)  # a short one fits a canvas, and is not seen to grow
