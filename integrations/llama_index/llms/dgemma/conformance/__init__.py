"""What LlamaIndex expects of an LLM that calls tools, as tests for any such LLM.

    from llama_index.llms.dgemma.conformance import LLMConformance

    class TestMyLLM(LLMConformance):
        def make(self, **settings):
            return MyLLM(**settings)

pytest runs the checks it inherits. `Asked` has what a subclass may say about its model: other
prompts, what the model was sent, how much work was done. A check that lacks what it needs is
skipped with the reason. Needs pytest and pytest-asyncio, and nothing of this package's models.
"""

from llama_index.llms.dgemma.conformance.answers import AnswerChecks
from llama_index.llms.dgemma.conformance.asked import Asked
from llama_index.llms.dgemma.conformance.objects import ObjectChecks
from llama_index.llms.dgemma.conformance.running import RunningChecks
from llama_index.llms.dgemma.conformance.tools import ToolChecks

__all__ = ["Asked", "LLMConformance"]


class LLMConformance(AnswerChecks, ToolChecks, ObjectChecks, RunningChecks):
    """Every check. Subclass it, name the class `Test...`, and say in `make` how to make the LLM."""
