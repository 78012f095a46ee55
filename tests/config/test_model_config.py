"""ModelConfig reads what was published, and nothing else gets past it."""

import copy
import json
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgemma_backend.config import ModelConfig
from dgemma_backend.errors import CheckpointError, ConfigError

Published = Callable[[str], dict[str, Any]]
fast = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def put(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of `config` with `value` at the dotted `path`."""
    changed = copy.deepcopy(config)
    *way, last = path.split(".")
    place = changed
    for key in way:
        place = place[key]
    place[last] = value
    return changed


def drop(config: dict[str, Any], path: str) -> dict[str, Any]:
    """A copy of `config` without what stood at the dotted `path`."""
    changed = copy.deepcopy(config)
    *way, last = path.split(".")
    place = changed
    for key in way:
        place = place[key]
    del place[last]
    return changed


def test_reads_the_published_file(published: Published) -> None:
    config = ModelConfig.from_dict(published("config"))
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (262144, 2816, 2112)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (16, 8, 256)
    assert (config.num_global_key_value_heads, config.global_head_dim) == (2, 512)
    assert (config.num_experts, config.top_k_experts, config.moe_intermediate_size) == (128, 8, 704)
    assert (config.sliding_window, config.canvas_length) == (1024, 256)
    full = [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"]
    assert (config.num_hidden_layers, full) == (30, [5, 11, 17, 23, 29])
    assert (config.sliding_rope_theta, config.full_rope_theta) == (1e4, 1e6)
    assert (config.full_partial_rotary_factor, config.final_logit_softcapping) == (0.25, 30.0)
    assert (config.rms_norm_eps, config.max_position_embeddings) == (1e-6, 262144)
    ids = (config.pad_token_id, config.bos_token_id, config.image_token_id)
    assert ids == (0, 2, 258880)
    assert config.vision is not None
    assert (config.vision["hidden_size"], config.vision["standardize"]) == (1152, 1)


def test_a_canvas_sees_the_whole_window_unless_told_otherwise(published: Published) -> None:
    config = ModelConfig.from_dict(published("config"))
    assert config.canvas_prefix_window == 1024
    assert replace(config, canvas_prefix_window=1023).canvas_prefix_window == 1023
    with pytest.raises(ConfigError, match="canvas_prefix_window is 1022"):
        replace(config, canvas_prefix_window=1022)


def test_what_is_written_is_read_back_equal(published: Published) -> None:
    config = ModelConfig.from_dict(published("config"))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    without_tower = replace(config, vision=None)
    assert ModelConfig.from_dict(without_tower.to_dict()) == without_tower


def test_equal_configs_have_equal_hashes(published: Published) -> None:
    first, second = (ModelConfig.from_dict(published("config")) for _ in range(2))
    assert len({first, second}) == 1


REQUIRED = [
    "architectures",
    "model_type",
    "canvas_length",
    "image_token_id",
    "tie_word_embeddings",
    "text_config",
    *(
        f"text_config.{name}"
        for name in [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "num_global_key_value_heads",
            "global_head_dim",
            "num_experts",
            "top_k_experts",
            "moe_intermediate_size",
            "sliding_window",
            "layer_types",
            "rope_parameters",
            "final_logit_softcapping",
            "rms_norm_eps",
            "max_position_embeddings",
            "pad_token_id",
            "bos_token_id",
            "hidden_activation",
            "attention_bias",
            "model_type",
            "rope_parameters.sliding_attention",
            "rope_parameters.full_attention.rope_theta",
            "rope_parameters.full_attention.partial_rotary_factor",
            "rope_parameters.sliding_attention.rope_type",
        ]
    ),
    "vision_config.hidden_size",
    "vision_config.standardize",
    "vision_config.use_clipped_linears",
]


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_fact_is_named_with_its_file(published: Published, path: str) -> None:
    with pytest.raises(ConfigError, match=rf"^some/config\.json lacks '{path}'"):
        ModelConfig.from_dict(drop(published("config"), path), where="some/config.json")


@pytest.mark.parametrize("section", ["", "text_config.", "vision_config."])
def test_an_unknown_key_is_refused_by_name(published: Published, section: str) -> None:
    path = f"{section}num_kv_shared_layers"
    with pytest.raises(ConfigError, match=rf"'{path}' is refused: it is unknown here"):
        ModelConfig.from_dict(put(published("config"), path, 0))


@pytest.mark.parametrize("key", ["auto_map", "custom_code", "trust_remote_code"])
def test_a_key_that_would_choose_code_is_refused(published: Published, key: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' is refused: .*choose code to run"):
        ModelConfig.from_dict(put(published("config"), key, {"AutoModel": "evil.Model"}))


PINNED: list[tuple[str, object, str]] = [
    ("model_type", "gemma3", "model_type is 'gemma3', must be 'diffusion_gemma'"),
    ("architectures", ["GemmaForCausalLM"], "architectures is .*'GemmaForCausalLM'"),
    ("architectures", None, "architectures is None"),
    ("tie_word_embeddings", False, "tie_word_embeddings is False, must be True"),
    ("tie_word_embeddings", 1, "tie_word_embeddings is 1, must be True"),
    ("text_config.tie_word_embeddings", False, "text_config.tie_word_embeddings is False"),
    ("text_config.attention_bias", True, "text_config.attention_bias is True, must be False"),
    ("text_config.hidden_activation", "silu", "must be 'gelu_pytorch_tanh'"),
    ("text_config.use_bidirectional_attention", "all", "must be 'vision' or None"),
    (
        "text_config.rope_parameters.full_attention.rope_type",
        "yarn",
        "rope_parameters.full_attention.rope_type is 'yarn', must be 'proportional'",
    ),
    ("vision_config.use_clipped_linears", True, "use_clipped_linears is True, must be False"),
]


@pytest.mark.parametrize(("path", "value", "message"), PINNED)
def test_what_is_not_implemented_is_refused_by_name(
    published: Published, path: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(put(published("config"), path, value))


ABSURD: list[tuple[str, object, str]] = [
    ("canvas_length", 10**9, "canvas_length is 1000000000, must be a whole number from 1 to 1024"),
    ("canvas_length", 0, "canvas_length is 0"),
    ("canvas_length", 256.0, "canvas_length is 256.0, must be a whole number"),
    ("canvas_length", True, "canvas_length is True, must be a whole number"),
    ("canvas_length", "256", "canvas_length is '256', must be a whole number"),
    ("canvas_length", None, "canvas_length is None, must be a whole number"),
    ("text_config.num_hidden_layers", 0, "num_hidden_layers is 0"),
    ("text_config.num_hidden_layers", -30, "num_hidden_layers is -30"),
    ("text_config.num_hidden_layers", 29, "layer_types .* num_hidden_layers=29 layers"),
    ("text_config.vocab_size", 2**40, f"vocab_size is {2**40}, must be .* to {2**20}"),
    ("text_config.vocab_size", 10**4000, "vocab_size is a number of 13288 bits"),
    ("text_config.num_key_value_heads", 3, "num_attention_heads=16 is no multiple of num_key"),
    ("text_config.num_global_key_value_heads", 5, "no multiple of num_global_key_value_heads=5"),
    ("text_config.head_dim", 255, "head_dim is 255, must be even"),
    ("text_config.global_head_dim", 7, "global_head_dim is 7, must be even"),
    ("text_config.top_k_experts", 129, "top_k_experts is 129, above num_experts = 128"),
    ("text_config.max_position_embeddings", 255, "canvas_length is 256, above max_position"),
    ("text_config.pad_token_id", 262144, "pad_token_id is 262144, above vocab_size - 1 = 262143"),
    ("text_config.pad_token_id", None, "pad_token_id is None"),
    ("text_config.rms_norm_eps", float("nan"), "rms_norm_eps is nan, must be a finite number"),
    ("text_config.rms_norm_eps", 10**400, "rms_norm_eps is a number of .* must be a finite"),
    ("text_config.rms_norm_eps", False, "rms_norm_eps is False, must be a number"),
    ("text_config.final_logit_softcapping", 0, "final_logit_softcapping is 0"),
    ("text_config.layer_types", ["full_attention"] * 29 + ["linear"], "ends with 'full_att"),
    ("text_config.layer_types", ["linear"] + ["full_attention"] * 29, "names 'linear'"),
    ("text_config.layer_types", ["sliding_attention"] * 30, "must be a list that ends with"),
    ("text_config.layer_types", ["full_attention"] * 31, "layer_types is"),
    ("text_config.layer_types", [], "layer_types is"),
    ("text_config.layer_types", "full_attention", "layer_types is"),
    ("text_config.rope_parameters", [], "rope_parameters is .* not an object"),
    ("vision_config.num_hidden_layers", 10**6, "vision_config.num_hidden_layers is 1000000"),
    ("vision_config.standardize", 1, "standardize is 1, must be True or False"),
    ("vision_config", 7, "vision_config is 7, not an object"),
]


@pytest.mark.parametrize(("path", "value", "message"), ABSURD)
def test_an_absurd_value_is_named_with_its_range(
    published: Published, path: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^config\.json: .*{message}"):
        ModelConfig.from_dict(put(published("config"), path, value))


def test_a_file_that_is_absent_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        ModelConfig.from_folder(tmp_path)


BROKEN: list[tuple[bytes, str]] = [
    (b"", "is not valid JSON"),
    (b"{", "is not valid JSON"),
    (b"\xff\xfe\x00", "is not valid JSON"),
    (b"[1]", r"holds \[1\] where an object"),
    (b'{"a": NaN}', "holds NaN, which is no JSON number"),
    (b'{"a": -Infinity}', "holds -Infinity"),
    (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    (b'{"a": 1, "a": 2}', "says 'a' twice"),
    (b"[" * 100_000, "nested too deep"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
    (b" " * ((1 << 20) + 1), "is larger than 1048576 bytes"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_a_file_that_is_no_sound_json_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_folder(tmp_path)


def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        ModelConfig.from_folder(tmp_path)


def test_a_dict_nested_without_end_is_a_config_error(published: Published) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for path in ("canvas_length", "text_config", "architectures", "text_config.layer_types", "new"):
        config = published("config")
        *way, last = path.split(".")
        (config[way[0]] if way else config)[last] = deep
        with pytest.raises(ConfigError):
            ModelConfig.from_dict(config)
    while deep:  # or its destructor recurses
        deep = deep.pop("a")


def paths_of(config: dict[str, Any], prefix: str = "") -> list[str]:
    """Every dotted path in `config`."""
    found = []
    for key, value in config.items():
        found.append(prefix + key)
        if isinstance(value, dict):
            found += paths_of(value, f"{prefix}{key}.")
    return found


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**40, 2**63, -(2**70), 10**9, 0, -1])
    | st.floats()
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@fast
@given(data=st.data())
def test_any_mutation_gives_a_config_or_a_config_error_and_allocates_little(
    published: Published, data: st.DataObject
) -> None:
    config = published("config")
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths_of(config)))
        how = data.draw(st.sampled_from(["put", "drop", "add"]))
        if how == "drop":
            config = drop(config, path)
        elif how == "add":
            section = path.rpartition(".")[0]
            name = data.draw(st.text(min_size=1, max_size=12).filter(lambda s: "." not in s))
            config = put(config, f"{section}.{name}" if section else name, data.draw(json_values))
        else:
            config = put(config, path, data.draw(json_values))
    message, peak = "", 0
    tracemalloc.start()
    try:
        read = ModelConfig.from_dict(config)
    except ConfigError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if not message:
        assert ModelConfig.from_dict(read.to_dict()) == read
    assert len(message) < 600  # a message, not a dump
    assert peak < 1 << 20


@fast
@given(content=json_values)
def test_any_json_value_in_place_of_the_file_is_a_config_error(content: Any) -> None:
    with pytest.raises(ConfigError):
        ModelConfig.from_dict(content)


def test_the_layout_that_transformers_saves_is_read(published: Published) -> None:
    from transformers import DiffusionGemmaConfig

    theirs = DiffusionGemmaConfig(**published("config"))
    saved = json.loads(theirs.to_json_string()) | {
        "architectures": ["DiffusionGemmaForBlockDiffusion"]
    }
    assert "per_layer_config" in saved["text_config"]
    assert ModelConfig.from_dict(saved) == ModelConfig.from_dict(published("config"))


def test_transformers_reads_what_we_write(published: Published) -> None:
    from transformers import DiffusionGemmaConfig

    config = ModelConfig.from_dict(published("config"))
    again = json.loads(DiffusionGemmaConfig(**config.to_dict()).to_json_string())
    again["architectures"] = ["DiffusionGemmaForBlockDiffusion"]
    assert ModelConfig.from_dict(again) == config


PER_LAYER: list[tuple[object, str]] = [
    ({"0": {"head_dim": 512}}, "per_layer_config.0 is .* must be said of one full-attention"),
    ({"5": {"head_dim": 512}}, "the same for every full-attention layer"),
    ({"99": {}}, "per_layer_config.99"),
    ({"five": {}}, "per_layer_config.five"),
    ({"5": {"sliding_window": 9}}, "per_layer_config.5.sliding_window' is refused"),
    ({"5": 1}, "per_layer_config.5 is 1, not an object"),
    ([], "per_layer_config is .* not an object"),
]


@pytest.mark.parametrize(("layers", "message"), PER_LAYER)
def test_full_layers_that_differ_from_one_another_are_refused(
    published: Published, layers: object, message: str
) -> None:
    config = put(published("config"), "text_config.per_layer_config", layers)
    config["text_config"].pop("global_head_dim")
    config["text_config"].pop("num_global_key_value_heads")
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(config)


def test_both_layouts_at_once_are_refused(published: Published) -> None:
    config = put(published("config"), "text_config.per_layer_config", {})
    with pytest.raises(ConfigError, match=r"text_config\.\w+_\w+' is refused: it is unknown"):
        ModelConfig.from_dict(config)
