"""The trainer computes the model's own forward pass, scene by scene, and learns."""

from itertools import islice
from random import Random

import pytest
import torch
from tiny_trainer.drills import Drills
from tiny_trainer.objective import Learner, add_noise, batch_loss, reading_loss
from tiny_trainer.optimizer import Optimizers, orthogonal, rate_factor
from tiny_trainer.packed_forward import PackedModel
from tiny_trainer.packing import Scene, pack
from tiny_trainer.rendering import Encoded, encode, protocol_of, training_examples
from tiny_trainer.shape import model_config, new_model
from tiny_trainer.tasks.registry import training_scene
from tiny_trainer.training_kernels import geglu, rms_norm
from tiny_trainer.words import TRAINING

from dgemma_backend.model import DiffusionGemma
from dgemma_backend.tiny import CHECKPOINT
from dgemma_kernels import reference_kernels

CANVAS, WINDOW, PAD = 32, 64, 0


def conversations(count: int) -> list[list[Encoded]]:
    protocol, rng = protocol_of(CHECKPOINT), Random("a test")
    return [
        [encode(example, protocol) for example in training_scene(rng, TRAINING)]
        for _ in range(count)
    ]


def packed(talks: list[list[Encoded]]) -> list[Scene]:
    return [pack(talk, CANVAS, WINDOW, PAD, 1, Random(1)) for talk in talks]


def test_tokens_that_conversations_share_are_encoded_once_and_see_their_own_past_only() -> None:
    talk = [Encoded("a", [5, 6, 7], [8]), Encoded("b", [5, 6, 9], [8, 4])]
    scene = packed([talk])[0]
    assert scene.ids.tolist() == [5, 6, 7, 8, 9, 8, 4]
    assert scene.positions.tolist() == [0, 1, 2, 3, 2, 3, 4]
    assert scene.sees[6].tolist() == [True, True, False, False, True, True, True]
    assert scene.canvas_sees.int().tolist() == [[1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 0, 0]]
    answers = [
        next_id for (_, next_id), own in zip(scene.edges, scene.of_answer, strict=True) if own
    ]
    assert answers == [8, 8, 4]


def test_a_scene_gives_what_the_model_gives_each_conversation_alone() -> None:
    """Values and gradients, beyond the window, with a guess, against the reference kernels."""
    trained = new_model(1)
    plain = DiffusionGemma(model_config(), reference_kernels())
    plain.load_state_dict(trained.state_dict())
    talks = conversations(3)
    scenes = packed(talks)
    assert max(scene.positions.max() for scene in scenes) > WINDOW
    targets = torch.cat([scene.targets for scene in scenes])
    generator = torch.Generator().manual_seed(0)
    guess = torch.randn(*targets.shape, trained.config.hidden_size, generator=generator)
    weights = torch.randn(*targets.shape, trained.config.vocab_size, generator=generator)

    model = PackedModel(trained, scenes)
    _, kept = model.encode()
    logits = model.denoise(targets, guess, kept)
    (logits * weights).mean().backward()

    alone: list[torch.Tensor] = []
    for talk, scene in zip(talks, scenes, strict=True):
        for each, start in zip(talk, scene.starts.tolist(), strict=True):
            at, cache = slice(len(alone), len(alone) + 1), plain.new_cache()
            plain.encode([torch.tensor((each.prompt + each.answer)[:start])], [cache])
            context = plain.canvas_context([cache])
            alone.append(plain.denoise(targets[at], guess[at], context).dense())
    expected = torch.cat(alone)
    (expected * weights).mean().backward()

    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)
    for ours, theirs in zip(trained.parameters(), plain.parameters(), strict=True):
        if theirs.grad is None or ours.grad is None:  # a last output that no canvas reads
            assert ours.grad is theirs.grad
            continue
        assert (ours.grad - theirs.grad).norm() <= 1e-3 * theirs.grad.norm() + 1e-9


def test_the_hand_written_gradients_are_right() -> None:
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-6), (numbers(3, 8), numbers(8)))
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, None, 1e-6), (numbers(3, 8),))
    assert torch.autograd.gradcheck(geglu, (numbers(3, 8),))


@pytest.mark.parametrize("guessing", [False, True])
def test_a_few_steps_on_one_batch_lower_both_losses(guessing: bool) -> None:
    learner, scenes = Learner(new_model(1)), packed(conversations(2))
    noise = add_noise(scenes, 1280, torch.Generator().manual_seed(0))
    optimizers, totals, following = Optimizers(learner), [], []
    for _ in range(6):
        generator = torch.Generator().manual_seed(0)
        losses = batch_loss(learner, scenes, noise, guessing, 0.5, generator)
        learner.zero_grad()
        losses.total.backward()
        for weight in learner.parameters():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        optimizers.step(0.3)
        totals.append(losses.total.item())
        following.append(losses.next_token)
    assert totals[-1] < totals[0] - 0.5
    assert following[-1] < following[0] - 0.3


def test_muon_steps_are_nearly_orthogonal() -> None:
    matrices = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    sizes = torch.linalg.svdvals(orthogonal(matrices))
    assert sizes.min() > 0.5
    assert sizes.max() < 1.4


def test_the_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    assert rate_factor(0, 100.0, 45.0) < 0.05
    assert rate_factor(100, 45.0, 45.0) == 1.0
    assert rate_factor(100, 9.0, 45.0) == pytest.approx(0.2)
    assert rate_factor(100, 0.0, 45.0) == 0.0


def test_the_answer_to_a_drill_stands_in_its_prompt_and_nothing_else_is_to_be_foreseen() -> None:
    drills, rng = Drills(protocol_of(CHECKPOINT), 1280), Random("a test")
    for _ in range(50):
        talk = drills.draw(rng)
        for each in talk:
            wanted = each.answer[:-1]
            starts = range(len(each.prompt) - len(wanted))
            assert any(each.prompt[at : at + len(wanted)] == wanted for at in starts)
        scene = pack(talk, CANVAS, WINDOW, PAD, 1, rng, of_prompts=False)
        assert scene.of_answer.all()
        assert len(scene.edges) <= sum(len(each.answer) for each in talk)


def test_reading_alone_trains_the_encoder_and_not_what_only_canvases_use() -> None:
    learner = Learner(new_model(1))
    losses = reading_loss(learner, packed(conversations(1)), 0.5, torch.Generator().manual_seed(0))
    losses.total.backward()
    model = learner.model
    assert learner.next_token.weight.grad is not None
    assert model.embed_tokens.weight.grad is not None
    assert all(weight.grad is None for weight in model.self_conditioning.parameters())


def test_the_mixture_never_ends() -> None:
    assert len(list(islice(training_examples("a test"), 50))) == 50
