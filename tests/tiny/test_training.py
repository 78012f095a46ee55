"""The trainer computes the model's own forward pass, and learns."""

from itertools import islice
from random import Random

import torch
from tiny_trainer.objective import Batch, batch_loss, make_batch
from tiny_trainer.optimizer import Optimizers, orthogonal, rate_factor
from tiny_trainer.rendering import encode, protocol_of, training_examples
from tiny_trainer.shape import model_config, new_model
from tiny_trainer.training_kernels import geglu, rms_norm

from dgemma_backend.model import DiffusionGemma
from dgemma_backend.tiny import CHECKPOINT
from dgemma_kernels import reference_kernels


def a_batch() -> Batch:
    protocol = protocol_of(CHECKPOINT)
    examples = [encode(each, protocol) for each in islice(training_examples("a test"), 3)]
    generator = torch.Generator().manual_seed(0)
    return make_batch(examples, 32, 1280, 0, Random(0), generator)


def test_training_kernels_give_the_loss_and_gradients_of_the_reference() -> None:
    trained = new_model(1)
    plain = DiffusionGemma(model_config(), reference_kernels())
    plain.load_state_dict(trained.state_dict())
    batch, losses = a_batch(), []
    for model in (trained, plain):
        loss, _ = batch_loss(model, batch, True, torch.Generator().manual_seed(0))
        loss.backward()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-5
    for ours, theirs in zip(trained.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm() + 1e-9


def test_the_hand_written_gradients_are_right() -> None:
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-6), (numbers(3, 8), numbers(8)))
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, None, 1e-6), (numbers(3, 8),))
    assert torch.autograd.gradcheck(geglu, (numbers(3, 8),))


def test_a_few_steps_on_one_batch_lower_the_loss() -> None:
    model, batch = new_model(1), a_batch()
    optimizers, losses = Optimizers(model), []
    for _ in range(8):
        loss, _ = batch_loss(model, batch, True, torch.Generator().manual_seed(0))
        model.zero_grad()
        loss.backward()
        optimizers.step(0.3)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


def test_muon_steps_are_nearly_orthogonal() -> None:
    matrices = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    sizes = torch.linalg.svdvals(orthogonal(matrices))
    assert sizes.min() > 0.5
    assert sizes.max() < 1.4


def test_the_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    factors = [rate_factor(0, 0.0), rate_factor(100, 0.3), rate_factor(100, 0.8)]
    assert factors[0] < 0.05
    assert factors[1] == 1.0
    assert 0.4 < factors[2] < 0.6
    assert rate_factor(100, 1.0) == 0.0
