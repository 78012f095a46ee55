"""DecodingDefaults reads the published generation_config.json, and only sound ones."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgemma_backend.config import DecodingDefaults
from dgemma_backend.errors import CheckpointError, ConfigError

Published = Callable[[str], dict[str, Any]]


def test_reads_the_published_file(published: Published) -> None:
    assert DecodingDefaults.from_dict(published("generation_config")) == DecodingDefaults(
        max_denoising_steps=48,
        t_min=0.4,
        t_max=0.8,
        entropy_bound=0.1,
        confidence_threshold=0.005,
        stability_threshold=1,
        stop_token_ids=(1, 106, 50),
        pad_token_id=0,
    )


def test_what_is_written_is_read_back_equal(published: Published) -> None:
    defaults = DecodingDefaults.from_dict(published("generation_config"))
    assert DecodingDefaults.from_dict(json.loads(json.dumps(defaults.to_dict()))) == defaults


def test_a_single_stop_id_may_stand_alone(published: Published) -> None:
    config = published("generation_config") | {"eos_token_id": 106}
    assert DecodingDefaults.from_dict(config).stop_token_ids == (106,)


@pytest.mark.parametrize(
    "key",
    [
        "max_denoising_steps",
        "t_min",
        "t_max",
        "sampler_config",
        "confidence_threshold",
        "stability_threshold",
        "eos_token_id",
        "pad_token_id",
    ],
)
def test_a_missing_fact_is_named(published: Published, key: str) -> None:
    config = published("generation_config")
    del config[key]
    with pytest.raises(ConfigError, match=rf"^generation_config\.json lacks '{key}'"):
        DecodingDefaults.from_dict(config)


WRONG: list[tuple[str, object, str]] = [
    ("max_denoising_steps", 10**9, "max_denoising_steps is 1000000000, must be .* 1 to 256"),
    ("max_denoising_steps", 0, "max_denoising_steps is 0"),
    ("max_denoising_steps", None, "max_denoising_steps is None"),
    ("t_min", 0.9, r"t_min=0.9 is above t_max=0.8"),
    ("t_max", 0, "t_max is 0"),
    ("t_max", float("inf"), "t_max is inf, must be a finite number"),
    ("confidence_threshold", -1, "confidence_threshold is -1"),
    ("stability_threshold", 1.0, "stability_threshold is 1.0, must be a whole number"),
    ("eos_token_id", [], "stop_token_ids is"),
    ("eos_token_id", ["<eos>"], "stop_token_ids holds '<eos>', which is no token id"),
    ("eos_token_id", [True], "stop_token_ids holds True"),
    ("eos_token_id", [-1], "stop_token_ids holds -1"),
    ("eos_token_id", list(range(65)), "must be 1 to 64 token ids"),
    ("eos_token_id", None, "stop_token_ids holds None"),
    ("sampler_config", None, "sampler_config is None, not an object"),
    ("sampler_config", {"_cls_name": "os.system"}, "_cls_name is 'os.system', must be 'Entropy"),
    (
        "sampler_config",
        {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": -0.1},
        "entropy_bound is -0.1",
    ),
    (
        "sampler_config",
        {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1, "device": "x"},
        "'sampler_config.device' is refused",
    ),
    ("custom_generate", "evil.py", "'custom_generate' is refused: .*choose code"),
    ("do_sample", True, "'do_sample' is refused: it is unknown"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_wrong_value_is_named(
    published: Published, key: str, value: object, message: str
) -> None:
    config = published("generation_config") | {key: value}
    with pytest.raises(ConfigError, match=message):
        DecodingDefaults.from_dict(config)


def test_a_file_that_is_absent_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no generation_config\.json"):
        DecodingDefaults.from_folder(tmp_path)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_mutation_gives_defaults_or_a_config_error(
    published: Published, data: st.DataObject
) -> None:
    config = copy.deepcopy(published("generation_config"))
    values: st.SearchStrategy[Any] = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    )
    values = st.one_of(values, st.lists(values, max_size=3))
    key = data.draw(st.sampled_from([*config, "other"]))
    config[key] = data.draw(values)
    if data.draw(st.booleans()):
        config["sampler_config"] = {
            "_cls_name": "EntropyBoundSamplerConfig",
            "entropy_bound": data.draw(values),
        }
    try:
        read = DecodingDefaults.from_dict(config)
    except ConfigError:
        return
    assert DecodingDefaults.from_dict(read.to_dict()) == read
