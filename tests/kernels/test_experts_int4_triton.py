"""4-bit products against float64, and the PTX decoders bit by bit, run by a small PTX machine."""

import re
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from dgemma_kernels.experts_int4_triton import (
    compile_cases,
    down_int4_triton,
    expert_tiles,
    gate_up_int4_triton,
)
from dgemma_kernels.four_bit_triton import FORMATS, FourBitMatrix, code_ptx, packed, scale_ptx
from dgemma_kernels.fp4 import Fp4Matrix
from dgemma_kernels.int4 import Int4Matrix
from dgemma_kernels.linear_int4_triton import linear_int4_triton

TOLERANCE = {torch.float32: 2e-6, torch.float16: 7e-4, torch.bfloat16: 4e-3}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantize(dense: Tensor, form: str) -> FourBitMatrix:
    if form == "fp4":
        return Fp4Matrix.quantize(dense)
    return Int4Matrix.quantize(dense, int(form.removeprefix("int4_")))


def exactly(matrix: FourBitMatrix, dtype: torch.dtype) -> Tensor:
    """What a kernel multiplies: int4 weights are rounded to `dtype`, fp4 weights need not be."""
    if isinstance(matrix, Int4Matrix):
        return matrix.dequantize(dtype).double()
    return matrix.dequantize(torch.float64)


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double().cpu() - expected).norm() / expected.norm())


class Slots(NamedTuple):
    """Slots sorted by expert, as the kernels take them."""

    order: Tensor
    offsets: Tensor
    experts: Tensor  # of each sorted slot

    @classmethod
    def of(cls, experts: Tensor, count: int) -> "Slots":
        flat = experts.flatten()
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=count)
        offsets = torch.cat((torch.zeros(1, dtype=torch.long), counts.cumsum(0)))
        return cls(order.int(), offsets.int(), flat[order])


def gate_up_by_hand(x: Tensor, slots: Slots, weights: Tensor, top_k: int) -> Tensor:
    rows = x.double()[slots.order.long() // top_k]
    both = torch.einsum("snd,sd->sn", weights[slots.experts], rows)
    gate, up = both.chunk(2, dim=-1)
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def down_by_hand(act: Tensor, slots: Slots, weights: Tensor) -> Tensor:
    rows = torch.einsum("snd,sd->sn", weights[slots.experts], act.double())
    return rows[slots.order.long().argsort()]


# (experts, width, hidden size): below, at and above a tile's rows and chunks; with a masked last
# step (three chunks); with the tall tile of the down projection (256 rows, one chunk).
SHAPES = [(3, 24, 40), (2, 64, 128), (2, 72, 136), (2, 65, 200), (2, 64, 256)]
CASES = [
    *((shape, torch.bfloat16) for shape in SHAPES),
    *((shape, torch.float32) for shape in SHAPES[2:]),
    (SHAPES[2], torch.float16),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
@pytest.mark.usefixtures("poisoned_empty")
def test_both_products_are_those_of_the_dequantised_weights(
    shape: tuple[int, int, int], form: str, dtype: torch.dtype, kernel_device: str
) -> None:
    experts, width, hidden = shape
    gate_up = quantize(random(experts, 2 * width, hidden) / hidden**0.5, form)
    down = quantize(random(experts, hidden, width, seed=1) / width**0.5, form)
    x = random(9, hidden, seed=2).to(dtype)
    choices = random(9, experts, seed=3).topk(2).indices
    choices[choices == 1] = 0  # so that an expert has no tokens
    slots = Slots.of(choices, experts)
    order, offsets = slots.order.to(kernel_device), slots.offsets.to(kernel_device)

    act = gate_up_int4_triton(x.to(kernel_device), order, offsets, gate_up.to(kernel_device), 2)
    assert act.dtype == dtype
    assert act.shape == (18, width)
    expected = gate_up_by_hand(x, slots, exactly(gate_up, dtype), 2)
    assert relative_error(act, expected) < TOLERANCE[dtype]

    out = down_int4_triton(act, order, offsets, down.to(kernel_device))
    assert out.dtype == dtype
    assert out.shape == (18, hidden)
    expected = down_by_hand(act.cpu(), slots, exactly(down, dtype))
    assert relative_error(out, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("runs", [[31], [32], [33], [1, 0, 64, 0, 2], [0, 0, 70], [65, 1]], ids=str)
@pytest.mark.usefixtures("poisoned_empty")
def test_runs_of_any_length_are_cut_into_token_tiles(runs: list[int], kernel_device: str) -> None:
    experts, width, hidden = len(runs), 8, 64
    gate_up = quantize(random(experts, 2 * width, hidden) / 8, "int4_64")
    down = quantize(random(experts, hidden, width, seed=1), "int4_64")
    choices = torch.arange(experts).repeat_interleave(torch.tensor(runs))
    choices = choices[random(len(choices), seed=2).argsort()]
    slots = Slots.of(choices, experts)
    x = random(len(choices), hidden, seed=3)
    order, offsets = slots.order.to(kernel_device), slots.offsets.to(kernel_device)
    act = gate_up_int4_triton(x.to(kernel_device), order, offsets, gate_up.to(kernel_device), 1)
    expected = gate_up_by_hand(x, slots, exactly(gate_up, x.dtype), 1)
    assert relative_error(act, expected) < TOLERANCE[x.dtype]
    out = down_int4_triton(act, order, offsets, down.to(kernel_device))
    expected = down_by_hand(act.cpu(), slots, exactly(down, x.dtype))
    assert relative_error(out, expected) < TOLERANCE[x.dtype]


@pytest.mark.parametrize("form", FORMATS)
def test_outputs_are_near_those_of_the_weights_before_quantisation(
    form: str, kernel_device: str
) -> None:
    dense = random(2, 128, 320) / 320**0.5
    x = random(8, 320, seed=1)
    slots = Slots.of(torch.tensor([0, 1] * 4), 2)
    order, offsets = slots.order.to(kernel_device), slots.offsets.to(kernel_device)
    matrix = quantize(dense, form).to(kernel_device)
    act = gate_up_int4_triton(x.to(kernel_device), order, offsets, matrix, 1)
    assert relative_error(act, gate_up_by_hand(x, slots, dense.double(), 1)) < 0.18


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", [(1, 24, 40), (33, 130, 192), (5, 256, 64)], ids=str)
@pytest.mark.usefixtures("poisoned_empty")
def test_a_projection_is_that_of_the_dequantised_weights(
    shape: tuple[int, int, int], form: str, kernel_device: str
) -> None:
    tokens, rows, columns = shape
    matrix = quantize(random(rows, columns) / columns**0.5, form)
    x = random(tokens, columns, seed=1).bfloat16()
    out = linear_int4_triton(x.to(kernel_device), matrix.to(kernel_device))
    assert out.shape == (tokens, rows)
    expected = x.double() @ exactly(matrix, x.dtype).T
    assert relative_error(out, expected) < TOLERANCE[x.dtype]


def test_strided_activations_and_more_axes_give_the_same(kernel_device: str) -> None:
    matrix = quantize(random(2, 64, 64), "int4_64").to(kernel_device)
    x = random(64, 6).to(kernel_device).T
    slots = Slots.of(torch.tensor([0, 1, 1, 0, 1, 0]), 2)
    order, offsets = slots.order.to(kernel_device), slots.offsets.to(kernel_device)
    assert torch.equal(
        gate_up_int4_triton(x, order, offsets, matrix, 1),
        gate_up_int4_triton(x.contiguous(), order, offsets, matrix, 1),
    )
    assert torch.equal(
        linear_int4_triton(x.view(2, 3, 64), matrix[0]),
        linear_int4_triton(x.contiguous(), matrix[0]).view(2, 3, 64),
    )


def test_a_broken_token_harms_no_other(kernel_device: str) -> None:
    matrix = quantize(random(2, 64, 72), "fp4").to(kernel_device)
    x = random(6, 72).to(kernel_device)
    slots = Slots.of(torch.tensor([0, 1, 1, 0, 1, 0]), 2)
    order, offsets = slots.order.to(kernel_device), slots.offsets.to(kernel_device)
    whole = gate_up_int4_triton(x, order, offsets, matrix, 1)
    x[0] = torch.nan
    act = gate_up_int4_triton(x, order, offsets, matrix, 1)
    assert bool(act[0].isnan().all())
    assert torch.equal(act[1:], whole[1:])


def test_shapes_that_do_not_match_are_refused() -> None:
    matrix = quantize(random(2, 64, 64), "int4_64")
    slots = Slots.of(torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match=r"\(2, 63\) by experts of shape \(2, 64, 64\)"):
        gate_up_int4_triton(random(2, 63), slots.order, slots.offsets, matrix, 1)
    with pytest.raises(ValueError, match=r"experts of shape \(64, 64\)"):
        down_int4_triton(random(2, 64), slots.order, slots.offsets, matrix[0])
    with pytest.raises(ValueError, match=r"a matrix of shape \(2, 64, 64\)"):
        linear_int4_triton(random(2, 64), matrix)


def test_tiles_suit_the_real_model_on_every_gpu() -> None:
    for capability in (80, 86, 89, 90, 100, 120):
        for slots, tokens in ((8, 32), (2048, 32), (8192, 64), (65536, 64)):
            gate_up = expert_tiles(slots, (128, 1408, 2816), capability)
            down = expert_tiles(slots, (128, 2816, 704), capability)
            assert gate_up.tokens == down.tokens == tokens
            assert 704 % (gate_up.rows // 2) == 0  # no tile is part gate, part nothing
            assert 2816 % gate_up.depth == 0
            assert 2816 % down.rows == 0
            # An asynchronous copy takes 4 bytes a thread or more: two bfloat16 scales.
            for tiles in (gate_up, down):
                assert tiles.rows * tiles.depth // 64 >= 2 * 32 * tiles.num_warps
        assert len(compile_cases(capability)) == 12


class PtxMachine:
    """Runs the handful of PTX instructions of the decoders, on all elements of tensors at once."""

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        self.registers = {name: value.long() for name, value in inputs.items()}

    def run(self, program: str) -> None:
        for line in program.strip().strip("{}").split(";"):
            if (text := line.strip()) and not text.startswith(".reg"):
                name, operands = text.split(maxsplit=1)
                target, *sources = re.findall(r"\{[^}]*\}|[^,\s]+", operands)
                self.write(target, self.compute(name, [self.read(each) for each in sources]))

    def read(self, operand: str) -> Tensor:
        if operand.startswith("{"):
            low, high = (self.read(each.strip()) for each in operand.strip("{}").split(","))
            return low | high << 16
        if operand in self.registers:
            return self.registers[operand]
        return torch.tensor(int(operand, 0))

    def write(self, operand: str, value: Tensor) -> None:
        if operand.startswith("{"):
            low, high = (each.strip() for each in operand.strip("{}").split(","))
            self.registers |= {low: value & 0xFFFF, high: value >> 16 & 0xFFFF}
        else:
            self.registers[operand] = value & 0xFFFFFFFF

    def compute(self, name: str, sources: list[Tensor]) -> Tensor:
        match name, sources:
            case "mov.b32", [a]:
                return a
            case "and.b32", [a, b]:
                return a & b
            case "shl.b32", [a, b]:
                return a << b
            case "shr.b32" | "shr.u32", [a, b]:
                return a >> b
            case "lop3.b32", [a, b, c, table]:
                return look_up(a, b, c, int(table))
            case "fma.rn.bf16x2", [a, b, c]:
                return fma(a, b, c) | fma(a >> 16, b >> 16, c >> 16) << 16
        raise NotImplementedError(name)


def look_up(a: Tensor, b: Tensor, c: Tensor, table: int) -> Tensor:
    """Each bit of the result is the entry of `table` that the bits of a, b and c number."""
    out = torch.zeros_like(a | b | c)
    for entry in range(8):
        if table >> entry & 1:
            parts = (v if entry >> place & 1 else ~v for v, place in ((a, 2), (b, 1), (c, 0)))
            first, second, third = parts
            out |= first & second & third
    return out & 0xFFFFFFFF


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """On the low halves as bfloat16: rounded once, to the nearest even."""
    exact = numbers(a) * numbers(b) + numbers(c)
    assert torch.equal(exact.float().double(), exact)  # or the next line would round twice
    return exact.bfloat16().view(torch.int16).long() & 0xFFFF


def numbers(halves: Tensor) -> Tensor:
    return (halves & 0xFFFF).to(torch.int32).to(torch.int16).view(torch.bfloat16).double()


def decoded(matrix: FourBitMatrix) -> Tensor:
    """`(N, K)` float64: what the PTX makes of every word and scale of a matrix `(N, K)`."""
    parts = packed(matrix)
    rows, words = parts.words.shape
    scale = parts.scale.view(torch.int16) if parts.format == "int4_64" else parts.scale
    each_word = scale.long().reshape(words // 8, rows).T.repeat_interleave(8, dim=1)
    out = torch.empty(rows, words // 8, 4, 8, 2, dtype=torch.float64)
    for quarter in range(4):
        machine = PtxMachine({"$2": parts.words, "$3": each_word & 0xFFFF})
        if parts.format == "int4_32":
            machine.registers["$3"] = each_word >> 16 * (quarter // 2) & 0xFFFF
        elif parts.format == "fp4":
            scales = PtxMachine({"$2": each_word})
            scales.run(scale_ptx(quarter % 2))
            machine.registers["$3"] = scales.registers["$0" if quarter < 2 else "$1"]
        machine.run(code_ptx(parts.format, quarter))
        pair = torch.stack([numbers(machine.registers[name]) for name in ("$0", "$1")], dim=-1)
        out[:, :, quarter] = pair.unflatten(1, (-1, 8))
    return out.flatten(1)


@pytest.mark.parametrize("group", [64, 32])
def test_the_fast_int4_decoder_makes_the_weights_of_the_plain_one(group: int) -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8)[:, None].expand(16, 128).contiguous()
    codes = torch.cat((codes, torch.randint(-8, 8, (200, 128), dtype=torch.int8)))
    scale = random(216, 128 // group) * 2.0 ** torch.linspace(-30, 30, 216)[:, None]
    scale[:16] = torch.tensor([[1.0, -0.3], [0.0, 1e30]]).repeat(8, 1).repeat(1, 64 // group)
    matrix = Int4Matrix.from_codes(codes, scale, group)
    assert torch.equal(decoded(matrix), matrix.dequantize(torch.bfloat16).double())


def test_the_fast_fp4_decoder_makes_the_weights_of_the_plain_one_exactly() -> None:
    code = torch.arange(16, dtype=torch.uint8)
    scales = torch.arange(0x7F, dtype=torch.uint8)  # every e4m3 that is not negative
    values = (code | code.flip(0) << 4)[:, None].expand(16, 32).repeat(0x7F, 1)
    bits = scales.repeat_interleave(16)[:, None].expand(-1, 4).contiguous()
    bits[:, 1] = bits[:, 1].flip(0)  # so that neighbouring groups differ
    bits[:, 2:] = bits[:, :2].roll(5, dims=0)
    matrix = Fp4Matrix.from_published(values, bits.view(torch.float8_e4m3fn), torch.tensor(1.0))
    # 2**14 is left out of the scales and multiplied back with the row's scale.
    assert torch.equal(decoded(matrix) * 2.0**14, matrix.dequantize(torch.float64))
