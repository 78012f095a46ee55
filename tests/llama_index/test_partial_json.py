"""Objects that are still being written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index.llms.dgemma.partial_json import partial_json

NUMBERS = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False, width=32)
WORDS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
VALUES = st.recursive(
    WORDS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3)
)
OBJECTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)


def begins(part: Any, whole: Any) -> bool:
    """Whether `whole` may come of `part` by writing on."""
    if isinstance(part, str) and isinstance(whole, str):
        return whole.startswith(part)
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(begins, part, whole))
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and begins(value, whole[name]) for name, value in part.items())
    return bool(part == whole)


@given(value=OBJECTS, ascii=st.booleans(), data=st.data())
def test_any_cut_of_an_object_gives_a_beginning_of_it(
    value: dict[str, Any], ascii: bool, data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=data.draw(st.sampled_from([None, 1])))
    cut = data.draw(st.integers(1, len(text)))
    found = partial_json(text[:cut])
    assert begins(found, value)
    found_json = json.dumps(found, ensure_ascii=False)
    found_json.encode("utf-8", "strict" if ascii is False else "surrogatepass")
    if cut == len(text):
        assert found == value


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ('{"a', {}),
        ('{"a":', {}),
        ('{"a": "Bl', {"a": "Bl"}),
        ('{"a": "Bl\\', {"a": "Bl"}),
        ('{"a": "Bl\\u00', {"a": "Bl"}),
        ('{"a": "\\ud83d', {"a": ""}),
        ('{"a": 12', {}),
        ('{"a": 12,', {"a": 12}),
        ('{"a": tru', {}),
        ('{"a": [1, {"b": "x', {"a": [1, {"b": "x"}]}),
        ("  ", None),
    ],
)
def test_what_is_known_of_unfinished_json(text: str, known: Any) -> None:
    assert partial_json(text) == known


@pytest.mark.parametrize("text", ["{a: 1}", "Sorry, no."])
def test_other_text_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        partial_json(text)
