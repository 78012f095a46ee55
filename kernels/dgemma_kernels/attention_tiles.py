"""How attention is cut into programs, for each kind of GPU: two tables and a rule of thumb."""

from typing import NamedTuple

_MOST_SPLITS = 8
# What starting a program and launching the merge cost, counted in keys. Estimates, not measured.
_KEYS_TO_START, _KEYS_TO_MERGE = 64, 128


class Tiles(NamedTuple):
    """What one program works on at a time."""

    rows: int  # queries times heads
    keys: int
    chunk: int  # columns of queries and keys, multiplied at once
    columns: int  # columns of the output: more programs than one share a wider head
    column_chunk: int  # of those, summed up together
    warps: int
    stages: int


# Chosen by what compiles without spills and fits shared memory; none was timed. Where sums lie in
# registers (all but sm_100) 16 rows x 256 columns a warp are the most, and where there is no wgmma
# (all but sm_90 and sm_100) a column chunk no wider than the rows keeps each row within one warp.
_TILES = {
    (80, 256): Tiles(128, 16, 128, 256, 128, 8, 4),
    (80, 512): Tiles(64, 16, 128, 256, 64, 4, 4),
    (86, 256): Tiles(64, 16, 128, 256, 64, 4, 4),
    (86, 512): Tiles(64, 16, 64, 256, 64, 4, 2),
    (89, 256): Tiles(64, 16, 128, 256, 64, 4, 4),
    (89, 512): Tiles(64, 16, 64, 256, 64, 4, 2),
    (90, 256): Tiles(128, 64, 256, 256, 64, 8, 2),
    (90, 512): Tiles(128, 32, 512, 256, 128, 8, 2),
    (100, 256): Tiles(128, 64, 256, 256, 128, 8, 2),
    (100, 512): Tiles(128, 32, 512, 256, 128, 8, 2),
    (120, 256): Tiles(64, 16, 64, 256, 64, 4, 4),
    (120, 512): Tiles(64, 16, 64, 256, 64, 4, 2),
}
_FLOAT32 = Tiles(16, 32, 16, 256, 64, 8, 1)  # for comparisons: no matrix units


def attention_tiles(head_dim: int, group: int, element_size: int, capability: int) -> Tiles:
    """The tiles for `group` query heads a key head, on compute capability 80 and above."""
    known = max((c for c, _ in _TILES if c <= capability), default=80)
    tiles = _TILES[known, 256 if head_dim <= 256 else 512] if element_size == 2 else _FLOAT32
    return tiles._replace(
        rows=max(tiles.rows, 1 << (group - 1).bit_length()),
        chunk=min(tiles.chunk, head_dim),
        columns=min(tiles.columns, head_dim),
        column_chunk=min(tiles.column_chunk, head_dim),
    )


def choose_splits(programs: int, keys: int, processors: int) -> int:
    """Among how many programs to share each tile's keys, when one runs on a multiprocessor."""

    def cost(splits: int) -> int:
        waves = -(-programs * splits // processors)
        merge = _KEYS_TO_MERGE if splits > 1 else 0
        return waves * (-(-keys // splits) + _KEYS_TO_START) + merge

    return min(range(1, _MOST_SPLITS + 1), key=cost)
