"""What has been encoded once is not encoded again, and no answer changes for it."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend import Engine, Message, Tool, ToolChoice, open_engine
from dgemma_backend.runtime.prefix_store import PrefixStore
from dgemma_backend.runtime.scheduler import Limits

WORDS = "the old river is green and nobody knows why a small house stands there".split()


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Engine]:
    with open_engine("tiny", device="cpu", limits=Limits(prefix_bytes=0)) as engine:
        yield engine


@pytest.fixture
def fresh() -> Iterator[Engine]:
    with open_engine("tiny", device="cpu", limits=Limits(prefix_bytes=1 << 26)) as engine:
        yield engine


def chat(rng: Random, turns: int) -> list[Message]:
    said: list[Message] = [Message.system(" ".join(rng.choices(WORDS, k=30)))]
    for _ in range(turns):
        said += [
            Message.user(" ".join(rng.choices(WORDS, k=rng.randint(3, 25)))),
            Message.assistant(" ".join(rng.choices(WORDS, k=rng.randint(3, 25)))),
        ]
    return [*said, Message.user(rng.choice(WORDS))]


@pytest.mark.slow
def test_answers_are_the_same_with_and_without_kept_prefixes(
    fresh: Engine, forgetful: Engine
) -> None:
    rng, reused = Random(5), 0
    history = chat(rng, 12)
    for number in range(24):
        cut = 2 * rng.randint(0, 12) + 2
        settings = {"seed": number, "max_tokens": 48}
        asked = [*history[:cut], *([] if rng.random() < 0.5 else [Message.assistant("no")])]
        asked = [*asked, Message.user(f"{number % 9}")] if asked[-1].role != "user" else asked
        kept, anew = (each.generate(asked, settings=settings) for each in (fresh, forgetful))
        assert (kept.text, kept.usage.denoising_steps) == (anew.text, anew.usage.denoising_steps)
        assert anew.usage.cached_tokens == 0
        reused += kept.usage.cached_tokens
    assert reused > 2_000


def test_the_second_turn_of_a_long_chat_encodes_only_what_is_new(long_context: Path) -> None:
    """A 6,000-token chat; the model's window is 64 tokens, far shorter."""
    with open_engine(long_context, device="cpu") as engine:
        first = [Message.user(" ".join(Random(0).choices(WORDS, k=4000)))]
        one = engine.generate(first, settings={"seed": 1, "max_tokens": 64})
        assert one.usage.prompt_tokens > 6_000
        second = [*first, one.message, Message.user("the old house")]
        two = engine.generate(second, settings={"seed": 1, "max_tokens": 32})
        new = two.usage.prompt_tokens - two.usage.cached_tokens
        assert new < two.usage.prompt_tokens // 50
        assert two.usage.prefill_seconds < one.usage.prefill_seconds


def test_one_tenant_does_not_see_what_another_has_asked(fresh: Engine) -> None:
    def cached(salt: str | None) -> int:
        settings = {"cache_salt": salt, "max_tokens": 8}
        return fresh.generate("the old river is green", settings=settings).usage.cached_tokens

    assert [cached("a"), cached("b"), cached(None)] == [0, 0, 0]
    assert cached("a") == cached("b") == cached(None) > 0


def test_an_isolated_request_encodes_everything_itself(fresh: Engine) -> None:
    for _ in range(2):
        settings = {"isolate": True, "max_tokens": 8}
        assert fresh.generate("the old river", settings=settings).usage.cached_tokens == 0


def test_requests_that_part_in_the_middle_share_it_from_the_third_on(fresh: Engine) -> None:
    shared = " ".join(Random(1).choices(WORDS, k=150))
    found = []
    for ending in ("a b c d e " * 12, "f g h i j " * 12, "k l m n o " * 12):
        reply = fresh.generate(f"{shared} {ending}", settings={"max_tokens": 8, "seed": 1})
        found.append(reply.usage.cached_tokens)
    assert found[0] == 0
    assert found[2] > 150


class Numbers:
    """A cache of numbers that can be cut within its last 3 positions."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.length = ids, len(ids)

    @property
    def bytes(self) -> int:
        return 10 * len(self.ids)

    def can_fork(self, length: int) -> bool:
        return self.length - 3 <= length <= self.length

    def fork(self, length: int, capacity: int = 0) -> "Numbers":
        del capacity
        return Numbers(self.ids[:length])


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from("ab"), st.lists(st.integers(0, 1), max_size=8)),
        max_size=30,
    ),
    st.integers(0, 300),
)
def test_the_store_gives_back_what_was_kept_and_keeps_to_its_budget(
    calls: list[tuple[bool, str, list[int]]], budget: int
) -> None:
    store, kept = PrefixStore(budget), set()
    for keeps, salt, ids in calls:
        if keeps:
            store.keep(salt, ids, Numbers(ids))
            kept.add((salt, tuple(ids)))
        else:
            found: Any = store.longest(salt, ids)
            assert found.usable <= found.common <= len(ids)
            if found.cache is not None:
                assert found.cache.ids[: found.usable] == ids[: found.usable]
                assert (salt, tuple(found.cache.ids)) in kept
        assert store.bytes <= budget
    store.clear()
    assert (len(store), store.bytes) == (0, 0)


def test_the_least_recently_used_prefix_goes_first() -> None:
    store = PrefixStore(60)
    store.keep(None, [1, 1], Numbers([1, 1]))
    store.keep(None, [2, 2], Numbers([2, 2]))
    store.longest(None, [1, 1, 5])
    store.keep(None, [3, 3, 3], Numbers([3, 3, 3]))
    assert [store.longest(None, [each] * 2).usable for each in (1, 2, 3)] == [2, 0, 2]


def test_a_longer_prefix_takes_the_place_of_one_it_can_serve() -> None:
    store = PrefixStore(1000)
    for length in range(1, 9):
        ids = list(range(length))
        store.keep(None, ids, Numbers(ids))
    assert [store.longest(None, list(range(n))).usable for n in (5, 6, 7, 8)] == [5, 6, 7, 8]
    assert len(store) == 1
    branch = [0, 1, 9]
    store.keep(None, branch, Numbers(branch))
    assert len(store) == 2


def test_a_tool_loop_encodes_its_history_once(fresh: Engine) -> None:
    """Six turns of call and result: what the model wrote comes back as the ids it wrote."""
    tools = [Tool("look_up", "Looks a word up.", {"type": "object", "properties": {}})]
    history, prompts, cached = [Message.user("Look it up until you know.")], [], []
    for turn in range(6):
        reply = fresh.generate(
            history,
            tools=tools,
            tool_choice=ToolChoice("required", parallel=False),
            settings={"seed": turn, "max_tokens": 32},
        )
        prompts.append(reply.usage.prompt_tokens)
        cached.append(reply.usage.cached_tokens)
        call = reply.tool_calls[0]
        result = Message.tool(f"nothing yet, {turn}", tool_call_id=call.id, name=call.name)
        history += [reply.message, result]
    assert all(now >= before for before, now in zip(prompts, cached[1:], strict=False))
    assert sum(cached[1:]) / sum(prompts[1:]) > 0.7
