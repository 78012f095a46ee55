"""Each operation of a layer against the sentence that defines it, in plain torch or by hand."""

import math

import pytest
import torch

from dgemma_kernels import AttentionRow, AttentionRows, reference_kernels
from dgemma_kernels.attention import causal_mask
from dgemma_kernels.rope import rotate_reference
from dgemma_kernels.routing import Routing

KERNELS = reference_kernels()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [1, 7, 64])
def test_a_normalised_row_has_unit_root_mean_square_times_the_weight(width: int) -> None:
    x, weight = randn(5, width) * 9, randn(width, seed=1)
    found = KERNELS.rms_norm(x, weight, 1e-6)
    for row in range(5):
        root = math.sqrt(sum(float(v) ** 2 for v in x[row]) / width + 1e-6)
        assert torch.allclose(found[row], x[row] / root * weight, rtol=1e-5, atol=1e-6)
    assert torch.allclose(KERNELS.rms_norm(x, None, 1e-6) * weight, found, atol=1e-6)


def test_norms_of_bfloat16_are_rounded_once() -> None:
    x, weight = randn(4, 33).bfloat16(), randn(33, seed=1).bfloat16()
    exact = KERNELS.rms_norm(x.float(), weight.float(), 1e-6).bfloat16()
    assert torch.equal(KERNELS.rms_norm(x, weight, 1e-6), exact)


def test_rotation_turns_each_pair_by_its_angle_and_leaves_angle_zero_alone() -> None:
    x = randn(3, 2, 6)
    angle = torch.tensor([[0.3, 0.0, 2.0]]).expand(3, 3)
    found = rotate_reference(x, angle.cos(), angle.sin())
    for pair in range(3):
        turn = float(angle[0, pair])
        left, right = x[..., pair], x[..., pair + 3]
        assert torch.allclose(found[..., pair], left * math.cos(turn) - right * math.sin(turn))
        assert torch.allclose(found[..., pair + 3], right * math.cos(turn) + left * math.sin(turn))


def attention_by_hand(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """One query, one head at a time, in float64."""
    out = torch.zeros_like(q, dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for token in range(q.shape[0]):
        for head in range(q.shape[1]):
            keys = k[seen[token], head // group].double()
            share = (keys @ q[token, head].double()).softmax(0)
            out[token, head] = share @ v[seen[token], head // group].double()
    return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("prefixes", [(0, 0), (1, 5), (4, 0)])
def test_each_row_attends_to_its_own_prefix_and_tokens(
    causal: bool, window: int | None, prefixes: tuple[int, int]
) -> None:
    lengths, heads, kv_heads, width = (4, 3), 4, 2, 8
    q = randn(7, heads, width)
    k, v = randn(7, kv_heads, width, seed=1), randn(7, kv_heads, width, seed=2)
    rows, expected, start = [], [], 0
    for number, (length, prefix) in enumerate(zip(lengths, prefixes, strict=True)):
        old_k = randn(kv_heads, prefix, width, seed=10 + number)
        old_v = randn(kv_heads, prefix, width, seed=20 + number)
        rows.append(AttentionRow(start, start + length, old_k, old_v))
        mine = slice(start, start + length)
        seen = torch.ones(length, prefix + length, dtype=torch.bool)
        if causal:
            for i in range(length):
                for j in range(prefix + length):
                    too_old = window is not None and j <= prefix + i - window
                    seen[i, j] = j <= prefix + i and not too_old
        keys = torch.cat((old_k.transpose(0, 1), k[mine]))
        values = torch.cat((old_v.transpose(0, 1), v[mine]))
        expected.append(attention_by_hand(q[mine], keys, values, seen))
        start += length
    found = KERNELS.attention(q, k, v, AttentionRows(rows), causal, window if causal else None)
    assert torch.allclose(found.double(), torch.cat(expected), atol=1e-5)


def test_the_causal_mask_counts_the_token_itself_into_the_window() -> None:
    mask = causal_mask(2, 3, 2, torch.device("cpu"))
    assert mask.tolist() == [[False, False, True, True, False], [False, False, False, True, True]]


def test_fused_norms_are_what_their_parts_are_one_after_another() -> None:
    x, attended, dense, mixture = (randn(5, 24, seed=n) * 3 for n in range(4))
    weights = [randn(24, seed=10 + n) for n in range(4)]
    scalar = torch.tensor([0.7])

    def norm(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return KERNELS.rms_norm(value, weight, 1e-6)

    residual, for_dense, for_experts = KERNELS.post_attention(
        x, attended, weights[0], weights[1], weights[2], 1e-6
    )
    assert torch.equal(residual, x + norm(attended, weights[0]))
    assert torch.equal(for_dense, norm(residual, weights[1]))
    assert torch.equal(for_experts, norm(residual, weights[2]))
    out, normed = KERNELS.layer_tail(
        residual, dense, mixture, *weights[:3], scalar, weights[3], 1e-6
    )
    both = norm(norm(dense, weights[0]) + norm(mixture, weights[1]), weights[2])
    assert torch.equal(out, (residual + both) * 0.7)
    assert torch.equal(normed, norm(out, weights[3]))


@pytest.mark.parametrize("shared", [False, True])
def test_heads_are_normalised_then_rotated_and_values_only_normalised(shared: bool) -> None:
    q, k, v = randn(3, 4, 8), randn(3, 2, 8, seed=1), randn(3, 2, 8, seed=2)
    wq, wk, angle = randn(8, seed=3), randn(8, seed=4), randn(3, 4, seed=5)
    found = KERNELS.heads(q, k, None if shared else v, wq, wk, angle.cos(), angle.sin(), 1e-6)
    for got, raw, weight in ((found[0], q, wq), (found[1], k, wk)):
        turned = rotate_reference(KERNELS.rms_norm(raw, weight, 1e-6), angle.cos(), angle.sin())
        assert torch.equal(got, turned)
    assert torch.equal(found[2], KERNELS.rms_norm(k if shared else v, None, 1e-6))


def routed(tokens: int, experts: int, top_k: int, hidden: int = 6) -> Routing:
    proj, per_expert = randn(experts, hidden, seed=3), randn(experts, seed=4).abs() + 0.5
    x, scale = randn(tokens, hidden), randn(hidden, seed=5)
    return KERNELS.route(x, scale, proj, per_expert, top_k, 1e-6)


def test_a_token_goes_to_its_likeliest_experts_with_weights_scaled_per_expert() -> None:
    x, scale = randn(9, 6), randn(6, seed=5)
    proj, per_expert = randn(7, 6, seed=3), randn(7, seed=4).abs() + 0.5
    weights, experts, probabilities = KERNELS.route(x, scale, proj, per_expert, 3, 1e-6)
    for row in range(9):
        read = x[row] / (x[row].square().mean() + 1e-6).sqrt() * scale / math.sqrt(6)
        assert torch.allclose(probabilities[row], (proj @ read).softmax(0), atol=1e-6)
        best = sorted(range(7), key=lambda e: -float(probabilities[row, e]))[:3]
        assert experts[row].tolist() == best
        share = probabilities[row, best]
        assert torch.allclose(weights[row], share / share.sum() * per_expert[best])


@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 1, 1), (5, 4, 2), (33, 8, 3)])
def test_experts_sum_each_tokens_own_experts_with_its_weights(
    tokens: int, experts: int, top_k: int
) -> None:
    hidden, width = 6, 5
    x, gate_up, down = (
        randn(tokens, hidden),
        randn(experts, 2 * width, hidden, seed=1),
        randn(experts, hidden, width, seed=2),
    )
    weights, ids, _ = routed(tokens, experts, top_k)
    expected = torch.zeros(tokens, hidden)
    for token in range(tokens):
        for weight, expert in zip(weights[token], ids[token].tolist(), strict=True):
            gate, up = (gate_up[expert] @ x[token]).chunk(2)
            gelu = 0.5 * gate * (1 + torch.tanh(0.7978845608 * (gate + 0.044715 * gate**3)))
            expected[token] += weight * (down[expert] @ (gelu * up))
    assert torch.allclose(KERNELS.experts(x, weights, ids, gate_up, down), expected, atol=1e-5)


def test_all_tokens_on_one_expert_and_the_others_idle() -> None:
    x, gate_up, down = randn(4, 6), randn(3, 10, 6, seed=1), randn(3, 6, 5, seed=2)
    ids = torch.full((4, 1), 2)
    found = KERNELS.experts(x, torch.ones(4, 1), ids, gate_up, down)
    alone = KERNELS.experts(x, torch.ones(4, 1), ids * 0, gate_up[2:], down[2:])
    assert torch.equal(found, alone)
