"""Matrices are quantised while they load: the right ones, expert by expert, in little memory."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dgemma_backend.errors import CheckpointError, PluginError, SettingError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.plugins import Plugins
from dgemma_backend.weights.checkpoint import load_into, save
from dgemma_backend.weights.formats import Fp8, Int4, QuantizationFormat
from dgemma_backend.weights.placing import install, memory_of, stored_matrices
from dgemma_backend.weights.quantizing import quantize_folder
from dgemma_kernels.quantized import (
    Fp4Matrix,
    Fp8Matrix,
    Int4Matrix,
    QuantizedMatrix,
    dequantized,
)

Empty = Callable[[], DiffusionGemma]
Write = Callable[..., Path]
EXPERTS = re.compile(r"layers\.\d\.experts\.(gate_up|down)_proj")
DENSE = re.compile(r"layers\.\d\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight")


def load(
    model: nn.Module, folder: Path, quantization: QuantizationFormat | None = None, **options: Any
) -> dict[str, Tensor | QuantizedMatrix]:
    options = {"dtype": torch.float32, "device": "cpu", **options}
    load_into(model, folder, quantization=quantization, **options)
    return dict(stored_matrices(model))


def same_parts(one: QuantizedMatrix, other: QuantizedMatrix) -> bool:
    return type(one) is type(other) and all(
        torch.equal(part.view(torch.uint8), other.parts[name].view(torch.uint8))
        for name, part in one.parts.items()
    )


@pytest.mark.parametrize("format", [Int4(), Fp8()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_just_the_matrices_of_the_format_are_quantised_and_each_as_if_alone(
    checkpoint: Path, empty_model: Empty, format: QuantizationFormat, dtype: torch.dtype
) -> None:
    dense = load(empty_model(), checkpoint)
    found = load(empty_model(), checkpoint, format, dtype=dtype)
    assert found.keys() == dense.keys()
    for name, matrix in found.items():
        whole = dense[name]
        assert isinstance(whole, Tensor)
        if EXPERTS.fullmatch(name):
            assert isinstance(matrix, Int4Matrix if format.name == "int4" else Fp8Matrix)
            for expert in range(whole.shape[0]):
                alone = type(matrix).quantize(whole[expert])
                assert same_parts(matrix[expert], alone)
                if isinstance(matrix, Int4Matrix):
                    assert matrix.group == 64
        elif DENSE.fullmatch(name):
            assert isinstance(matrix, Fp8Matrix)
            assert same_parts(matrix, Fp8Matrix.quantize(whole))
        else:
            assert isinstance(matrix, Tensor)
            assert torch.equal(matrix, whole.to(dtype))
        assert matrix.shape == whole.shape


def test_a_quantised_model_is_the_dense_one_with_its_rounded_weights(
    checkpoint: Path, empty_model: Empty
) -> None:
    quantised, rounded = empty_model(), empty_model()
    found = load(quantised, checkpoint, Int4())
    load(rounded, checkpoint)
    for name, matrix in found.items():
        if isinstance(matrix, QuantizedMatrix):
            install(rounded, name, matrix.dequantize(torch.float32))
    tokens = torch.arange(20)
    with torch.no_grad():
        one, other = (model.encode([tokens], [model.new_cache()]) for model in (quantised, rounded))
    assert torch.equal(one, other)
    assert one.isfinite().all()


def test_a_quantised_model_takes_weights_in_full_precision_again(
    checkpoint: Path, empty_model: Empty, small_model: DiffusionGemma
) -> None:
    model = empty_model()
    load(model, checkpoint, Int4())
    assert not any(name.endswith("experts.down_proj") for name, _ in model.named_parameters())
    again = load(model, checkpoint)
    names = {name for name, _ in model.named_parameters()}
    assert names == {name for name, _ in small_model.named_parameters()}
    for name, matrix in again.items():
        assert torch.equal(dequantized(matrix, torch.float32), small_model.state_dict()[name])  # type: ignore[arg-type]


def test_a_parameter_stays_trainable_where_it_was(checkpoint: Path, empty_model: Empty) -> None:
    model = empty_model()
    model.norm.weight.requires_grad_(False)
    load(model, checkpoint)
    wanted = {name: each.requires_grad for name, each in model.named_parameters()}
    assert wanted.pop("norm.weight") is False
    assert all(wanted.values())


def test_parameters_and_bytes_can_be_counted(checkpoint: Path, empty_model: Empty) -> None:
    dense = load(empty_model(), checkpoint, dtype=torch.bfloat16)
    quantised = load(empty_model(), checkpoint, Fp8(), dtype=torch.bfloat16)
    counts = [sum(each.shape.numel() for each in found.values()) for found in (dense, quantised)]
    assert counts[0] == counts[1]
    kept, saved = (sum(map(memory_of, found.values())) for found in (dense, quantised))
    assert saved < 0.7 * kept


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("format", [Int4(), Fp8()])
def test_on_a_gpu_matrices_are_quantised_there(
    checkpoint: Path, empty_model: Empty, format: QuantizationFormat
) -> None:
    here = load(empty_model(), checkpoint, format)
    there = load(empty_model(), checkpoint, format, device="cuda")
    for name, matrix in there.items():
        assert matrix.device.type == "cuda"
        one, other = (dequantized(each, torch.float32) for each in (here[name], matrix))  # type: ignore[arg-type]
        torch.testing.assert_close(other.cpu(), one, rtol=0.1, atol=0.1)


class Strange:
    """A format that does as it is told."""

    name = "strange"

    def __init__(self, make: Callable[[Tensor], Any], only: str = "layers.1.mlp.up_proj") -> None:
        self.make, self.only = make, only
        self.asked: list[str] = []

    def matrix_for(self, name: str) -> Callable[[Tensor], Any] | None:
        self.asked.append(name)
        return self.make if name.startswith(self.only) else None


def test_a_plugins_format_chooses_the_matrices(checkpoint: Path, empty_model: Empty) -> None:
    format = Strange(Fp4Matrix.quantize, "self_conditioning")
    found = load(empty_model(), checkpoint, format)
    quantised = {name for name, each in found.items() if isinstance(each, Fp4Matrix)}
    assert quantised == {f"self_conditioning.{each}_proj.weight" for each in ("gate", "up", "down")}
    allowed = [name for name in found if EXPERTS.fullmatch(name) or DENSE.fullmatch(name)]
    assert set(format.asked) == quantised | set(allowed)  # not embedding, router and norms


def alternating() -> Callable[[Tensor], QuantizedMatrix]:
    makers: list[Callable[[Tensor], QuantizedMatrix]]
    makers = [Fp8Matrix.quantize, Fp8Matrix.quantize, Int4Matrix.quantize]
    return lambda dense: makers.pop(0)(dense)


@pytest.mark.parametrize(
    ("make", "only", "error", "message"),
    [
        (lambda x: x, "layers.1.mlp.up", PluginError, "makes layers.1.mlp.up_proj.weight a Tensor"),
        (alternating(), "layers.0.experts.gate", PluginError, "made .* a Int4Matrix.*promised fp8"),
        (
            lambda x: Fp8Matrix.quantize(x[:1]),
            "layers.1.mlp.up",
            PluginError,
            "made .* of the same",
        ),
    ],
)
def test_a_format_that_breaks_its_word_is_named(
    checkpoint: Path,
    empty_model: Empty,
    make: Callable[[Tensor], Any],
    only: str,
    error: type[Exception],
    message: str,
) -> None:
    model = empty_model()
    with pytest.raises(error, match=f"quantization format 'strange' {message}"):
        load(model, checkpoint, Strange(make, only))
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_weights_that_are_not_finite_are_not_quantised(
    small_model: DiffusionGemma, write: Write, empty_model: Empty, tmp_path: Path
) -> None:
    weight = small_model.state_dict()["layers.2.experts.down_proj"]
    before = weight[3, 1, 1].clone()
    try:
        weight[3, 1, 1] = torch.nan
        folder = write(tmp_path / "saved")
    finally:
        weight[3, 1, 1] = before
    with pytest.raises(CheckpointError, match=r"layers\.2\.experts\.down_proj cannot be quantised"):
        load(empty_model(), folder, Int4())
    load(empty_model(), folder)


def test_quantised_weights_are_not_quantised_again(
    checkpoint: Path, empty_model: Empty, tmp_path: Path
) -> None:
    quantize_folder(checkpoint, tmp_path / "int4", Int4())
    with pytest.raises(SettingError, match="quantization='fp8' .* are int4 already. Leave it out"):
        load(empty_model(), tmp_path / "int4", Fp8())
    asked, stored = (load(empty_model(), tmp_path / "int4", each) for each in (Int4(), None))
    for name, matrix in asked.items():
        if isinstance(matrix, QuantizedMatrix):
            other = stored[name]
            assert isinstance(other, QuantizedMatrix)
            assert same_parts(matrix, other)


def test_our_formats_come_in_by_the_plugins_door() -> None:
    plugins = Plugins.load(installed=False, env={})
    assert [record.name for record in plugins.records("quantization")] == ["int4", "fp8"]
    assert [plugins.quantization(name)().name for name in ("int4", "fp8")] == ["int4", "fp8"]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and not each.is_meta:
                storage = each.untyped_storage()
                self.known[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.known = {
            key: (reference, size)
            for key, (reference, size) in self.known.items()
            if not reference.expired()
        }
        self.peak = max(self.peak, sum(size for _, size in self.known.values()))
        return out


EXPERT = 64 * 32 * 4  # bytes of the gate and up projections of one of the many


@pytest.fixture
def many_experts(
    tmp_path: Path, toy_facts: Callable[..., dict[str, Any]], random_model: Callable[..., Any]
) -> tuple[Path, Callable[[], DiffusionGemma]]:
    """Experts, of which each has a 32nd of its tensor, and next to nothing else."""
    from dgemma_backend.config import DecodingDefaults

    kinds = ["sliding_attention", "full_attention"]
    facts = toy_facts(
        num_experts=32, moe_intermediate_size=32, num_hidden_layers=2, layer_types=kinds
    )
    facts["vision_config"] = None
    model = random_model(facts)
    decoding = DecodingDefaults(8, 0.4, 0.8, 0.1, 0.005, 1, (1, 6), 0)
    save(model, tmp_path / "many", config=model.config, decoding=decoding, dtype=torch.float32)

    def empty() -> DiffusionGemma:
        with torch.device("meta"):
            return DiffusionGemma(model.config)

    return tmp_path / "many", empty


def test_the_counter_sees_a_second_copy() -> None:
    with LiveBytes() as live:
        kept = torch.zeros(1000)
        torch.zeros(500)
        del kept
        torch.zeros(1000)
    assert live.peak == 6000


@pytest.mark.parametrize("format", [Int4(), Fp8()])
def test_of_a_layers_experts_one_at_a_time_is_there_in_full_precision(
    many_experts: tuple[Path, Callable[[], DiffusionGemma]], format: QuantizationFormat
) -> None:
    folder, empty = many_experts
    load(empty(), folder, format)  # what is computed once is computed now
    model = empty()
    with LiveBytes() as live:
        load(model, folder, format)
    size = sum(memory_of(matrix) for _, matrix in stored_matrices(model))
    assert live.peak < size + 6 * EXPERT
    assert 6 * EXPERT < 32 * EXPERT / 4  # far from a tensor in full precision


def test_a_folder_is_quantised_in_the_memory_of_one_expert(
    many_experts: tuple[Path, Callable[[], DiffusionGemma]], tmp_path: Path
) -> None:
    folder, _ = many_experts
    quantize_folder(folder, tmp_path / "first", Int4())
    with LiveBytes() as live:
        quantize_folder(folder, tmp_path / "second", Int4())
    assert live.peak < 12 * EXPERT
