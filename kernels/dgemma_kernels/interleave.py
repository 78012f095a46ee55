"""How 4-bit codes lie in 32-bit words, so that a kernel decodes two at once, in order.

Columns are cut into chunks of 64; a chunk of one row is 8 words. Word `j` holds the codes of 8
columns: four pairs of neighbours, one pair from each quarter of the chunk.

    column in the chunk     0  1 | 2  3 | ... |14 15 || 16 17 | ... || 32 ...  || 48 ... 63
    word                      0  |   1  |     |   7  ||   0   |     ||   0 ... ||   0 ... 7
                           `------ quarter 0 -------´ `- quarter 1 ´ `quarter 2´ `quarter 3´

    word j    bit 31                  16 15                   0
              | q3 | q2 | q1 | q0 odd   | q3 | q2 | q1 | q0 even |    columns 16q + 2j (+ 1)

A shift and a mask give quarter `q` of all words as pairs `(even column, odd column)` in the two
halves of a word. That is how matrix units take 16-bit operands: eight words side by side are 16
columns in a row, one step of a 16-bit matrix instruction, and activations stay as they are.
A code's four bits need not lie together in its half; `int4.py` and `fp4.py` say where.

Scales are kept by chunk, then row, then group in the chunk: one fetch brings a row all scales
of a chunk, and those of neighbouring rows lie side by side.
"""

import torch
from torch import Tensor

CHUNK = 64  # columns; 704 and 2816 are multiples, so the real model needs no padding


def padded_columns(columns: int) -> int:
    """`columns`, up to the next multiple of a chunk."""
    return -(-columns // CHUNK) * CHUNK


def split_quarters(codes: Tensor) -> Tensor:
    """`(..., K)` -> `(4, ..., K / 8, 2)`: quarter first, then word, then half of the word."""
    *leading, columns = codes.shape
    chunks = codes.reshape(*leading, columns // CHUNK, 4, CHUNK // 8, 2)
    return chunks.movedim(-3, 0).reshape(4, *leading, columns // 8, 2)


def join_quarters(quarters: Tensor) -> Tensor:
    """`(4, ..., K / 8, 2)` -> `(..., K)`: the inverse of `split_quarters`."""
    _, *leading, words, _ = quarters.shape
    chunks = quarters.reshape(4, *leading, words * 8 // CHUNK, CHUNK // 8, 2)
    return chunks.movedim(0, -3).reshape(*leading, words * 8)


def scales_by_chunk(scale: Tensor, group: int) -> Tensor:
    """`(..., N, padded K / group)` -> `(..., chunks, N, groups in a chunk)`, contiguous."""
    *leading, groups = scale.shape
    chunks = scale.reshape(*leading, groups * group // CHUNK, CHUNK // group)
    return chunks.transpose(-2, -3).contiguous()


def scales_by_row(scale: Tensor) -> Tensor:
    """`(..., chunks, N, groups in a chunk)` -> `(..., N, groups)`: the inverse."""
    return scale.transpose(-2, -3).flatten(-2)


def words_of(halves: Tensor) -> Tensor:
    """`(..., words, 2)` int32 values below 2**16, low half first -> `(..., words)` int32."""
    octets = torch.stack((halves & 0xFF, halves >> 8), dim=-1).to(torch.uint8)
    return octets.flatten(-2).contiguous().view(torch.int32).squeeze(-1)


def halves_of(words: Tensor) -> Tensor:
    """`(..., words)` int32 -> `(..., words, 2)` int32 values below 2**16, low half first."""
    return torch.stack((words & 0xFFFF, (words >> 16) & 0xFFFF), dim=-1)
