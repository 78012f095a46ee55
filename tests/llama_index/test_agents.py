"""Agents over raw protocol tokens that are cut in the middle of words, calls and characters."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.workflow import Context, JsonPickleSerializer
from pydantic import BaseModel

from dgemma_backend import Message, ScriptedEngine
from dgemma_backend.runtime.request import Request
from llama_index.llms.dgemma import DiffusionGemma

# LlamaIndex uses parts of pydantic that are on their way out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CONTROL = re.compile(r'(<\|[a-z_]+>|<[a-z_]+\|>|<\|"\|>)')
Make = Callable[..., DiffusionGemma]


def raw(text: str) -> list[str]:
    """An answer spelt out, as control tokens and text."""
    return [piece for piece in CONTROL.split(text) if piece]


ROLLS = raw(
    "<|channel>thought\nZwei Würfe, bitte.\n<channel|>"
    + "<|tool_call>call:roll_die{sides:6}<tool_call|>" * 2
    + "<|tool_response>"
)


@pytest.fixture(params=[1, 3, 7, 64], ids=lambda canvas: f"canvas{canvas}")
def canvas(request: pytest.FixtureRequest) -> int:
    """Tokens, which are bytes here, in a canvas."""
    return int(request.param)


@pytest.fixture
def answering(
    canvas: int, new_engine: Callable[..., ScriptedEngine], in_turn: Callable[..., Any]
) -> Make:
    """An LLM that gives these answers, one after another."""

    def make(*answers: Any, **settings: Any) -> DiffusionGemma:
        return DiffusionGemma(engine=new_engine(in_turn(*answers), canvas=canvas), **settings)

    return make


class Dice:
    """A tool that remembers its calls."""

    def __init__(self) -> None:
        self.thrown: list[int] = []

    def roll_die(self, sides: int) -> int:
        """Roll a die."""
        assert isinstance(sides, int)
        self.thrown.append(sides)
        return len(self.thrown) + 2


async def test_an_agent_calls_one_tool_twice_in_parallel(answering: Make) -> None:
    dice = Dice()
    last = ["Sieben.\n", "<channel|>", "Eine 3 und eine 4 — schön.", "<turn|>"]
    llm = answering(ROLLS, last, thinking=True)  # behind results a prompt opens the thought itself
    handler = FunctionAgent(tools=[dice.roll_die], llm=llm).run("Roll two dice.")
    events = [event async for event in handler.stream_events()]
    assert str(await handler) == "Eine 3 und eine 4 — schön."
    assert dice.thrown == [6, 6]
    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert len({result.tool_id for result in results}) == 2
    assert sorted(str(result.tool_output) for result in results) == ["3", "4"]
    streamed = [event for event in events if isinstance(event, AgentStream)]
    assert "".join(event.delta for event in streamed) == "Eine 3 und eine 4 — schön."
    thoughts = "".join(event.thinking_delta or "" for event in streamed)
    assert thoughts == "Zwei Würfe, bitte.Sieben."
    assert len([event for event in streamed if event.tool_calls]) >= 1


async def test_results_go_back_under_the_name_of_their_tool(answering: Make) -> None:
    llm = answering(ROLLS, ["Done.", "<turn|>"])
    await FunctionAgent(tools=[Dice().roll_die], llm=llm).run("Roll two dice.")
    prompt = llm.engine.prompt_of()
    assert prompt.count("<|tool_call>call:roll_die{sides:6}<tool_call|>") == 2
    assert prompt.count("<|tool_response>response:roll_die{value:") == 2
    assert prompt.endswith("<tool_response|>")  # the model's turn is left open


async def test_an_agent_without_streaming_does_the_same(answering: Make) -> None:
    dice = Dice()
    llm = answering(ROLLS, ["A 3 and a 4.", "<turn|>"])
    agent = FunctionAgent(tools=[dice.roll_die], llm=llm, streaming=False)
    assert str(await agent.run("Roll two dice.")) == "A 3 and a 4."
    assert dice.thrown == [6, 6]


async def test_a_call_that_cannot_be_read_is_told_to_the_model_and_not_run(answering: Make) -> None:
    dice = Dice()
    broken = ["<|tool_call>", "call:roll_die{sides:", "<turn|>"]
    llm = answering(broken, ["I am sorry.", "<turn|>"])
    assert str(await FunctionAgent(tools=[dice.roll_die], llm=llm).run("Roll.")) == "I am sorry."
    assert dice.thrown == []
    assert "could not be read" in llm.engine.prompt_of()


async def test_an_unknown_tool_and_bad_arguments_get_the_model_another_turn(
    answering: Make,
) -> None:
    dice = Dice()
    llm = answering(
        raw("<|tool_call>call:fly{}<tool_call|><|tool_response>"),
        raw('<|tool_call>call:roll_die{sides:<|"|>many<|"|>}<tool_call|><|tool_response>'),
        ["I cannot.", "<turn|>"],
    )
    assert str(await FunctionAgent(tools=[dice.roll_die], llm=llm).run("Fly.")) == "I cannot."
    assert len(llm.engine.requests) == 3
    assert dice.thrown == []


async def test_a_react_agent_reads_its_own_format(answering: Make) -> None:
    dice = Dice()
    act = 'Thought: I need a die.\nAction: roll_die\nAction Input: {"sides": 6}'
    done = "Thought: I can answer without using any more tools.\nAnswer: It shows 3."
    llm = answering([act, "<turn|>"], [done, "<turn|>"])
    assert str(await ReActAgent(tools=[dice.roll_die], llm=llm).run("Roll a die.")) == "It shows 3."
    assert dice.thrown == [6]
    assert "Observation: 3" in llm.engine.prompt_of()


async def test_a_workflow_hands_over_from_one_agent_to_another(answering: Make) -> None:
    dice = Dice()
    to_player = '{to_agent:<|"|>player<|"|>,reason:<|"|>dice<|"|>}'
    llm = answering(
        raw(f"<|tool_call>call:handoff{to_player}<tool_call|><|tool_response>"),
        ROLLS,
        ["A 3 and a 4.", "<turn|>"],
    )
    host = FunctionAgent(name="host", description="Greets.", llm=llm, can_handoff_to=["player"])
    player = FunctionAgent(name="player", description="Plays dice.", llm=llm, tools=[dice.roll_die])
    workflow = AgentWorkflow(agents=[host, player], root_agent="host")
    output: Any = await workflow.run("I want to play.")
    assert (str(output), output.current_agent_name) == ("A 3 and a 4.", "player")
    assert dice.thrown == [6, 6]


class Throw(BaseModel):
    """A throw of dice."""

    first: int
    second: int


async def test_an_agent_answers_as_an_object(answering: Make) -> None:
    llm = answering(
        ROLLS, ["A 3 and a 4.", "<turn|>"], ['{"first": 3, ', '"second": 4}', "<turn|>"]
    )
    agent = FunctionAgent(tools=[Dice().roll_die], llm=llm, output_cls=Throw)
    output: Any = await agent.run("Roll two dice.")
    assert output.get_pydantic_model(Throw) == Throw(first=3, second=4)
    asked = llm.engine.requests[-1]
    assert asked.response_format is not None
    assert asked.response_format.value["title"] == "Throw"


async def test_cancelling_a_run_stops_the_engine(new_engine: Callable[..., ScriptedEngine]) -> None:
    engine = new_engine(lambda request: Message.assistant("On and on. " * 200), step_seconds=0.002)
    handler = FunctionAgent(tools=[Dice().roll_die], llm=DiffusionGemma(engine=engine)).run("Talk.")
    while engine.canvases < 3:
        await asyncio.sleep(0.005)
    await handler.cancel_run()
    await asyncio.sleep(0.05)
    (request,) = engine.requests
    assert request.cancelled.is_set()
    canvases = engine.canvases
    await asyncio.sleep(0.05)
    assert engine.canvases == canvases


async def test_a_context_is_stored_as_json_and_goes_on(answering: Make) -> None:
    def remembering(request: Request) -> Message:
        told = [m.text for m in request.messages if m.role == "user"]
        return Message.assistant(f"You told me: {' / '.join(told)}")

    llm = answering(ROLLS, ["A 3 and a 4.", "<turn|>"], thinking=True)
    agent = FunctionAgent(tools=[Dice().roll_die], llm=llm)
    context = Context(agent)
    await agent.run("Roll two dice.", ctx=context)
    stored = context.to_dict(serializer=JsonPickleSerializer())
    llm.engine._script = remembering
    again = Context.from_dict(agent, stored, serializer=JsonPickleSerializer())
    output = await agent.run("What did I say?", ctx=again)
    assert str(output) == "You told me: Roll two dice. / What did I say?"
    assert "call:roll_die" in llm.engine.prompt_of()


async def test_the_first_call_can_be_forced(answering: Make) -> None:
    llm = answering(ROLLS, ["Done.", "<turn|>"])
    agent = FunctionAgent(tools=[Dice().roll_die], llm=llm, initial_tool_choice="roll_die")
    await agent.run("Roll.")
    first, second = (request.tool_choice for request in llm.engine.requests)
    assert (first.mode, first.name) == ("named", "roll_die")
    assert second.mode == "auto"


async def test_a_run_that_is_stopped_early_ends_with_a_system_message(answering: Make) -> None:
    llm = answering(ROLLS, ["I have to stop.", "<turn|>"])
    agent = FunctionAgent(tools=[Dice().roll_die], llm=llm, early_stopping_method="generate")
    assert str(await agent.run("Roll.", max_iterations=1)) == "I have to stop."
    assert llm.engine.requests[-1].messages[-1].role == "system"
