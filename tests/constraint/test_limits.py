"""Constraints that are too large, too deep or too slow end in a typed error, soon."""

import threading
import time
from typing import Any

import pytest

from dgemma_backend.constraint import ConstraintCompiler, Hole, Limits
from dgemma_backend.errors import ConstraintError, SettingError
from dgemma_backend.messages import Tool, ToolChoice


@pytest.fixture
def compiler(tiny: ConstraintCompiler) -> ConstraintCompiler:
    """With the limits everybody gets."""
    return ConstraintCompiler(tiny.vocabulary, tiny.markers, cache_size=3)


@pytest.fixture
def hasty(tiny: ConstraintCompiler) -> ConstraintCompiler:
    """With less time, so that the tests take less."""
    return ConstraintCompiler(tiny.vocabulary, tiny.markers, limits=Limits(seconds=0.3))


def nested(levels: int) -> Any:
    schema: Any = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def tangled(definitions: int) -> Any:
    """Definitions that all refer to one another, twice."""
    names = [f"d{number}" for number in range(definitions)]
    options = [{"$ref": f"#/$defs/{name}"} for name in names]
    body = {"type": "object", "properties": {n: {"anyOf": options} for n in ("left", "right")}}
    return {"$defs": dict.fromkeys(names, body), "$ref": "#/$defs/d0"}


BIG = {"type": "object", "properties": {f"p{n:05}": {"type": "string"} for n in range(3000)}}
WIDE = {"enum": [f"{n * 7919 % 100003:x}{n}" for n in range(1500)]}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (BIG, "more than 65,536 bytes of JSON"),
        (nested(40), "nested deeper than 32 levels at #/items/items"),
        (nested(5000), "nested too deeply"),
        (tangled(6), "took longer than|more than 20000 states"),
        ({"type": "array", "items": {"maxLength": 60, "type": "string"}, "maxItems": 60},
         "took longer than|more than 20000 states"),
        ({"type": "string", "pattern": "(a|b)*a(a|b){20}"}, "more than 20000 states|longer than"),
        ({"type": "string", "pattern": "((((a{1,99}){1,99}){1,99}){1,99}){1,99}"},
         "more than 20000 states|longer than"),
        ({"type": "string", "pattern": "((a?){2000}){2000}"}, "longer than|states"),
        ({"type": "string", "pattern": "(" * 70 + ")" * 70}, "64 groups inside one another"),
        ({"type": "string", "pattern": "a{99999}"}, "more than 20000 repeats"),
        ({"const": float("nan")}, "is not JSON"),
        ({"const": object()}, "is not JSON"),
    ],
)  # fmt: skip
def test_what_passes_a_limit_is_refused_soon(
    hasty: ConstraintCompiler, schema: Any, message: str
) -> None:
    begun = time.thread_time()
    with pytest.raises(ConstraintError, match=message):
        hasty.schema(schema)
    assert time.thread_time() - begun < 4  # the limit itself is 2


def test_a_schema_that_is_larger_than_it_looks_is_refused(compiler: ConstraintCompiler) -> None:
    schema: Any = {"type": "null"}
    for _ in range(30):
        schema = {"type": "object", "properties": {"a": schema, "b": schema}}
    with pytest.raises(ConstraintError, match="bytes of JSON"):
        compiler.schema(schema)


def test_large_enums_are_compared_quickly(hasty: ConstraintCompiler) -> None:
    left, right = list(range(9000)), list(range(8990, 18000))
    constraint = hasty.schema({"allOf": [{"enum": left[4000:]}, {"enum": right[:4000]}]})
    assert constraint.automaton.states < 20


def test_a_schema_that_holds_itself_is_refused(compiler: ConstraintCompiler) -> None:
    schema: Any = {"type": "array"}
    schema["items"] = schema
    with pytest.raises(ConstraintError, match="nested too deeply, or holds itself"):
        compiler.schema(schema)


def test_many_choices_and_long_strings_are_within_the_limits(compiler: ConstraintCompiler) -> None:
    assert compiler.schema(WIDE).automaton.states > 1000
    assert compiler.schema({"type": "string", "maxLength": 1000}).automaton.states > 9000
    assert compiler.schema({"type": "array", "items": nested(20)}).automaton.states > 40


def test_holes_and_tools_have_limits_too(compiler: ConstraintCompiler) -> None:
    with pytest.raises(ConstraintError, match="more than 20000 states"):
        compiler.template([Hole(max_tokens=100_000)])
    with pytest.raises(ConstraintError, match="bytes of JSON"):
        compiler.tools([Tool("t", "", BIG)], ToolChoice("required"))


def test_limits_are_positive() -> None:
    with pytest.raises(SettingError, match="limit states must be greater than 0, got 0"):
        Limits(states=0)


def test_an_unlucky_schema_costs_the_next_one_nothing(hasty: ConstraintCompiler) -> None:
    with pytest.raises(ConstraintError):
        hasty.schema(tangled(6))
    assert hasty.schema({"type": "null"}).automaton.states > 1


def test_equal_constraints_are_compiled_once(compiler: ConstraintCompiler) -> None:
    first = compiler.schema({"type": "integer"})
    assert compiler.schema({"type": "integer"}) is first
    assert compiler.schema({"type": "integer"}, thought="optional") is not first
    assert compiler.regex("a") is not compiler.choices(["a"])
    assert compiler.schema({"type": "integer"}) is not first, "three are remembered, not four"
    assert compiler.template(["a", Hole(2)]) is compiler.template(("a", Hole(2)))


def test_members_in_another_order_are_another_constraint(compiler: ConstraintCompiler) -> None:
    a, b = {"type": "null"}, {"type": "boolean"}
    first = compiler.schema({"type": "object", "properties": {"a": a, "b": b}})
    assert compiler.schema({"type": "object", "properties": {"b": b, "a": a}}) is not first


def test_threads_share_a_compiler(tiny: ConstraintCompiler) -> None:
    compiler = ConstraintCompiler(tiny.vocabulary, tiny.markers, cache_size=2)
    found: list[int] = []

    def work(seed: int) -> None:
        for number in range(6):
            length = (seed + number) % 4 + 1
            automaton = compiler.regex(f"a{{{length}}}").automaton
            found.append(int(automaton.distance[automaton.start]) - length)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    assert all(each <= 1 for each in found)
