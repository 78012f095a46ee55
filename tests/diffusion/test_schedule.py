"""The temperature falls in a line over the checkpoint's own steps."""

import pytest

from dgemma_backend.diffusion import LinearSchedule


def test_the_published_schedule_gives_the_published_temperatures() -> None:
    schedule = LinearSchedule(t_min=0.4, t_max=0.8, steps=48)
    found = [schedule.temperature(step) for step in (1, 2, 48)]
    assert found == pytest.approx([0.8, 0.7917, 0.4083], abs=5e-5)


def test_steps_past_the_schedule_keep_its_last_temperature() -> None:
    schedule = LinearSchedule(t_min=0.4, t_max=0.8, steps=4)
    assert schedule.temperature(9) == schedule.temperature(4) == pytest.approx(0.5)
