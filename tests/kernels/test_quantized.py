"""Quantised matrices: what is packed comes back, and what is rounded is rounded well."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dgemma_kernels.quantized import (
    Fp4Matrix,
    Fp8Matrix,
    Int4Matrix,
    Matrix,
    QuantizedMatrix,
    dequantized,
)

SHAPES = st.tuples(
    st.sampled_from([(), (1,), (3,), (2, 2)]), st.integers(1, 9), st.integers(1, 200)
).map(lambda parts: (*parts[0], *parts[1:]))
SEEDS = st.integers(0, 2**32 - 1)
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized_kinds(dense: Tensor) -> list[Fp8Matrix | Int4Matrix | Fp4Matrix]:
    return [
        Fp8Matrix.quantize(dense),
        Int4Matrix.quantize(dense, group=64),
        Int4Matrix.quantize(dense, group=32),
        Fp4Matrix.quantize(dense),
    ]


def relative_error(matrix: QuantizedMatrix, dense: Tensor) -> float:
    return float((matrix.dequantize(torch.float64) - dense).norm() / dense.norm())


@given(shape=SHAPES, seed=SEEDS, group=st.sampled_from([32, 64]))
def test_int4_codes_and_scales_come_back_as_they_went_in(
    shape: tuple[int, ...], seed: int, group: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-8, 8, shape, generator=generator, dtype=torch.int8)
    groups = -(-shape[-1] // group)
    scale = torch.randn((*shape[:-1], groups), generator=generator).bfloat16()
    matrix = Int4Matrix.from_codes(codes, scale, group)
    assert matrix.shape == codes.shape
    assert torch.equal(matrix.codes(), codes)
    each = scale.double().repeat_interleave(group, dim=-1)[..., : shape[-1]]
    assert torch.equal(matrix.dequantize(torch.float64), codes * each)


def test_an_int4_code_lies_where_the_drawing_says() -> None:
    columns = torch.arange(192)
    codes = torch.where(torch.eye(192, dtype=torch.bool), 7, -8).to(torch.int8)
    words = Int4Matrix.from_codes(codes, torch.ones(192, 3), 64).packed
    chunk, quarter, place, odd = columns // 64, columns % 64 // 16, columns % 16 // 2, columns % 2
    bits = (15 << (16 * odd + 4 * quarter)).to(torch.int64)  # code 7 is written as 15, -8 as 0
    expected = torch.zeros(192, 24, dtype=torch.int64)
    expected[columns, 8 * chunk + place] = bits
    assert torch.equal(words.long() & 0xFFFFFFFF, expected)


def test_every_int4_code_survives_in_every_place() -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8)[:, None].expand(16, 704)
    assert torch.equal(Int4Matrix.from_codes(codes, torch.ones(16, 11), 64).codes(), codes)


@given(shape=SHAPES, seed=SEEDS)
def test_fp4_unpacks_to_what_was_published(shape: tuple[int, ...], seed: int) -> None:
    *experts, rows, half = shape
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    groups = -(-2 * half // 16)
    scale = torch.rand((*experts, rows, groups), generator=generator).to(torch.float8_e4m3fn)
    whole = torch.rand(experts, generator=generator) + 0.1
    matrix = Fp4Matrix.from_published(values, scale, whole)
    codes = torch.stack((values & 15, values >> 4), dim=-1).flatten(-2)
    assert matrix.shape == codes.shape
    assert torch.equal(matrix.codes(), codes)
    numbers = torch.tensor(E2M1, dtype=torch.float64)[codes.int()]
    each = scale.double().repeat_interleave(16, dim=-1)[..., : 2 * half]
    expected = numbers * each * whole.double()[..., None, None]
    assert torch.equal(matrix.dequantize(torch.float64), expected)


def test_every_fp4_code_survives_in_every_place() -> None:
    code = torch.arange(16, dtype=torch.uint8)
    values = (code | code << 4)[:, None].expand(16, 352)
    ones = torch.ones(16, 44).to(torch.float8_e4m3fn)
    matrix = Fp4Matrix.from_published(values, ones, torch.tensor(1.0))
    expected = torch.tensor(E2M1)[:, None].expand(16, 704)
    assert torch.equal(matrix.dequantize(torch.float32), expected)


def test_gate_and_up_keep_the_scales_they_were_published_with() -> None:
    values = torch.full((2, 4, 32), 0x22, dtype=torch.uint8)  # e2m1 code 2 is 1
    scale = torch.ones(2, 4, 4).to(torch.float8_e4m3fn)
    whole = torch.tensor([[0.5, 0.5, 3.0, 3.0], [2.0, 2.0, 7.0, 7.0]])
    dense = Fp4Matrix.from_published(values, scale, whole).dequantize(torch.float32)
    assert torch.equal(dense, whole[..., None].expand(2, 4, 64))


def test_weights_that_int4_can_hold_are_held_exactly() -> None:
    codes = torch.randint(-7, 8, (3, 10, 192), generator=torch.Generator().manual_seed(1))
    codes[..., ::32] = -8
    scale = 2.0 ** torch.randint(-6, 3, (3, 10, 6), generator=torch.Generator().manual_seed(2))
    dense = codes * scale.repeat_interleave(32, dim=-1)
    for sign in (1, -1):  # with -1 the largest is above zero, and the scale has to be negative
        assert torch.equal(
            Int4Matrix.quantize(sign * dense, 32).dequantize(dense.dtype), sign * dense
        )


def test_int4_is_more_accurate_than_rounding_to_the_nearest_of_fifteen_steps() -> None:
    dense = random((4, 32, 704))
    for group, most in ((64, 0.092), (32, 0.084)):
        groups = dense.unflatten(-1, (-1, group))
        step = groups.abs().amax(dim=-1, keepdim=True) / 7
        plain = ((groups / step).round() * step).flatten(-2)
        plain_error = float((plain - dense).norm() / dense.norm())
        error = relative_error(Int4Matrix.quantize(dense, group), dense)
        assert error < most
        assert error < 0.93 * plain_error


def test_fp4_takes_the_nearest_number_that_its_scales_allow() -> None:
    dense = random((2, 8, 96))
    matrix = Fp4Matrix.quantize(dense)
    numbers = torch.tensor(E2M1, dtype=torch.float64)
    scale = matrix.scale.double().transpose(-2, -3).flatten(-2).repeat_interleave(16, dim=-1)
    steps = (scale[..., :96] * matrix.row_scale.double()[..., None])[..., None] * numbers
    best = (steps - dense.double()[..., None]).abs().amin(dim=-1)
    error = (matrix.dequantize(torch.float64) - dense).abs()
    torch.testing.assert_close(error, best, rtol=0, atol=1e-6)
    assert relative_error(matrix, dense) < 0.1


@given(shape=SHAPES, seed=SEEDS, power=st.integers(-20, 20))
def test_fp8_errs_by_a_sixteenth_at_most_or_by_half_its_smallest_step(
    shape: tuple[int, ...], seed: int, power: int
) -> None:
    dense = random(shape, seed) * 2.0**power
    matrix = Fp8Matrix.quantize(dense)
    error = (matrix.dequantize(torch.float64) - dense).abs()
    allowed = dense.abs() / 16 + matrix.scale[..., None] * 2.0**-10
    assert bool((error <= allowed * 1.0001).all())
    assert torch.equal(matrix.values.float().abs().amax(dim=-1), torch.full(shape[:-1], 448.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_zeros_stay_zeros_and_every_dtype_can_be_quantised(dtype: torch.dtype) -> None:
    dense = random((2, 3, 100)).to(dtype)
    dense[0, 1] = 0
    dense[1, :, :64] = 0
    for matrix in quantized_kinds(dense):
        back = matrix.dequantize(dtype)
        assert back.dtype == dtype
        assert bool((back[0, 1] == 0).all())
        assert bool((back[1, :, :64] == 0).all())
        assert relative_error(matrix, dense) < 0.11


def test_tiny_and_huge_weights_neither_vanish_nor_overflow() -> None:
    for factor in (1e-30, 1e30):
        dense = random((2, 4, 128)) * factor
        for matrix in quantized_kinds(dense):
            assert relative_error(matrix, dense.double()) < 0.11


def test_many_rows_are_quantised_as_each_alone() -> None:
    dense = random((3, 400, 1000))  # more than one block of rows
    for whole, part in zip(quantized_kinds(dense), quantized_kinds(dense[1, 390:]), strict=True):
        if not isinstance(whole, Fp4Matrix):  # whose largest weight is that of all rows
            rows = whole[1].dequantize(torch.float32)[390:]
            assert torch.equal(rows, part.dequantize(torch.float32))


def test_an_expert_of_many_is_a_view_and_equals_its_part_of_the_whole() -> None:
    dense = random((4, 6, 100))
    for matrix in quantized_kinds(dense):
        whole = matrix.dequantize(torch.float32)
        assert torch.equal(matrix[2].dequantize(torch.float32), whole[2])
        assert torch.equal(matrix[1:3].dequantize(torch.float32), whole[1:3])
        for name, part in matrix[2].parts.items():
            theirs = matrix.parts[name].untyped_storage()
            assert part.untyped_storage().data_ptr() == theirs.data_ptr()


def test_shapes_bytes_and_devices_are_known_without_any_weights() -> None:
    dense = random((2, 5, 704))
    for real, planned in zip(
        quantized_kinds(dense), quantized_kinds(dense.to("meta")), strict=True
    ):
        assert planned.shape == real.shape == dense.shape
        assert planned.bytes == real.bytes
        assert planned.device.type == "meta"
        assert real.to("meta").device.type == "meta"
        assert real.to("meta").bytes == real.bytes
        assert planned.dequantize(torch.bfloat16).shape == dense.shape


def test_all_experts_of_the_real_model_fit() -> None:
    layer = torch.empty(128, 1408, 2816, device="meta"), torch.empty(128, 2816, 704, device="meta")
    sizes = [
        30 * sum(matrix.bytes for matrix in matrices) / 1e9
        for matrices in zip(*(quantized_kinds(dense) for dense in layer), strict=True)
    ]
    fp8, int4, int4_32, fp4 = sizes
    assert fp8 < 22.91
    assert int4 < 12.14
    assert int4_32 < 12.85
    assert fp4 < 12.92


def test_any_matrix_becomes_dense() -> None:
    dense = random((3, 64))
    matrices: list[Matrix] = [dense, *quantized_kinds(dense)]
    for matrix in matrices:
        assert dequantized(matrix, torch.bfloat16).dtype == torch.bfloat16
        assert dequantized(matrix, torch.bfloat16).shape == dense.shape
    assert torch.equal(dequantized(dense, torch.float32), dense)


def test_weights_that_cannot_be_quantised_are_refused() -> None:
    bad = random((2, 64))
    bad[1, 3] = torch.nan
    for kind in (Int4Matrix, Fp4Matrix, Fp8Matrix):
        with pytest.raises(ValueError, match="1 of 128 weights are NaN or infinite"):
            kind.quantize(bad)
        with pytest.raises(ValueError, match="torch.int64 of shape"):
            kind.quantize(torch.ones(2, 64, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"shape \(64,\)"):
            kind.quantize(torch.ones(64))


@pytest.mark.parametrize("group", [0, 16, 128])
def test_other_groups_are_refused(group: int) -> None:
    with pytest.raises(ValueError, match=f"group is {group}: a scale covers 32 or 64"):
        Int4Matrix.quantize(random((2, 128)), group)


def test_published_parts_that_do_not_fit_are_refused() -> None:
    codes, scale = torch.zeros(4, 128, dtype=torch.int8), torch.ones(4, 2)
    with pytest.raises(ValueError, match=r"scale is torch.float32 of shape \(4, 3\)"):
        Int4Matrix.from_codes(codes, torch.ones(4, 3), 64)
    with pytest.raises(ValueError, match="codes is torch.uint8"):
        Int4Matrix.from_codes(codes.to(torch.uint8), scale, 64)
    with pytest.raises(ValueError, match="codes go from 0 to 8, .* subtract the zero point"):
        Int4Matrix.from_codes(codes.index_fill(0, torch.tensor(0), 8), scale, 64)
    values = torch.zeros(3, 4, 32, dtype=torch.uint8)
    scales = torch.ones(3, 4, 4).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="values is torch.int8"):
        Fp4Matrix.from_published(values.to(torch.int8), scales, torch.ones(3))
    with pytest.raises(ValueError, match="scale is torch.float32"):
        Fp4Matrix.from_published(values, scales.float(), torch.ones(3))
    with pytest.raises(ValueError, match=r"give one a matrix, \(3,\), or one a row, \(3, 4\)"):
        Fp4Matrix.from_published(values, scales, torch.ones(4))
    negative = scales.float().neg().to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="48 of 48 scales are negative or NaN"):
        Fp4Matrix.from_published(values, negative, torch.ones(3))


def test_parts_put_together_by_hand_are_checked() -> None:
    int4, fp4 = Int4Matrix.quantize(random((2, 64))), Fp4Matrix.quantize(random((2, 64)))
    fp8 = Fp8Matrix.quantize(random((2, 64)))
    with pytest.raises(ValueError, match="packed is torch.int32 of shape"):
        Int4Matrix(int4.packed, int4.scale, columns=65, group=64)
    with pytest.raises(ValueError, match="scale is torch.bfloat16 of shape"):
        Int4Matrix(int4.packed, int4.scale, columns=64, group=32)
    with pytest.raises(ValueError, match="row_scale is torch.float32 of shape"):
        Fp4Matrix(fp4.packed, fp4.scale, fp4.row_scale[:1], columns=64)
    with pytest.raises(ValueError, match="scale is torch.float32 of shape"):
        Fp8Matrix(fp8.values, fp8.scale[:1])


def test_a_single_matrix_has_no_experts_to_index() -> None:
    for matrix in quantized_kinds(random((2, 64))):
        with pytest.raises(ValueError, match=r"shape \(2, 64\) has no expert 0"):
            matrix[0]
