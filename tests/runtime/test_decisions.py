"""Decisions: probabilities of given answers from one denoising pass."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend import YES_NO, Decision, Engine, Score, ScriptedEngine
from dgemma_backend.decisions import shares
from dgemma_backend.errors import DeadlineExceededError, SettingError
from dgemma_backend.runtime.deciding import Question


def test_probabilities_are_those_of_the_models_first_pass(tiny: Any) -> None:
    """Against logits read by hand from a canvas of the same noise."""
    answers = ("green", "an old river", "no")
    found = tiny.decide("What is it?", answers, settings={"seed": 4})
    request = tiny._reading("What is it?", Question.of(answers, tiny._protocol, 32), {"seed": 4})
    from dgemma_backend.runtime.job import Job

    model, noise = tiny._model, tiny._new_denoiser(Job(request))
    cache = model.new_cache()
    with torch.inference_mode():
        model.encode([torch.tensor(request.prompt_ids)], [cache])
        logits = model.denoise(noise.canvas[None], None, model.canvas_context([cache])).dense()[0]
    log_p = logits.double().log_softmax(-1)
    weights = []
    for answer in answers:
        ids = [*tiny._protocol.tokenizer.encode_text(answer), tiny._protocol.end_of_turn_id]
        behind = [*tiny._protocol.empty_thought_ids(), *ids]
        each = [sum(float(log_p[at, token]) for at, token in enumerate(s)) for s in (ids, behind)]
        weights.append(math.exp(each[0]) + math.exp(each[1]))
    expected = [weight / sum(weights) for weight in weights]
    assert list(found.probabilities.values()) == pytest.approx(expected, rel=1e-4)
    assert found.answers == answers


def test_an_answer_counts_by_itself_and_behind_an_empty_thought(tiny: Any) -> None:
    question = Question.of(("yes", "no"), tiny._protocol, 32)
    control, spelt = tiny._protocol.tokenizer.control_ids, tiny._protocol.tokenizer.decode
    plain, behind, *_ = question.sequences
    assert plain[-1] == behind[-1] == control["<turn|>"]
    assert spelt(list(behind), controls=True) == "<|channel>thought\n<channel|>yes<turn|>"
    log = [math.log(each) for each in (0.1, 0.2, 0.05, 0.25)]
    assert question.shares(log) == pytest.approx([0.5, 0.5])


def test_several_canvases_are_averaged_and_a_seed_repeats_them(tiny: Engine) -> None:
    one = [tiny.decide("Is it?", YES_NO, settings={"seed": 1}) for _ in range(2)]
    assert one[0] == one[1]
    four = tiny.decide("Is it?", YES_NO, canvases=4, settings={"seed": 1})
    assert four.canvases == 4
    assert four.probabilities != one[0].probabilities
    assert sum(four.probabilities.values()) == pytest.approx(1)
    assert 0 <= four.doubt <= 1


def test_many_decisions_come_in_order_and_equal_single_ones(tiny: Engine) -> None:
    questions = [f"Is {number} a number?" for number in range(70)]
    settings = {"seed": 2}
    together = list(tiny.decide_all(questions, ("yes", "no", "maybe"), settings=settings))
    for at in (0, 31, 32, 69):
        alone = tiny.decide(questions[at], ("yes", "no", "maybe"), settings=settings)
        assert together[at].probabilities == pytest.approx(alone.probabilities, rel=1e-3)
    assert len(together) == 70


async def test_a_decision_can_be_awaited(tiny: Engine) -> None:
    found = await tiny.adecide("Is it?", Score(1, 5), settings={"seed": 1})
    assert 1 <= found.expected <= 5
    assert found == tiny.decide("Is it?", Score(1, 5), settings={"seed": 1})


def test_a_request_after_a_decision_is_served_as_ever(tiny: Engine) -> None:
    expected = tiny.generate("Who are you?", settings={"seed": 1}).text
    tiny.decide("Who are you?", YES_NO)
    assert tiny.generate("Who are you?", settings={"seed": 1}).text == expected


BAD: list[tuple[Any, dict[str, Any], str]] = [
    ([], {}, "0 choices; 2 to 256"),
    (["only"], {}, "1 choices"),
    (["a", "a"], {}, "must differ"),
    (["a", " "], {}, "say something"),
    ("yes", {}, "must be a list of strings"),
    (["yes", "no"], {"canvases": 0}, "canvases=0 must be from 1"),
    (["yes", "w " * 100], {}, "the canvas has room for"),
    (["yes", "no"], {"settings": {"temperature": 0.5}}, "temperature=0.5 means nothing"),
    (["yes", "no"], {"settings": {"thinking": True}}, "thinking=True means nothing"),
]


@pytest.mark.parametrize(("choices", "given", "message"), BAD)
def test_what_cannot_be_decided_is_refused_by_name(
    tiny: Engine, choices: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        tiny.decide("Is it?", choices, **given)
    with pytest.raises(SettingError):
        Score(5, 5)


def test_a_decision_keeps_to_its_deadline(tiny: Engine) -> None:
    with pytest.raises(DeadlineExceededError):
        tiny.decide("Is it?", YES_NO, canvases=64, settings={"timeout": 1e-6})


def test_a_script_decides_for_what_it_would_say() -> None:
    engine = ScriptedEngine(lambda request: ["no", "<turn|>"])
    found = engine.decide("Is it?", YES_NO)
    assert found.best == "no"
    assert found.probabilities["no"] > 0.99


@given(st.lists(st.floats(-700, 0), min_size=1, max_size=20))
def test_shares_sum_to_one_and_keep_their_order(weights: list[float]) -> None:
    found = shares(weights)
    assert sum(found) == pytest.approx(1)
    assert found.index(max(found)) == weights.index(max(weights)) or len(set(found)) < len(found)


def test_what_a_decision_says_of_itself() -> None:
    sure = Decision({"a": 1.0, "b": 0.0}, 1, 0)
    blind = Decision({"1": 0.5, "3": 0.5}, 1, 0)
    assert (sure.best, sure.doubt, blind.doubt, blind.expected) == ("a", 0.0, 1.0, 2.0)
    with pytest.raises(SettingError, match="only a score"):
        _ = sure.expected
