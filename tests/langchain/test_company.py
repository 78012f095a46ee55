"""Many calls at once: batches, threads and tasks say what single calls say."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_core.runnables import RunnableParallel

from langchain_dgemma import ChatDiffusionGemma

Scripted = Callable[..., Any]
ASKED: list[Any] = [f"question {number}" for number in range(16)]


def model(**options: Any) -> ChatDiffusionGemma:
    return ChatDiffusionGemma(model="a", engine="obedient", **options)


async def test_batches_threads_and_tasks_equal_serial_calls(obedient: Any) -> None:
    serial = [model().invoke(asked).content for asked in ASKED]
    assert len(set(serial)) == 16
    assert [message.content for message in model().batch(ASKED)] == serial
    assert [message.content for message in await model().abatch(ASKED)] == serial
    with ThreadPoolExecutor(16) as threads:
        assert [m.content for m in threads.map(model().invoke, ASKED)] == serial
    tasks = await asyncio.gather(*(model().ainvoke(asked) for asked in ASKED))
    assert [message.content for message in tasks] == serial
    assert len(obedient.opened) == 1


def test_branches_of_a_chain_share_the_engine(obedient: Any) -> None:
    branches = RunnableParallel({name: model() for name in ("a", "b", "c")})
    assert {message.content for message in branches.invoke("hi").values()} == {"So be it: hi"}
    assert len(obedient.opened) == 1


def test_threads_that_come_at_once_open_one_engine(obedient: Any) -> None:
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda asked: model().invoke(asked), ASKED))
    assert len(obedient.opened) == 1


async def test_a_suspended_stream_holds_nobody_up(scripted: Scripted) -> None:
    engine = scripted(["one two three four five", "<turn|>"])
    suspended = ChatDiffusionGemma(engine=engine).astream("hi")
    await anext(suspended)
    assert (await ChatDiffusionGemma(engine=engine).ainvoke("hi")).text.endswith("five")
    sync = ChatDiffusionGemma(engine=engine).stream("hi")
    next(sync)
    assert ChatDiffusionGemma(engine=engine).invoke("hi").text.endswith("five")
    assert "".join([chunk.text async for chunk in suspended]).endswith("five")
