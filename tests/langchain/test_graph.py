"""LangGraph: streaming modes, idle timeouts, and a checkpoint resumed by another process."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_dgemma import ChatDiffusionGemma

pytest.importorskip("langgraph", reason="graphs come with the package langgraph")

from langgraph.graph import END, START, MessagesState, StateGraph

Scripted = Callable[..., Any]


def graph_of(model: Any, **options: Any) -> Any:
    async def ask(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("ask", ask, **options)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph.compile()


ASKED: Any = {"messages": [HumanMessage("hi")]}
HELLO = ["Hello there", "<turn|>"]


async def test_a_graph_streams_the_messages_of_a_model_it_only_invokes(scripted: Scripted) -> None:
    graph = graph_of(ChatDiffusionGemma(engine=scripted(HELLO)))
    texts = [chunk.text async for chunk, _ in graph.astream(ASKED, stream_mode="messages")]
    assert texts == ["Hello t", "here", ""]


async def test_history_in_content_blocks_is_understood_again(scripted: Scripted) -> None:
    thought = ["<|channel>", "thought\nHm.\n", "<channel|>", "Yes.", "<turn|>"]
    engine = scripted(thought)
    graph = graph_of(ChatDiffusionGemma(engine=engine, thinking=True, output_version="v1"))
    state = await graph.ainvoke(ASKED)
    again = await graph.ainvoke({"messages": [*state["messages"], HumanMessage("Really?")]})
    assert isinstance(again["messages"][-1], AIMessage)
    assert "<|turn>model\nYes.<turn|>" in engine.prompt_of()


async def test_signs_of_life_keep_a_slow_node_from_timing_out(scripted: Scripted) -> None:
    from langgraph.errors import NodeTimeoutError
    from langgraph.types import TimeoutPolicy

    engine = scripted(["word", "<turn|>"])
    engine.step_seconds = 0.4  # of a canvas's two
    policy = {"timeout": TimeoutPolicy(idle_timeout=0.5)}
    alive = graph_of(ChatDiffusionGemma(engine=engine, heartbeat=0.1), **policy)
    assert (await alive.ainvoke(ASKED))["messages"][-1].text == "word"
    silent = graph_of(ChatDiffusionGemma(engine=engine, heartbeat=None), **policy)
    with pytest.raises(NodeTimeoutError):
        await silent.ainvoke(ASKED)
    assert engine.running == 0


async def test_drafts_reach_the_custom_stream_through_its_writer(scripted: Scripted) -> None:
    from langgraph.config import get_stream_writer

    model = ChatDiffusionGemma(engine=scripted(HELLO))

    async def ask(state: MessagesState) -> Any:
        answer = await model.ainvoke(state["messages"], on_draft=get_stream_writer())
        return {"messages": [answer]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    drafts = [draft async for draft in graph.compile().astream(ASKED, stream_mode="custom")]
    assert [(draft.canvas, draft.step) for draft in drafts] == [(0, 1), (0, 2), (1, 1), (1, 2)]


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_drafts_are_forwarded_by_the_events_of_a_graph(scripted: Scripted) -> None:
    model = ChatDiffusionGemma(engine=scripted(HELLO), drafts="events", drafts_per_second=10**6)
    run = await graph_of(model).astream_events(ASKED, version="v3")
    seen = [event["event"] async for message in run.messages async for event in message]
    assert seen.count("dgemma-draft") == 4
    assert (await run.output())["messages"][-1].text == "Hello there"


RESUMED = """
    import sys
    from dgemma_backend import ScriptedEngine
    from langchain_core.messages import HumanMessage
    from langchain_dgemma import ChatDiffusionGemma
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import START, MessagesState, StateGraph

    engine = ScriptedEngine(lambda request: ["two", "<turn|>"])
    model = ChatDiffusionGemma(engine=engine)
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "ask")
    with SqliteSaver.from_conn_string(sys.argv[1]) as saver:
        compiled = graph.compile(checkpointer=saver)
        asked = {"messages": [HumanMessage("tell me two")]}
        compiled.invoke(asked, {"configurable": {"thread_id": "1"}})
    print(engine.prompt_of())
"""


@pytest.mark.slow
def test_a_graph_with_a_sqlite_checkpoint_is_resumed_in_a_new_process(
    scripted: Scripted, tmp_path: Path
) -> None:
    sqlite = pytest.importorskip("langgraph.checkpoint.sqlite", reason="is not installed")
    database = str(tmp_path / "checkpoints.sqlite")
    model = ChatDiffusionGemma(engine=scripted(["one", "<turn|>"]))
    graph: Any = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "ask")
    with sqlite.SqliteSaver.from_conn_string(database) as saver:
        asked = {"messages": [HumanMessage("tell me one")]}
        graph.compile(checkpointer=saver).invoke(asked, {"configurable": {"thread_id": "1"}})
    done = subprocess.run(
        [sys.executable, "-c", dedent(RESUMED), database],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "tell me one<turn|>\n<|turn>model\none<turn|>\n<|turn>user\ntell me two" in done.stdout
