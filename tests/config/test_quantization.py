"""`quantization_config`: four schemes are read to the letter, and nothing else gets past it.

published_fp8.json and published_nvfp4.json are what RedHatAI and nvidia published. The third,
published_int4.json, is put together from what is known of cyankiwi's: the scheme is certain, the
spelling of the keys is that of compressed-tensors.
"""

import copy
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgemma_backend.config import (
    Encoding,
    ModelConfig,
    OwnQuantization,
    PublishedQuantization,
)
from dgemma_backend.errors import ConfigError

Published = Callable[[str], dict[str, Any]]
PUBLISHED = {
    "fp8": Encoding("fp8", 0),
    "int4": Encoding("int4", 32),
    "nvfp4": Encoding("nvfp4", 16),
}
OWN: dict[str, Any] = {
    "quant_method": "dgemma",
    "version": 1,
    "format": "mine",
    "groups": [
        {"kind": "int4", "group": 64, "matrices": ["model.decoder.layers.0.experts.down_proj"]},
        {"kind": "fp8", "group": 0, "matrices": ["model.decoder.layers.0.mlp.up_proj.weight"]},
    ],
}


def read(published: Published, scheme: object) -> ModelConfig:
    return ModelConfig.from_dict({**published("config"), "quantization_config": scheme})


def put(scheme: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with `value` at the dotted `path`; ... takes it away."""
    changed = copy.deepcopy(scheme)
    *way, last = path.split(".")
    place: Any = changed
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return changed


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schemes_are_read(published: Published, name: str) -> None:
    found = read(published, published(name)).quantization
    assert isinstance(found, PublishedQuantization)
    assert (found.format, found.encoding) == (name, PUBLISHED[name])
    assert found.input_scales == (name == "nvfp4")
    layer = "model.decoder.layers.17."
    assert found.encoding_of(f"{layer}experts.127.gate_proj") == PUBLISHED[name]
    dense = [f"{layer}router.proj", "model.decoder.self_conditioning.up_proj", "lm_head"]
    dense += ["model.encoder.vision_tower.encoder.layers.26.mlp.up_proj.linear"]
    assert [found.encoding_of(each) for each in dense] == [None] * 4
    attention, mlp = (
        found.encoding_of(layer + each) for each in ("self_attn.q_proj", "mlp.up_proj")
    )
    assert attention == (None if name == "nvfp4" else PUBLISHED[name])
    assert mlp == (PUBLISHED[name] if name == "fp8" else None)


def test_our_own_layout_is_read(published: Published) -> None:
    found = read(published, OWN).quantization
    assert found == OwnQuantization(
        "mine",
        {
            "model.decoder.layers.0.experts.down_proj": Encoding("int4", 64),
            "model.decoder.layers.0.mlp.up_proj.weight": Encoding("fp8", 0),
        },
    )


@pytest.mark.parametrize("name", ["own", *PUBLISHED])
def test_what_is_written_is_read_back_equal(published: Published, name: str) -> None:
    config = read(published, OWN if name == "own" else published(name))
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.quantization == config.quantization is not None
    assert hash(again) == hash(config)


def test_null_says_that_nothing_is_quantised(published: Published) -> None:
    config = read(published, None)
    assert config.quantization is None
    assert config == ModelConfig.from_dict(published("config"))


GROUP = "config_groups.group_0."
BAD: list[tuple[str, str, object, str]] = [
    ("fp8", "quant_method", "gptq", "quant_method is 'gptq', must be 'dgemma' or 'compressed-t"),
    ("fp8", "quant_method", ..., "quant_method is None, must be .*bfloat16 checkpoint google/diff"),
    ("fp8", "quant_method", ["x"], r"quant_method is \['x'\]"),
    ("fp8", "format", "int-quantized", "format is 'int-quantized', must be 'float-quantized' or"),
    ("fp8", "format", "nvfp4-pack-quantized", "format is 'nvfp4-pack-quantized'"),
    ("fp8", "format", ..., "lacks 'quantization_config.format'"),
    ("fp8", "quantization_status", "frozen", "quantization_status is 'frozen', must be 'compr"),
    ("fp8", "kv_cache_scheme", {"num_bits": 8}, "kv_cache_scheme is {'num_bits': 8}, must be None"),
    ("fp8", "sparsity_config", {"format": "sparse-24"}, "sparsity_config is"),
    ("fp8", "transform_config", {"config_groups": 1}, "transform_config is"),
    ("fp8", "hadamard", True, "hadamard' is refused: it is unknown here"),
    ("fp8", "config_groups", {}, "config_groups is {}, must be one scheme for all linear layers"),
    ("fp8", "config_groups", {"a": {}, "b": {}}, "must be one scheme for all linear layers"),
    ("fp8", "config_groups", 3, "config_groups is 3, not an object"),
    ("fp8", GROUP + "targets", ["re:.*mlp"], "targets is .*, must be .'Linear'."),
    ("fp8", GROUP + "format", "pack-quantized", "group_0.format is 'pack-quantized'"),
    ("fp8", GROUP + "output_activations", {"num_bits": 8}, "output_activations is"),
    ("fp8", GROUP + "weights.num_bits", 4, "weights.num_bits is 4, must be 8"),
    ("fp8", GROUP + "weights.type", "int", "weights.type is 'int', must be 'float'"),
    ("fp8", GROUP + "weights.strategy", "tensor", "strategy is 'tensor', must be 'channel'"),
    ("fp8", GROUP + "weights.strategy", "block", "weights.strategy is 'block', must be 'channel'"),
    ("fp8", GROUP + "weights.symmetric", False, "weights.symmetric is False, must be True"),
    ("fp8", GROUP + "weights.group_size", 128, "weights.group_size is 128, must be None"),
    ("fp8", GROUP + "weights.block_structure", [128, 128], "block_structure is"),
    ("fp8", GROUP + "weights.zero_points", 1, "zero_points' is refused: it is unknown here"),
    ("fp8", GROUP + "input_activations.dynamic", False, "input_activations.dynamic is False"),
    ("fp8", "ignore", "lm_head", "ignore is 'lm_head', must be a list"),
    ("fp8", "ignore", ["a b"], "ignore holds 'a b', which is neither a layer's name nor a pattern"),
    ("fp8", "ignore", ["*mlp*"], r"ignore holds '\*mlp\*'"),
    ("fp8", "ignore", [7], "ignore holds 7"),
    ("fp8", "ignore", ["re:(a+)+$"], r"ignore holds 're:\(a\+\)\+\$'"),
    ("fp8", "ignore", ["x"] * 20_001, "ignore is .*, must be a list of at most 20000 layers"),
    ("fp8", "ignore", ["re:.*x"] * 101, "a list of names with at most 100 patterns"),
    ("int4", GROUP + "weights.num_bits", 8, "weights.num_bits is 8, must be 4"),
    ("int4", GROUP + "weights.group_size", 128, "weights.group_size is 128, must be 32 or 64"),
    ("int4", GROUP + "weights.group_size", None, "weights.group_size is None, must be 32 or 64"),
    ("int4", GROUP + "weights.symmetric", False, "weights.symmetric is False, must be True"),
    ("int4", GROUP + "weights.strategy", "channel", "strategy is 'channel', must be 'group'"),
    ("int4", GROUP + "weights.actorder", "group", "actorder is 'group', must be None or 'weight'"),
    ("int4", GROUP + "input_activations", {"num_bits": 8}, "input_activations is"),
    ("nvfp4", "quant_algo", "FP8", "quant_algo is 'FP8', must be 'NVFP4'"),
    ("nvfp4", "quant_algo", "W4A8_AWQ", "quant_algo is 'W4A8_AWQ'"),
    ("nvfp4", GROUP + "weights.group_size", 32, "group_0.weights is"),
    ("nvfp4", GROUP + "input_activations.num_bits", 8, "group_0.input_activations is"),
    ("nvfp4", "kv_cache_scheme.num_bits", 4, "kv_cache_scheme is"),
    ("nvfp4", "ignore", ["[ab]*"], "ignore holds"),
    ("nvfp4", "quantized_layers", {}, "quantized_layers' is refused"),
    ("own", "version", 2, "version is 2, must be 1"),
    ("own", "format", "../x", "format is '../x', must be the name of a format"),
    ("own", "groups", [], "groups is .., must be a list of encodings"),
    ("own", "groups", ["x"], "quantization_config.groups.0 is 'x', not an object"),
    ("own", "groups.0.kind", "int3", "groups.0.kind is 'int3', must be 'fp8' or 'int4' or 'nvfp4'"),
    ("own", "groups.0.group", 128, "groups.0.group is 128, must be 32 or 64"),
    ("own", "groups.1.group", 64, "groups.1.group is 64, must be 0"),
    ("own", "groups.0.zeros", True, "groups.0.zeros' is refused"),
    ("own", "groups.0.matrices", [], "groups.0.matrices is .., must be a list of names"),
    ("own", "groups.0.matrices", ["a", "a"], "matrices names 'a', which is no matrix or was named"),
    ("own", "groups.0.matrices", [{}], "matrices names {}, which is no matrix"),
    ("own", "code", "x", "code' is refused: it is unknown here"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "value", "message"), BAD)
def test_every_other_scheme_is_refused_by_key_and_value(
    published: Published, name: str, path: str, value: object, message: str
) -> None:
    scheme = put(OWN if name == "own" else published(name), path, value)
    with pytest.raises(ConfigError, match=message) as refused:
        read(published, scheme)
    assert str(refused.value).startswith("config.json")


@pytest.mark.parametrize("key", ["quantization", "compression_config"])
def test_other_words_for_it_are_refused(published: Published, key: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' is refused: .*of a kind that is not read"):
        ModelConfig.from_dict({**published("config"), key: {"bits": 4, "group_size": 64}})


@pytest.mark.parametrize(
    ("expression", "layer", "left_out"),
    [
        ("re:.*mlp.*", "model.decoder.layers.3.mlp.up_proj", True),
        ("re:.*mlp$", "model.decoder.layers.3.mlp.up_proj", False),
        (r"re:model\.decoder\.layers\.3\..*", "model.decoder.layers.3.mlp.up_proj", True),
        (r"re:model\.decoder\.layers\.3\..*", "model.decoder.layers.13.mlp.up_proj", False),
        ("re:^model.decoder", "model.decoder.layers.13.mlp.up_proj", True),
        ("re:layers", "model.decoder.layers.13.mlp.up_proj", False),
        ("model.decoder.layers.3.mlp.up_proj", "model.decoder.layers.3.mlp.up_proj", True),
        ("model.decoder.layers.3.mlp.up", "model.decoder.layers.3.mlp.up_proj", False),
    ],
)
def test_expressions_match_as_compressed_tensors_matches_them(
    published: Published, expression: str, layer: str, left_out: bool
) -> None:
    config = read(published, put(published("fp8"), "ignore", [expression]))
    assert isinstance(config.quantization, PublishedQuantization)
    assert (config.quantization.encoding_of(layer) is None) == left_out


def test_no_pattern_takes_long_to_match(published: Published) -> None:
    pattern = "re:" + ".*a" * 90 + "$"
    config = read(published, put(published("fp8"), "ignore", [pattern] * 100))
    assert isinstance(config.quantization, PublishedQuantization)
    begun = time.monotonic()
    for _ in range(20):
        assert config.quantization.encoding_of("a" * 80 + "b") is not None
    assert time.monotonic() - begun < 5


MODELOPT_FILE: dict[str, Any] = {
    "producer": {"name": "modelopt", "version": "0.45.0"},
    "quantization": {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
        "exclude_modules": ["lm_head", "*mlp*", "*router*", "*self_attn*"],
    },
}


def write(folder: Path, config: dict[str, Any], modelopt: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "hf_quant_config.json").write_text(json.dumps(modelopt))
    return folder


def test_the_scheme_may_stand_in_modelopts_own_file(published: Published, tmp_path: Path) -> None:
    config = ModelConfig.from_folder(write(tmp_path, published("config"), MODELOPT_FILE))
    found = config.quantization
    assert isinstance(found, PublishedQuantization)
    assert (found.encoding, found.input_scales) == (Encoding("nvfp4", 16), True)
    assert found.encoding_of("model.decoder.layers.0.mlp.up_proj") is None
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_two_files_that_disagree_are_refused(published: Published, tmp_path: Path) -> None:
    both = {**published("config"), "quantization_config": published("nvfp4")}
    config = ModelConfig.from_folder(write(tmp_path, both, MODELOPT_FILE))
    assert isinstance(config.quantization, PublishedQuantization)
    assert "*vision_tower*" in config.quantization.left_out  # config.json's list is the one
    both["quantization_config"] = published("fp8")
    with pytest.raises(ConfigError, match=r"hf_quant_config\.json says .* nvfp4, and .* are fp8"):
        ModelConfig.from_folder(write(tmp_path, both, MODELOPT_FILE))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("quantization", ..., "lacks 'quantization'"),
        ("quantization.quant_algo", "FP8", "quant_algo is 'FP8', must be 'NVFP4'"),
        ("quantization.group_size", 32, "group_size is 32, must be 16"),
        ("quantization.kv_cache_quant_algo", "NVFP4", "kv_cache_quant_algo is 'NVFP4'"),
        ("quantization.exclude_modules", ..., "lacks 'quantization.exclude_modules'"),
        ("quantization.has_zero_point", True, "has_zero_point' is refused"),
        ("extra", 1, "'extra' is refused"),
    ],
)
def test_another_scheme_in_modelopts_file_is_refused(
    published: Published, tmp_path: Path, path: str, value: object, message: str
) -> None:
    write(tmp_path, published("config"), put(MODELOPT_FILE, path, value))
    with pytest.raises(ConfigError, match=rf"hf_quant_config\.json.*{message}"):
        ModelConfig.from_folder(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_file_says_the_answer_is_a_config_or_a_config_error(
    published: Published, data: st.DataObject
) -> None:
    scheme = (
        OWN
        if (name := data.draw(st.sampled_from(["own", *PUBLISHED]))) == "own"
        else published(name)
    )
    place: Any = copy.deepcopy(scheme)
    whole = place
    while isinstance(place, dict):
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
            break
        place = place[key]
    with suppress(ConfigError):
        read(published, whole)
