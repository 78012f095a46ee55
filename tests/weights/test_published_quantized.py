"""Checkpoints that others quantised load in their exact layouts, to the numbers they mean.

The oracle is each format's formula, written out plainly. Names, shapes and dtypes of the three
layouts are checked against what is published: number of tensors and bytes in all.
"""

import json
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgemma_backend.config import ModelConfig
from dgemma_backend.errors import DgemmaError, SettingError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import load_into
from dgemma_backend.weights.expected import expected_tensors
from dgemma_backend.weights.formats import Int4
from dgemma_backend.weights.manifest import write_manifest
from dgemma_backend.weights.placing import stored_matrices
from dgemma_backend.weights.stream import TORCH_DTYPES
from dgemma_kernels.quantized import Fp4Matrix, Fp8Matrix, Int4Matrix, QuantizedMatrix

Empty = Callable[[], DiffusionGemma]
SCHEMES = Path(__file__).parents[1] / "config" / "data"
CLASSES = {"fp8": Fp8Matrix, "int4": Int4Matrix, "nvfp4": Fp4Matrix}
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
EXPERTS = re.compile(r"(model\.decoder\.layers\.\d\.experts)\.(gate_up|down)_proj")
ATTENTION = re.compile(r"model\.decoder\.layers\.\d\.self_attn\.[qkvo]_proj\.weight")
MLP = re.compile(r"model\.decoder\.layers\.\d\.mlp\.[a-z]+_proj\.weight")
QUANTISED = {"fp8": (EXPERTS, ATTENTION, MLP), "int4": (EXPERTS, ATTENTION), "nvfp4": (EXPERTS,)}


def scheme(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMES / f"published_{name}.json").read_text())
    return found


def fp8_layer(rows: int, columns: int, draw: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """RedHatAI's: the tensors of a layer, and the weights they mean."""
    weight = torch.randn(rows, columns, generator=draw).to(torch.float8_e4m3fn)
    scale = (torch.rand(rows, 1, generator=draw) + 0.01).bfloat16()
    return {"weight": weight, "weight_scale": scale}, weight.float() * scale.float()


def int4_layer(rows: int, columns: int, draw: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """cyankiwi's: eight codes a word, plus 8, the first in the lowest bits; groups of 32."""
    codes = torch.randint(-8, 8, (rows, columns), generator=draw)
    scale = (torch.rand(rows, -(-columns // 32), generator=draw) + 0.01).bfloat16()
    packed = torch.zeros(rows, -(-columns // 8), dtype=torch.int64)
    for column in range(columns):
        packed[:, column // 8] += (codes[:, column] + 8) << 4 * (column % 8)
    words = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)
    each = torch.stack([scale[:, column // 32].float() for column in range(columns)], dim=1)
    shape = torch.tensor([rows, columns])
    tensors = {"weight_packed": words, "weight_scale": scale, "weight_shape": shape}
    return tensors, codes * each


def nvfp4_layer(rows: int, columns: int, draw: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """nvidia's: two codes a byte, the even column low; groups of 16; one scale for the layer."""
    codes = torch.randint(0, 16, (rows, columns), generator=draw)
    scale = (torch.rand(rows, -(-columns // 16), generator=draw) * 100 + 1).to(torch.float8_e4m3fn)
    whole = torch.rand((), generator=draw) * 1e-3
    each = torch.stack([scale[:, column // 16].float() for column in range(columns)], dim=1)
    tensors = {
        "weight": (codes[:, ::2] + 16 * codes[:, 1::2]).to(torch.uint8),
        "weight_scale": scale,
        "weight_scale_2": whole,
        "input_scale": torch.rand((), generator=draw),
    }
    return tensors, torch.tensor(E2M1)[codes] * each * whole


LAYERS: dict[str, Callable[[int, int, torch.Generator], tuple[dict[str, Tensor], Tensor]]]
LAYERS = {"fp8": fp8_layer, "int4": int4_layer, "nvfp4": nvfp4_layer}
Published = Callable[..., tuple[Path, dict[str, Tensor]]]


@pytest.fixture
def published(checkpoint: Path) -> Published:
    """Writes the small checkpoint anew as one of the three; with the weights that it means."""

    def make(kind: str, **changes: Any) -> tuple[Path, dict[str, Tensor]]:
        draw = torch.Generator().manual_seed(7)
        tensors: dict[str, Tensor] = {}
        for path in checkpoint.glob("*.safetensors"):
            tensors |= load_file(path)
            path.unlink()
        meant = dict(tensors)
        for name in sorted(tensors):
            if not any(each.fullmatch(name) for each in QUANTISED[kind]):
                continue
            whole = tensors.pop(name)
            if not (match := EXPERTS.fullmatch(name)):
                layer, meant[name] = LAYERS[kind](whole.shape[0], whole.shape[1], draw)
                tensors |= put_under(name.removesuffix(".weight"), layer)
                continue
            experts = []
            for expert in range(whole.shape[0]):
                parts = []
                for each in ("gate_proj", "up_proj") if match[2] == "gate_up" else ("down_proj",):
                    rows = whole.shape[1] // (2 if match[2] == "gate_up" else 1)
                    layer, dense = LAYERS[kind](rows, whole.shape[2], draw)
                    tensors |= put_under(f"{match[1]}.{expert}.{each}", layer)
                    parts.append(dense)
                experts.append(torch.cat(parts))
            meant[name] = torch.stack(experts)
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
        index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}  # RedHatAI has one
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
        config = json.loads((checkpoint / "config.json").read_text())
        config["quantization_config"] = {**scheme(kind), **changes}
        (checkpoint / "config.json").write_text(json.dumps(config))
        return checkpoint, meant

    return make


def put_under(name: str, layer: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{ending}": tensor for ending, tensor in layer.items()}


def load(empty: Empty, folder: Path, **options: Any) -> dict[str, Tensor | QuantizedMatrix]:
    model = empty()
    load_into(model, folder, **{"dtype": torch.float32, "device": "cpu", **options})
    return {f"model.decoder.{name}": matrix for name, matrix in stored_matrices(model)}


def refused(empty: Empty, folder: Path, message: str) -> None:
    model = empty()
    with pytest.raises(DgemmaError, match=message):
        load_into(model, folder, dtype=torch.float32, device="cpu")
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("kind", LAYERS)
def test_every_matrix_is_what_its_formula_says(
    published: Published, empty_model: Empty, kind: str
) -> None:
    folder, meant = published(kind)
    quantised = 0
    for name, matrix in load(empty_model, folder).items():
        if isinstance(matrix, Tensor):
            assert torch.equal(matrix, meant[name])
            assert not any(each.fullmatch(name) for each in QUANTISED[kind])
            continue
        quantised += 1
        assert isinstance(matrix, CLASSES[kind])
        assert matrix.shape == meant[name].shape
        # one product is rounded once to float32 whichever way it is taken, two may differ by a bit
        spread = 0 if kind != "nvfp4" else 2**-22
        found = matrix.dequantize(torch.float32)
        torch.testing.assert_close(found, meant[name], rtol=spread, atol=0)
    assert quantised == {"fp8": 6 + 11 + 9, "int4": 6 + 11, "nvfp4": 6}[kind]


@pytest.mark.parametrize("kind", LAYERS)
def test_where_the_bytes_lie_makes_no_difference(
    published: Published, empty_model: Empty, kind: str
) -> None:
    folder, _ = published(kind)
    one = load(empty_model, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    placed = {name: f"model-{i % 3}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(placed.values()):
        save_file({name: tensors[name] for name in placed if placed[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    for name, matrix in load(empty_model, folder).items():
        before = one[name]
        if isinstance(matrix, QuantizedMatrix):
            assert isinstance(before, QuantizedMatrix)
            matrix, before = (each.dequantize(torch.float32) for each in (matrix, before))
        assert torch.equal(matrix, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", LAYERS)
def test_a_flipped_byte_is_found_where_there_are_checksums(
    published: Published, empty_model: Empty, kind: str
) -> None:
    folder, _ = published(kind)
    write_manifest(folder, [path.name for path in folder.iterdir()])
    load(empty_model, folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    refused(empty_model, folder, r"model\.safetensors is not the file it should be")


def test_a_weight_only_scheme_has_no_input_scales(published: Published, empty_model: Empty) -> None:
    groups = scheme("nvfp4")["config_groups"]
    groups["group_0"]["input_activations"] = None
    folder, _ = published("nvfp4", config_groups=groups)
    refused(empty_model, folder, r"holds .*input_scale', .* its config\.json does not say so")
    edit(folder, lambda t: [t.pop(name) for name in list(t) if name.endswith(".input_scale")])
    load(empty_model, folder)


def test_quantised_weights_are_not_quantised_again(
    published: Published, empty_model: Empty
) -> None:
    folder, _ = published("int4")
    with pytest.raises(SettingError, match="are int4 already. Leave it out to use them"):
        load(empty_model, folder, quantization=Int4())


@pytest.mark.parametrize(
    ("kind", "count", "size"),
    [
        ("fp8", 24_232, 27_197_665_496),  # RedHatAI/diffusiongemma-26B-A4B-it-FP8-dynamic
        ("nvfp4", 47_067, 18_818_050_776),  # nvidia/diffusiongemma-26B-A4B-it-NVFP4
        ("int4", 35_777, None),  # cyankiwi/diffusiongemma-26B-A4B-it-AWQ-INT4, 17.2 GB
    ],
)
def test_the_published_files_hold_just_these_tensors(
    published_config: ModelConfig, kind: str, count: int, size: int | None
) -> None:
    facts = {**published_config.to_dict(), "quantization_config": scheme(kind)}
    expected = expected_tensors(ModelConfig.from_dict(facts))
    assert len(expected) == count
    found = sum(
        prod(each.shape) * TORCH_DTYPES[each.dtypes[0]].itemsize for each in expected.values()
    )
    assert found == size or (size is None and 17.1e9 < found < 17.3e9)


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)


GATE = "model.decoder.layers.1.experts.2.gate_proj"
QUERY = "model.decoder.layers.0.self_attn.q_proj"


def drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


def add(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: torch.ones(1)})


DAMAGED: list[tuple[str, Callable[[dict[str, Tensor]], object], str]] = [
    ("fp8", drop(f"{GATE}.weight_scale"), rf"lacks 1 of .*{GATE}\.weight_scale"),
    ("fp8", drop(f"{QUERY}.weight"), rf"lacks 1 of .*{QUERY}\.weight'"),
    ("fp8", add(f"{QUERY}.weight_zero_point"), rf"holds 1 tensors .*{QUERY}\.weight_zero_point"),
    ("fp8", add(f"{QUERY}.input_scale"), rf"{QUERY}\.input_scale', as quantised variants do"),
    ("fp8", put(f"{QUERY}.weight", lambda t: t.bfloat16()), "is stored as BF16, must be F8_E4M3"),
    ("fp8", put(f"{GATE}.weight_scale", lambda t: t[:, 0]), r"has shape \(24,\), .* \(24, 1\)"),
    (
        "fp8",
        put(f"{GATE}.weight_scale", lambda t: torch.full_like(t, torch.inf)),
        rf"{GATE}\.weight_scale holds NaN or infinity: the weights are damaged",
    ),
    ("int4", drop(f"{GATE}.weight_shape"), rf"lacks 1 of .*{GATE}\.weight_shape"),
    ("int4", add(f"{GATE}.weight_g_idx"), rf"holds 1 tensors .*{GATE}\.weight_g_idx"),
    (
        "int4",
        put(f"{GATE}.weight_packed", lambda t: t[:, :-1]),
        r"has shape \(24, 3\), .*\(24, 4\)",
    ),
    (
        "int4",
        put(f"{GATE}.weight_shape", lambda t: torch.tensor([24, 31])),
        rf"{GATE}\.weight_shape is \[24, 31\], and config\.json makes the layer \(24, 32\)",
    ),
    ("int4", put(f"{QUERY}.weight_scale", lambda t: t * torch.nan), "weight_scale holds NaN"),
    (
        "int4",
        put(f"{QUERY}.weight_scale", lambda t: t.to(torch.int8)),
        "is stored as I8, must be BF16 or F16 or F32 or F64. Is config.json of another variant",
    ),
    ("nvfp4", drop(f"{GATE}.weight_scale_2"), rf"lacks 1 of .*{GATE}\.weight_scale_2"),
    ("nvfp4", drop(f"{GATE}.input_scale"), rf"lacks 1 of .*{GATE}\.input_scale"),
    ("nvfp4", add("model.decoder.layers.0.self_attn.k_proj.k_scale"), r"holds 1 tensors .*k_scale"),
    ("nvfp4", put(f"{GATE}.weight", lambda t: t[:-1]), r"has shape \(23, 16\), .* \(24, 16\)"),
    ("nvfp4", put(f"{GATE}.weight_scale_2", lambda t: t.expand(1)), r"has shape \(1,\), .* \(\)"),
    ("nvfp4", put(f"{GATE}.weight_scale_2", lambda t: t.double()), "is stored as F64, must be F32"),
    (
        "nvfp4",
        put(f"{GATE}.weight_scale", lambda t: (-t.float()).to(t.dtype)),
        rf"{GATE} and .*experts\.2\.up_proj: \d+ of \d+ scales are negative",
    ),
    (
        "nvfp4",
        put(f"{GATE}.weight_scale", lambda t: (t.float() * torch.nan).to(t.dtype)),
        rf"{GATE}\.weight_scale holds NaN",
    ),
]


@pytest.mark.parametrize(("kind", "change", "message"), DAMAGED)
def test_tensors_that_are_missing_over_or_of_another_kind_are_named(
    published: Published,
    empty_model: Empty,
    kind: str,
    change: Callable[[dict[str, Tensor]], object],
    message: str,
) -> None:
    folder, _ = published(kind)
    edit(folder, change)
    refused(empty_model, folder, message)


@pytest.mark.parametrize(
    ("kind", "left_out", "message"),
    [
        ("fp8", "router.proj", "does not leave out model.decoder.layers.0.router.proj, which is"),
        ("fp8", "input_proj", "leave out model.encoder.vision_tower.patch_embedder.input_proj"),
        (
            "fp8",
            "embedding_projection",
            "leave out model.encoder.embed_vision.embedding_projection",
        ),
    ],
)
def test_layers_that_must_be_in_full_precision_are_left_out_or_refused(
    published: Published, empty_model: Empty, kind: str, left_out: str, message: str
) -> None:
    names = [name for name in scheme(kind)["ignore"] if not name.endswith(left_out)]
    folder, _ = published(kind, ignore=names)
    refused(empty_model, folder, message)


def test_the_experts_of_a_layer_are_stored_alike(published: Published, empty_model: Empty) -> None:
    folder, _ = published("fp8", ignore=[*scheme("fp8")["ignore"], GATE])
    refused(empty_model, folder, f"leaves out {GATE} and not its siblings")


def test_a_scheme_that_quantises_more_says_so_by_its_tensors(
    published: Published, empty_model: Empty
) -> None:
    folder, _ = published("int4", ignore=scheme("fp8")["ignore"])
    refused(empty_model, folder, r"lacks 27 of the .*mlp\.down_proj\.weight_packed")


def test_an_odd_number_of_columns_cannot_be_pairs(
    toy_facts: Callable[..., dict[str, Any]],
) -> None:
    facts = {**toy_facts(moe_intermediate_size=23), "quantization_config": scheme("nvfp4")}
    with pytest.raises(DgemmaError, match=r"stores columns in pairs, and .*down_proj has 23"):
        expected_tensors(ModelConfig.from_dict(facts))
