"""The adapter over the embedded model: one copy of the weights, agents, objects, memory."""

import asyncio
import copy
import gc
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
from llama_index.core import Document, Settings, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llama_index.llms.dgemma import DiffusionGemma

pytestmark = [
    pytest.mark.slow,
    # LlamaIndex uses parts of pydantic that are on their way out
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

QUESTION = "Context: The Larkfeld Museum was founded by Odette Marsh.\n\nQuestion: Who founded it?"


@pytest.fixture(scope="module")
def tiny() -> DiffusionGemma:
    return DiffusionGemma(model="tiny", device="cpu", temperature=0)


def test_two_llms_of_one_model_hold_one_copy_of_the_weights(tiny: DiffusionGemma) -> None:
    engine = tiny._handle.open()
    twin = DiffusionGemma(model="tiny", device="cpu", max_tokens=4)
    copied = copy.deepcopy(tiny)
    stored = pickle.loads(pickle.dumps(tiny))  # noqa: S301
    assert {id(each._handle.open()) for each in (twin, copied, stored)} == {id(engine)}
    for each in (twin, copied, stored):
        each.close()
    assert not engine.closed  # the first one still uses it
    assert tiny.complete("Who are you?").text


def test_close_gives_the_weights_back_and_a_later_call_loads_them_again() -> None:
    with DiffusionGemma(model="tiny", device="cpu", dtype="bfloat16") as llm:
        text = llm.complete("Who are you?", seed=0).text
        engine = llm._handle.open()
    assert engine.closed
    assert llm.complete("Who are you?", seed=0).text == text
    llm.close()


def test_a_missing_model_is_said_at_the_first_call() -> None:
    llm = DiffusionGemma(model="/no/such/folder")
    with pytest.raises(LookupError, match="there is no model '/no/such/folder'"):
        llm.complete("Hi")


async def test_an_agent_uses_a_real_tool() -> None:
    gathered: list[str] = []

    def gather_pebble(owner: str) -> str:
        """Gather a pebble."""
        gathered.append(owner)
        return "Granada"

    llm = DiffusionGemma(model="tiny", device="cpu", temperature=0)
    tool = FunctionTool.from_defaults(gather_pebble, description="Gather a pebble.")
    output = await FunctionAgent(tools=[tool], llm=llm).run(
        'Call gather_pebble with owner "Odette".'
    )
    assert gathered == ["Odette"]
    assert "Granada" in str(output)


class Person(BaseModel):
    name: str
    age: int


async def test_objects_are_valid_however_they_are_asked_for(tiny: DiffusionGemma) -> None:
    prompt = PromptTemplate("Extract name and age as JSON: {text}")
    text = "Odette Marsh is 41 years old."
    how = {"llm_kwargs": {"max_tokens": 64}, "text": text}
    found = [
        tiny.structured_predict(Person, prompt, **how),
        await tiny.astructured_predict(Person, prompt, **how),
        list(tiny.stream_structured_predict(Person, prompt, **how))[-1],
        [each async for each in await tiny.astream_structured_predict(Person, prompt, **how)][-1],
    ]
    assert all(isinstance(each, Person) for each in found)
    assert len({repr(each) for each in found}) == 1


def test_a_query_engine_answers_from_a_document(tiny: DiffusionGemma) -> None:
    Settings.llm = tiny
    document = Document(text="The Larkfeld Museum was founded by Odette Marsh.")
    index = SummaryIndex.from_documents([document])
    response = index.as_query_engine().query("Who founded the Larkfeld Museum?")
    assert response.source_nodes[0].text == document.text
    assert str(response)


def resident() -> int:
    """Bytes of memory in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
async def test_fifty_rounds_of_query_cancel_query_leave_memory_flat(tiny: DiffusionGemma) -> None:
    asked = [ChatMessage(role="user", content=QUESTION)]

    async def around() -> None:
        await tiny.achat(asked, max_tokens=8)
        task = asyncio.create_task(tiny.achat(asked))
        await asyncio.sleep(0.02)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        tiny.chat(asked, max_tokens=8)

    for _ in range(8):  # caches and arenas are filled once
        await around()
    gc.collect()
    before = resident()
    for _ in range(50):
        await around()
    gc.collect()
    assert resident() - before < 4 * 2**20
