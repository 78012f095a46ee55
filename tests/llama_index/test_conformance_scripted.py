"""Our own kit over the scripted engine, whose canvases cut words, calls and characters."""

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
from llama_index.core.llms.function_calling import FunctionCallingLLM

from dgemma_backend import ScriptedEngine
from llama_index.llms.dgemma import DiffusionGemma
from llama_index.llms.dgemma.conformance import LLMConformance


class TestScripted(LLMConformance):
    raw_prompt = "<bos><|turn>user\nGuess.<turn|>\n<|turn>model\n"
    secrets = ("sesame",)
    slow = {"slow": True}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _engine(self, new_engine: Callable[..., ScriptedEngine]) -> None:
        self.engine = new_engine()

    def make(self, slow: bool = False, **settings: Any) -> DiffusionGemma:
        self.engine.step_seconds = 0.002 if slow else 0.0
        return DiffusionGemma(engine=self.engine, cache_salt="sesame", **settings)

    def sent(self) -> str:
        return self.engine.prompt_of()

    def work_done(self) -> int:
        return self.engine.canvases

    def weights(self, llm: Any) -> object:
        return llm._handle.open()

    def test_a_pickle_is_small_and_works(self, llm: FunctionCallingLLM) -> None:
        with pytest.raises(TypeError, match="not made by open_engine"):  # no engine is left out
            ForkingPickler.dumps(llm)
