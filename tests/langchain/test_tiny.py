"""The adapter over the embedded model: real tokens, real denoising."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool

from langchain_dgemma import ChatDiffusionGemma

ROOT = Path(__file__).parents[2]
PROMPT = ChatPromptTemplate([("user", "Context: {context}\n\nQuestion: {question}")])
ASKED = {
    "context": "The Larkfeld Museum was founded by Odette Marsh.",
    "question": "Who founded the Larkfeld Museum?",
}
FOUNDED = "It was founded by Odette Marsh."


@pytest.fixture(scope="module")
def tiny() -> ChatDiffusionGemma:
    return ChatDiffusionGemma(model="tiny", temperature=0, device="cpu")


async def test_a_chain_is_answered_the_same_way_however_it_is_asked(
    tiny: ChatDiffusionGemma,
) -> None:
    chain = PROMPT | tiny | StrOutputParser()
    assert chain.invoke(ASKED) == FOUNDED
    assert "".join(chain.stream(ASKED)) == FOUNDED
    assert await chain.ainvoke(ASKED) == FOUNDED
    assert "".join([text async for text in chain.astream(ASKED)]) == FOUNDED
    assert chain.batch([ASKED] * 3) == [FOUNDED] * 3


def test_models_with_the_same_name_share_their_weights(tiny: ChatDiffusionGemma) -> None:
    twin = ChatDiffusionGemma(model="tiny", device="cpu", max_tokens=4)
    assert twin._open_engine({}) is tiny._open_engine({})
    message = twin.invoke(PROMPT.invoke(ASKED))
    assert message.response_metadata["finish_reason"] == "length"
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == 4


def test_a_pickled_model_opens_its_engine_anew_and_shares_it(tiny: ChatDiffusionGemma) -> None:
    engine = tiny._open_engine({})
    twin = pickle.loads(pickle.dumps(tiny))  # noqa: S301
    assert twin._engines == {}
    assert twin._open_engine({}) is engine


def test_the_same_seed_gives_the_same_answer(tiny: ChatDiffusionGemma) -> None:
    texts = {tiny.invoke("Tell me something.", temperature=1.0, seed=5).text for _ in range(3)}
    assert len(texts) == 1


def test_the_model_calls_a_tool_and_answers_from_its_result(tiny: ChatDiffusionGemma) -> None:
    @tool
    def gather_pebble(owner: str) -> str:
        """Gather a pebble."""
        return "Granada" if owner else ""

    bound = tiny.bind_tools([gather_pebble])
    asked = HumanMessage('Call gather_pebble with owner "Odette".')
    called = bound.invoke([asked])
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("gather_pebble", {"owner": "Odette"})
    assert called.response_metadata["finish_reason"] == "tool_calls"
    result = gather_pebble.invoke(call)
    assert isinstance(result, ToolMessage)
    assert bound.invoke([asked, called, result]).text == "The result is Granada."


@pytest.mark.slow
def test_the_demo_answers_its_questions_and_says_what_they_cost() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/langchain_chain.py")],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    summary = done.stdout.strip().rpartition("\n\n")[2].splitlines()
    answers = [
        "It is in Salzburg.",
        "It was founded by Odette Marsh.",
        "It was opened in 1867.",
        "It is led by Magnus Pinto.",
        "A ticket costs 13 euros.",
        "It is closed on Tuesday.",
    ]
    assert len(summary) == len(answers)
    assert all("tokens per forward" in line for line in summary)
    right = [line.endswith(answer) for line, answer in zip(summary, answers, strict=True)]
    assert sum(right) >= 5, summary  # other processors round otherwise
    assert "canvas 1  step  1/" in done.stdout
    assert "\x1b" not in done.stdout
