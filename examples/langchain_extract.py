"""Sentences become objects of a pydantic class: guaranteed by constraint, whatever the model.

    pip install 'dgemma-backend[langchain]'
    python examples/langchain_extract.py
    python examples/langchain_extract.py --model google/diffusiongemma-26B-A4B-it

That there is a name and a whole number of years is certain; that they are right is the model's
affair. The schema stands in the prompt too; for the built-in model, which was trained to be told
the fields by name, it is left out.
"""

import argparse

from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, Field

from langchain_dgemma import ChatDiffusionGemma


class Person(BaseModel):
    """A person in a text."""

    name: str = Field(description="given name and family name")
    age: int = Field(ge=0, le=130, description="in years")
    city: str = Field(description="where the person lives")


TEXTS = [
    "Odette Marsh is 41 years old and lives in Salzburg.",
    "Magnus Pinto, 27, comes from Granada.",
    "My name is Ines Solberg, I am 63 years old and I live in Porto.",
]
PROMPT = ChatPromptTemplate([("user", "Extract name, age and city as JSON.\n{text}")])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny", help="tiny, a folder, or a hub id")
    name = parser.parse_args(arguments).model
    model = ChatDiffusionGemma(model=name, temperature=0, schema_in_prompt=name != "tiny")
    chain = PROMPT | model.with_structured_output(Person)
    for text, person in zip(TEXTS, chain.batch([{"text": text} for text in TEXTS]), strict=True):
        assert isinstance(person, Person)
        print(f"{text}\n  {person!r}")


if __name__ == "__main__":
    main()
