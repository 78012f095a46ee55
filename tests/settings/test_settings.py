"""GenerationSettings: everything checked when it is made, nothing ignored."""

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_backend.errors import SettingError, UnknownSettingError
from dgemma_backend.settings import GenerationSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", "0.5"),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("seed", -1),
        ("seed", 2**63),
        ("max_denoising_steps", 0),
        ("entropy_bound", -0.1),
        ("entropy_bound", math.inf),
        ("confidence_threshold", -1),
        ("stability_threshold", -1),
        ("t_min", 0.0),
        ("t_max", -1.0),
        ("timeout", 0),
        ("thinking", 1),
        ("sampler", ""),
        ("stop_rule", None),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name_and_value(name: str, value: object) -> None:
    with pytest.raises(SettingError) as caught:
        GenerationSettings.from_mapping({name: value})
    assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 1),
        ("temperature", 0),
        ("temperature", 2.0),
        ("top_k", 1),
        ("top_p", 1.0),
        ("seed", 0),
        ("seed", 2**63 - 1),
        ("entropy_bound", 0.0),
        ("timeout", 0.001),
    ],
)
def test_the_ends_of_the_ranges_are_inside(name: str, value: object) -> None:
    assert getattr(GenerationSettings.from_mapping({name: value}), name) == value


def test_t_min_above_t_max_is_refused() -> None:
    with pytest.raises(SettingError, match=r"t_min=0\.9 must not be above t_max=0\.8"):
        GenerationSettings(t_min=0.9, t_max=0.8)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UnknownSettingError, match=r"'temprature'\. Did you mean 'temperature'"):
        GenerationSettings.from_mapping({"temprature": 0.5})


def test_an_unknown_name_far_from_all_lists_what_there_is() -> None:
    with pytest.raises(UnknownSettingError, match="There are: max_tokens, temperature"):
        GenerationSettings.from_mapping({"logit_bias": {}})


@given(st.text(max_size=20))
def test_no_unknown_name_is_ever_ignored(name: str) -> None:
    if name not in {each.name for each in fields(GenerationSettings)}:
        with pytest.raises(UnknownSettingError):
            GenerationSettings.from_mapping({name: 1})


@pytest.mark.parametrize(
    ("given_stop", "kept"), [("END", ("END",)), (["a", "b"], ("a", "b")), (None, ()), ((), ())]
)
def test_stop_may_be_one_string_or_a_list(given_stop: object, kept: tuple[str, ...]) -> None:
    assert GenerationSettings.from_mapping({"stop": given_stop}).stop == kept


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (("",), "stop string '' has 0 characters"),
        (("x" * 257,), "has 257 characters"),
        (tuple("abcdefghijklmnopq"), "stop has 17 strings"),
        ((1,), r"stop=\(1,\) must be a tuple of strings"),
    ],
)
def test_a_bad_stop_is_refused(stop: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        GenerationSettings(stop=stop)
