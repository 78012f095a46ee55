"""An agent with tools: the model calls one, its result goes back, the model answers.

    pip install 'dgemma-backend[langchain]' langchain
    python examples/langchain_agent.py
    python examples/langchain_agent.py --model google/diffusiongemma-26B-A4B-it

The built-in model is tiny: it knows one call at a time, asked for in plain words.
"""

import argparse
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool

from langchain_dgemma import ChatDiffusionGemma

TABLES: dict[int, str] = {}  # number -> name


@tool
def book_table(guests: int, name: str) -> int:
    """Book a table in a restaurant."""
    number = 10 * guests + len(TABLES)
    TABLES[number] = name
    return number


@tool
def set_alarm(time: str) -> int:
    """Set an alarm clock."""
    return len(time)


QUESTIONS = [
    "Book a table for 4 people for Odette Marsh.",
    "Wake me at 6:30 please.",
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny", help="tiny, a folder, or a hub id")
    model = ChatDiffusionGemma(model=parser.parse_args(arguments).model, temperature=0)
    agent: Any = create_agent(model, [book_table, set_alarm])
    for question in QUESTIONS:
        print(f"? {question}")
        for message in agent.invoke({"messages": [("user", question)]})["messages"][1:]:
            if isinstance(message, ToolMessage):
                print(f"  result: {message.text}")
            elif isinstance(message, AIMessage) and message.tool_calls:
                for call in message.tool_calls:
                    print(f"  call: {call['name']} {call['args']}")
            else:
                print(f"  {message.text}")


if __name__ == "__main__":
    main()
