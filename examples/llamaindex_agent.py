"""An agent with a tool, watched while it works, and an object read out of a sentence.

    python examples/llamaindex_agent.py
    python examples/llamaindex_agent.py --model google/diffusiongemma-26B-A4B-it

The built-in model is tiny: it calls a tool that the request names, and tells its result.
"""

import argparse
import asyncio

from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from llama_index.llms.dgemma import DiffusionGemma


def gather_pebble(owner: str) -> str:
    """Gather a pebble."""
    return "Granada" if owner else ""


class Person(BaseModel):
    name: str
    age: int


async def run_agent(llm: DiffusionGemma, request: str) -> None:
    """Print what the agent says and calls, as it happens."""
    handler = FunctionAgent(tools=[gather_pebble], llm=llm).run(request)
    print(f"> {request}")
    async for event in handler.stream_events():
        if isinstance(event, AgentStream) and event.delta:
            print(event.delta, end="", flush=True)
        elif isinstance(event, ToolCallResult):
            print(f"  {event.tool_name}({event.tool_kwargs}) -> {event.tool_output}")
    await handler
    print()


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--model", default="tiny", help="tiny, a folder, or a hub id")
    llm = DiffusionGemma(model=arguments.parse_args().model, temperature=0)
    await run_agent(llm, 'Call gather_pebble with owner "Odette".')
    prompt = PromptTemplate("Extract name and age as JSON: {text}")
    text = "Odette Marsh is 41 years old."
    print(f"> {text}\n{await llm.astructured_predict(Person, prompt, text=text)!r}")


if __name__ == "__main__":
    asyncio.run(main())
