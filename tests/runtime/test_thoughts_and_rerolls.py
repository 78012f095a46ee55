"""What the engine does about thoughts that are too long and answers that say nothing."""

from typing import Any

import pytest
import torch

from dgemma_backend import Engine, Message, ScriptedEngine, UnsafeRawPrompt
from dgemma_backend.errors import PromptError, SettingError
from dgemma_backend.events import CanvasCommitted
from dgemma_backend.runtime.torch_engine import TorchEngine


def thinking(engine: Engine, **settings: Any) -> Any:
    return engine.generate("go on", settings={"thinking": True, **settings})


def scripted(*pieces: str, canvas: int = 7) -> ScriptedEngine:
    return ScriptedEngine(lambda request: pieces, canvas_length=canvas)


LONG_THOUGHT = ("<|channel>", "thought\n", "one two three four five six " * 6, "<channel|>")


@pytest.mark.parametrize("canvas", [1, 3, 16, 64])
@pytest.mark.parametrize("budget", [12, 16, 23])
def test_a_thought_ends_with_its_budget_and_the_answer_begins(canvas: int, budget: int) -> None:
    engine = scripted(*LONG_THOUGHT[:3], canvas=canvas)
    reply = thinking(engine, thinking_budget=budget, max_tokens=64)
    ended = len(engine._protocol.end_of_thought_ids())
    assert budget <= reply.usage.reasoning_tokens <= budget + ended
    assert reply.reasoning
    assert LONG_THOUGHT[2].startswith(reply.reasoning)
    assert not reply.cut_in_thought
    assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", 64)


def test_a_thought_within_its_budget_is_left_alone() -> None:
    free, bounded = (
        thinking(scripted(*LONG_THOUGHT, "yes", "<turn|>"), **settings)
        for settings in ({}, {"thinking_budget": 500})
    )
    assert (free.text, free.reasoning) == (bounded.text, bounded.reasoning)
    assert free.text == "yes"


def test_a_reply_cut_inside_its_thought_says_so() -> None:
    reply = thinking(scripted(*LONG_THOUGHT), max_tokens=20)
    assert reply.cut_in_thought
    assert (reply.finish_reason, reply.text) == ("length", "")
    whole = thinking(scripted(*LONG_THOUGHT, "yes", "<turn|>"))
    assert not whole.cut_in_thought


def test_a_budget_without_thinking_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match="thinking_budget=5 needs thinking=True"):
        scripted("hi").generate("hi", settings={"thinking_budget": 5})


def test_the_real_engine_encodes_what_a_budget_cut(tiny: Any) -> None:
    """What the next canvas sees is the cut thought and its end, nothing of what was dropped."""
    seen: list[list[int]] = []
    real = tiny._model.encode

    def watched(rows: Any, caches: Any) -> Any:
        seen.extend(row.tolist() for row in rows)
        return real(rows, caches)

    tiny._model.encode = watched
    try:
        prompt = UnsafeRawPrompt("<bos><|turn>model\n<|channel>thought\n")
        settings = {"thinking": True, "thinking_budget": 3, "max_tokens": 60, "isolate": True}
        events = list(tiny.stream(prompt, settings={**settings, "seed": 2}))
    finally:
        del tiny._model.encode
    commits = [list(each.token_ids) for each in events if isinstance(each, CanvasCommitted)]
    end = tiny._protocol.end_of_thought_ids()
    assert commits[0][-len(end) :] == end
    assert len(commits[0]) < tiny.info.canvas_length
    assert seen[1 : len(commits)] == commits[:-1]


def test_an_answer_that_says_nothing_is_denoised_once_more(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"seed": 3, "max_tokens": 32, "temperature": 1.5, "t_max": 2.0, "t_min": 2.0}
    plain = tiny.generate("Who are you?", settings=settings)
    asked: list[int] = []

    def closes_at_once(ids: list[int]) -> bool:
        asked.append(len(ids))
        return True

    monkeypatch.setattr(tiny._protocol, "closes_at_once", closes_at_once)
    again = tiny.generate("Who are you?", settings=settings)
    assert asked == [tiny.info.canvas_length]  # asked of the first canvas only, and once
    assert (again.usage.rerolled, plain.usage.rerolled) == (1, 0)
    assert again.usage.canvases == plain.usage.canvases + 1
    assert again.usage.denoising_steps > plain.usage.denoising_steps
    repeated = tiny.generate("Who are you?", settings=settings)
    assert repeated.text == again.text
    asked.clear()
    thinks = tiny.generate("Who are you?", settings={**settings, "thinking": True})
    assert (thinks.usage.rerolled, asked) == (0, [])


def test_another_noise_makes_another_canvas(tiny: Any) -> None:
    assert isinstance(tiny, TorchEngine)
    from dgemma_backend.runtime.job import Job

    request = tiny._open("Who are you?", (), None, None, {"seed": 1})
    job = Job(request)
    first = tiny._new_denoiser(job).canvas.tolist()
    job.reroll()
    assert tiny._new_denoiser(job).canvas.tolist() != first


def test_a_raw_prompt_is_taken_as_it_is(tiny: Engine) -> None:
    raw = UnsafeRawPrompt("<|turn>user\nWho are you?<turn|>\n<|turn>model\n")
    settings = {"seed": 1, "max_tokens": 32}
    spelt, rendered = (tiny.generate(each, settings=settings) for each in (raw, "Who are you?"))
    assert spelt.text == rendered.text
    assert spelt.usage.prompt_tokens == rendered.usage.prompt_tokens == tiny.count_tokens(raw)
    with pytest.raises(PromptError, match="a raw prompt must be a text"):
        UnsafeRawPrompt(" ")


@pytest.mark.parametrize("wrong", [None, b"hi", 5, [None], [{"role": "user", "content": "hi"}]])
def test_what_is_no_conversation_is_refused_with_its_value(tiny: Engine, wrong: Any) -> None:
    with pytest.raises(PromptError, match="a list of Message objects, got"):
        tiny.generate(wrong)
    assert tiny.generate([Message.user("Who are you?")], settings={"max_tokens": 2}).usage.canvases


@pytest.mark.parametrize("steering", [None, "joint"])
def test_ids_that_no_answer_may_hold_are_neither_accepted_nor_committed(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, steering: str | None
) -> None:
    """Bars the very ids that the model writes."""
    settings: dict[str, Any] = {"seed": 1, "max_tokens": 32}
    if steering is not None:
        settings = {**settings, "steering": steering}
    wanted = tiny._protocol.tokenizer.encode_text(
        tiny.generate("Who are you?", settings=settings).text
    )
    accepted: list[int] = []

    def on_step(step: Any) -> None:
        accepted.extend(step.proposal[step.accepted].tolist())

    monkeypatch.setattr(tiny._plugins, "on_step", on_step)
    barred = tiny._barred.clone()
    barred[torch.tensor(wanted)] = True
    monkeypatch.setattr(tiny, "_barred", barred)
    events = list(tiny.stream("Who are you?", settings=settings))
    committed = [
        token for each in events if isinstance(each, CanvasCommitted) for token in each.token_ids
    ]
    assert committed
    assert accepted
    assert not set(wanted) & {*committed, *accepted}


def test_reserved_ids_and_soft_tokens_are_barred(tiny: Any) -> None:
    control = tiny._protocol.tokenizer.control_ids
    barred = set(tiny._barred.nonzero().flatten().tolist())
    assert {control["<bos>"], control["<unk>"], control["<|image|>"]} <= barred
    assert not {control["<turn|>"], control["<pad>"], control["<|tool_call>"]} & barred


def test_a_draft_is_what_the_first_canvas_starts_from(tiny: Any) -> None:
    shown: list[str] = []
    plain = tiny.generate("Who are you?", settings={"seed": 5, "max_tokens": 32})
    settings = {"seed": 5, "max_tokens": 32, "draft": plain.text}

    def on_step(step: Any) -> None:
        shown.append(tiny._protocol.tokenizer.decode(step.tokens.tolist()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny._plugins, "on_step", on_step)
        again = tiny.generate("Who are you?", settings=settings)
    assert shown[0].startswith(plain.text)
    assert again.text == plain.text
    assert again.usage.denoising_steps <= plain.usage.denoising_steps
    long = tiny.generate("Who are you?", settings={**settings, "draft": "green " * 200})
    assert long.usage.completion_tokens <= 32
    with pytest.raises(SettingError, match="draft=5 must be a string"):
        tiny.generate("Who are you?", settings={"draft": 5})
