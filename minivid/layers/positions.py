"""Positions: attention does not see the order of tokens, so each token is told where it stands."""

import itertools
from collections.abc import Callable, Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minivid.shapes import Grid, ShapeError, checked_grid

# By what queries and keys are turned: angles, or what `turns` has made of them for many layers.
Rotary = (
    Float[Tensor, "n half"] | Float[Tensor, "b n half"] | tuple[Float[Tensor, "*b 1 n k"], Float[Tensor, "*b 1 n k"]]
)


def sinusoidal(n: int, d: int, *, device: torch.device | str | None = None) -> Float[Tensor, "n d"]:
    """A table of waves, one row a position, to be added to the tokens.

        table[position, 2 i]     = sin(position / 10000^(2 i / d))
        table[position, 2 i + 1] = cos(position / 10000^(2 i / d))

    Each pair of columns is the hand of a clock, the first turning once in 2 pi positions, each later one more slowly.
    Moving on by a fixed number of positions turns every hand by a fixed angle, wherever it stands.

    Args:
        n: positions 0 to n - 1.
        d: width of a token, even.
        device: where the table is made.

    Raises:
        ValueError: if d is odd.

    Source: Vaswani et al. 2017, section 3.5 (arXiv:1706.03762).
    """
    if d % 2:
        raise ValueError(f"d is {d}, expected an even number: sines and cosines come in pairs")
    # In float32 the angle of position 100000 would already be off by 4e-3.
    position = torch.arange(n, dtype=torch.float64, device=device)
    speed = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64, device=device) / d)
    angle = position[:, None] * speed
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


def edge_places(n: int, size: int) -> Float[Tensor, " n"]:
    """Where n cells stand on an axis of `size` cells when both axes begin and end at the same edges.

        place[i] = (i + 1/2) size / n - 1/2,   but not outside 0 .. size - 1

    Cell i of a table is the number at the middle of its field, hence the halves. Twice as many cells stand at -1/4
    (moved to 0), 1/4, 3/4, ...

    Args:
        n: cells to be placed.
        size: cells of the axis on which they are placed.

    Raises:
        ValueError: if n or size is below 1.
    """
    _check_cells(n, size)
    return ((torch.arange(n) + 0.5) * (size / n) - 0.5).clamp(0, size - 1)


def corner_places(n: int, size: int) -> Float[Tensor, " n"]:
    """Where n cells stand on an axis of `size` cells when the first stands on the first and the last on the last.

        place[i] = i (size - 1) / (n - 1)

    Args:
        n: cells to be placed; a single one stands at 0.
        size: cells of the axis on which they are placed.

    Raises:
        ValueError: if n or size is below 1.
    """
    _check_cells(n, size)
    return torch.arange(n) * (size - 1) / max(n - 1, 1)


def hat_weights(places: Float[Tensor, " n"], size: int) -> Float[Tensor, "n size"]:
    """How much each cell of an axis counts at a place between two cells: the nearer one more.

        weight[i, j] = max(0, 1 - |place[i] - j|)

    Every row sums to one and has at most two numbers that are not 0. Drawn over the axis, a column is a pointed hat.

    Args:
        places: between 0 and size - 1, counted in cells.
        size: cells of the axis.
    """
    cells = torch.arange(size, dtype=places.dtype, device=places.device)
    return (1 - (places[:, None] - cells).abs()).clamp_min(0)


def resize_table(table: Float[Tensor, "rows columns d"], gh: int, gw: int) -> Float[Tensor, "gh gw d"]:
    """Read a position table at more or fewer places, edges on edges: bilinear interpolation.

        resized[i, j] = sum over r, c of weight_h[i, r] weight_w[j, c] table[r, c]

    The weights are `hat_weights` at `edge_places`. This is how pictures are resized, without smoothing.

    Args:
        table: one row of d numbers for each cell of the picture that it was learned on.
        gh, gw: cells of the picture that it is needed for.

    Raises:
        ValueError: if a size is below 1.

    Source: Dosovitskiy et al. 2021, section 3.2 (arXiv:2010.11929): a learned table is interpolated.
    """
    return _read(table, edge_places(gh, table.shape[0]), edge_places(gw, table.shape[1]))


def stretch_table(table: Float[Tensor, "rows columns d"], gh: int, gw: int) -> Float[Tensor, "gh gw d"]:
    """Read a position table at more or fewer places, corners on corners: bilinear interpolation.

        stretched[i, j] = sum over r, c of weight_h[i, r] weight_w[j, c] table[r, c]

    The weights are `hat_weights` at `corner_places`. The first cell keeps the first number, the last one the last.

    Args:
        table: one row of d numbers for each cell of the picture that it was learned on.
        gh, gw: cells of the picture that it is needed for.

    Raises:
        ValueError: if a size is below 1.

    Source: Qwen3-VL, the position table of its vision tower.
    """
    return _read(table, corner_places(gh, table.shape[0]), corner_places(gw, table.shape[1]))


def _read(table: Tensor, row_places: Tensor, column_places: Tensor) -> Tensor:
    """A table at every pair of a row place and a column place."""
    across = hat_weights(column_places, table.shape[1]).to(table)
    down = hat_weights(row_places, table.shape[0]).to(table)
    # Two steps: the weights of every pair of places first would be gh gw rows columns numbers.
    return torch.einsum("ir,rjd->ijd", down, torch.einsum("jc,rcd->rjd", across, table))


def _check_cells(n: int, size: int) -> None:
    if n < 1 or size < 1:
        raise ValueError(f"{n} cells on an axis of {size}, expected at least 1 of each")


class LearnedPositions(nn.Module):
    """A table with one learned row of numbers for each place in a picture, read for pictures of any size.

    The state dict holds `weight`, (rows columns) x d, as that of nn.Embedding.

    Args:
        rows, columns: places of the picture that the table is learned on, in patches.
        embed_dim: width d of a token.
        resize: `stretch_table` (corners on corners, as Qwen3-VL) or `resize_table` (edges on edges).

    Raises:
        ValueError: if a number is below 1.

    Source: Dosovitskiy et al. 2021, sections 3.1 and 3.2 (arXiv:2010.11929).
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        embed_dim: int,
        *,
        resize: Callable[[Tensor, int, int], Tensor] = stretch_table,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if min(rows, columns, embed_dim) < 1:
            raise ValueError(f"rows={rows}, columns={columns}, embed_dim={embed_dim}: expected at least 1 of each")
        self.rows, self.columns, self.embed_dim, self.resize = rows, columns, embed_dim, resize
        self.weight = nn.Parameter(torch.empty(rows * columns, embed_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew: normal with deviation 0.02, as transformers begin."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(
        self, grid: Grid | tuple[int, int, int], *, spatial_merge_size: int = 1
    ) -> Float[Tensor, "n {self.embed_dim}"]:
        """The row of the table for every patch of a clip; the same in every frame.

        Args:
            grid: patches of the clip along time, height and width.
            spatial_merge_size: side of the blocks of patches that are merged later; see `grid_positions`.

        Returns:
            n = gt gh gw rows in the order of `grid_positions`.

        Raises:
            ShapeError: if the grid is not made of whole blocks.
        """
        gt, gh, gw = checked_grid(grid, spatial_merge_size)
        table = rearrange(self.weight, "(rows columns) d -> rows columns d", rows=self.rows)
        blocks = dict(i=spatial_merge_size, j=spatial_merge_size)
        return repeat(self.resize(table, gh, gw), "(h i) (w j) d -> (gt h w i j) d", gt=gt, **blocks)

    def extra_repr(self) -> str:
        """The numbers of the constructor."""
        return f"{self.rows}, {self.columns}, {self.embed_dim}, resize={self.resize.__name__}"


def grid_positions(
    grid: Grid | tuple[int, int, int], *, spatial_merge_size: int = 1, device: torch.device | str | None = None
) -> Int[Tensor, "n 3"]:
    """Frame group, row and column of every patch of a clip, in the order in which patches stand in the sequence.

    The order runs group by group, then over blocks of merge x merge patches row by row, then inside a block row by row:
    patches that will be merged into one token stand next to each other. With spatial_merge_size 1 it is row by row.

    Args:
        grid: patches along time, height and width.
        spatial_merge_size: side of a block.
        device: where the result is made.

    Raises:
        ShapeError: if the grid is not made of whole blocks, or a number is below 1.
    """
    axes = [torch.arange(size, device=device) for size in checked_grid(grid, spatial_merge_size)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    blocks = dict(i=spatial_merge_size, j=spatial_merge_size)
    return rearrange(places, "gt (h i) (w j) axes -> (gt h w i j) axes", **blocks)


def rotary_angles(positions: Int[Tensor, "*b n"], k: int, *, base: float = 10000.0) -> Float[Tensor, "*b n half"]:
    """By which angle each pair of numbers of a query or key is turned at each position.

        angle[position, i] = position / base^(2 i / k),   i = 0 .. k/2 - 1

    Args:
        positions: where each token stands, counted in tokens, frames, rows or columns.
        k: width of a head, even.
        base: how slow the slowest pair turns.

    Returns:
        half = k / 2 angles a position, in radians, as float32.

    Raises:
        ValueError: if k is odd.

    Source: Su et al. 2021, equation 15 (arXiv:2104.09864).
    """
    if k % 2:
        raise ValueError(f"k is {k}, expected an even number: rotation turns pairs")
    speed = base ** (-torch.arange(0, k, 2, dtype=torch.float64, device=positions.device) / k)
    return (positions[..., None] * speed).float()


def rotate(
    x: Float[Tensor, "b heads n k"], angles: Float[Tensor, "n half"] | Float[Tensor, "b n half"]
) -> Float[Tensor, "b heads n k"]:
    """Turn each pair of numbers of a query or key by an angle that tells where the token stands.

        (x_i, x_i+half)  ->  (x_i cos - x_i+half sin,  x_i+half cos + x_i sin)

    The product of a query turned by a and a key turned by b depends on a - b only: attention sees distances. The pairs
    are i and i + half, as in the published weights of Llama and Qwen; the article pairs 2 i and 2 i + 1, which is the
    same layer with its weights in another order.

    Args:
        x: queries or keys.
        angles: of rotary_angles, half = k / 2; one row a token, for all clips or for each.

    Raises:
        ShapeError: if there are not k / 2 angles, or not one row a token.

    Source: Su et al. 2021, equation 34 (arXiv:2104.09864).
    """
    if angles.shape[-2:] != (x.shape[-2], x.shape[-1] // 2) or x.shape[-1] % 2:
        raise ShapeError(
            f"angles: shape {tuple(angles.shape)}, expected n={x.shape[-2]} rows of k/2 = {x.shape[-1] / 2:g} angles "
            f"for x {tuple(x.shape)}"
        )
    cos, sin = angles.cos().unsqueeze(-3), angles.sin().unsqueeze(-3)  # one axis more, for the heads
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def turns(
    angles: Float[Tensor, "n half"] | Float[Tensor, "b n half"],
) -> tuple[Float[Tensor, "*b 1 n k"], Float[Tensor, "*b 1 n k"]]:
    """Cosines and sines of angles, laid out so that `turn` needs three steps; many layers turn by the same ones.

        cosines = (cos, cos),   sines = (-sin, sin),   each of width k = 2 half

    Args:
        angles: of rotary_angles, one row a token, for all clips or for each.

    Returns:
        Two tensors with an axis of size 1 for the heads.
    """
    cos, sin = angles.cos().unsqueeze(-3), angles.sin().unsqueeze(-3)
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def turn(
    x: Float[Tensor, "b heads n k"], cosines: Float[Tensor, "*b 1 n k"], sines: Float[Tensor, "*b 1 n k"]
) -> Float[Tensor, "b heads n k"]:
    """The same as `rotate`, in three steps, by what `turns` has made of the angles.

        x cosines + (x with its halves exchanged) sines

    Args:
        x: queries or keys.
        cosines, sines: of `turns`.

    Raises:
        ShapeError: if they are not of x's tokens and width.

    Source: Su et al. 2021, equation 34 (arXiv:2104.09864).
    """
    if cosines.shape[-2:] != x.shape[-2:]:
        raise ShapeError(
            f"cosines: shape {tuple(cosines.shape)}, expected n={x.shape[-2]} rows of k={x.shape[-1]} numbers for x "
            f"{tuple(x.shape)}; every angle makes two"
        )
    turned = torch.addcmul(x * cosines, x.roll(x.shape[-1] // 2, -1), sines)
    return turned if turned.dtype == x.dtype else turned.to(x.dtype)


def axial_angles(positions: Int[Tensor, "*b n axes"], k: int, *, base: float = 10000.0) -> Float[Tensor, "*b n half"]:
    """Rotary angles for places with several coordinates: each coordinate has its own share of the pairs.

    Of row and column, the first k / 4 pairs are turned by the row and the other k / 4 by the column, each as
    `rotary_angles` turns a head of half the width.

    Args:
        positions: where each token stands along each axis, as columns of `grid_positions`: two for row and column.
        k: width of a head, a multiple of twice the number of axes.
        base: how slow the slowest pair of each axis turns.

    Returns:
        half = k / 2 angles a token, in radians.

    Raises:
        ValueError: if k is not such a multiple.

    Source: Heo et al. 2024 (arXiv:2403.13298); Qwen2-VL technical report, section 2.1 (arXiv:2409.12191).
    """
    axes = positions.shape[-1]
    if k % (2 * axes):
        raise ValueError(f"k is {k}, expected a multiple of {2 * axes}: pairs for each of {axes} axes")
    return rotary_angles(positions, k // axes, base=base).flatten(-2)


def interleaved_axes(sections: Sequence[int]) -> Int[Tensor, " half"]:
    """Which of time (0), row (1) and column (2) turns each pair: T H W T H W, as long as each has pairs left.

    Pair i belongs to the row if i = 1, 4, 7, ... is below 3 sections[1], to the column if i = 2, 5, 8, ... is below
    3 sections[2], and to time otherwise. So every axis has fast and slow pairs.

    Args:
        sections: how many pairs time, row and column have; time has the most.

    Raises:
        ValueError: if there are not three numbers of at least 0, or the pairs do not come out as many as they say.

    Source: Qwen3-VL technical report, interleaved MRoPE (arXiv:2511.21631).
    """
    if len(sections) != 3 or min(sections) < 0:
        raise ValueError(f"sections are {list(sections)}, expected three numbers of at least 0: time, row and column")
    # Counted without tensors: a model's numbers are checked before its device is known.
    axes = [pair % 3 if pair < 3 * sections[pair % 3] else 0 for pair in range(sum(sections))]
    if [axes.count(axis) for axis in range(3)] != list(sections):
        raise ValueError(f"sections are {list(sections)}: taken in turns, row or column has more pairs than there are")
    return torch.tensor(axes, dtype=torch.long)


def mrope_angles(
    positions: Int[Tensor, "*b n 3"], sections: Sequence[int], *, base: float = 10000.0
) -> Float[Tensor, "*b n half"]:
    """Rotary angles for tokens of text, pictures and clips, which have three positions: time, row and column.

        angle[token, i] = positions[token, axis(i)] / base^(2 i / k),   k = 2 half

    Which axis turns pair i is said by `interleaved_axes`. A token of text has three equal positions and is turned as
    `rotary_angles` turns it.

    Args:
        positions: of `mrope_positions`.
        sections: how many pairs time, row and column have, half = k / 2 in all.
        base: how slow the slowest pair turns.

    Returns:
        half angles a token, in radians.

    Raises:
        ValueError: as for `interleaved_axes`.

    Source: Qwen3-VL technical report, interleaved MRoPE (arXiv:2511.21631).
    """
    axes = interleaved_axes(sections)
    angles = rotary_angles(positions, 2 * len(axes), base=base)  # *b n 3 half: each axis would turn every pair
    return angles[..., axes, torch.arange(len(axes))]


def mrope_positions(
    input_ids: Int[Tensor, "b n"],
    *,
    image_token_id: int,
    video_token_id: int,
    attention_mask: Int[Tensor, "b n"] | Bool[Tensor, "b n"] | None = None,
    image_grid_thw: Int[Tensor, "images 3"] | None = None,
    video_grid_thw: Int[Tensor, "videos 3"] | None = None,
    spatial_merge_size: int = 2,
) -> tuple[Int[Tensor, "b n 3"], Int[Tensor, " b"]]:
    """Time, row and column of every token of text, pictures and clips, counted from one token to the next.

    Text counts on all three axes at once. A picture, or one frame group of a clip, stands still in time, and its merged
    patches count rows and columns from where the text had come to; the text goes on behind its longer side:

        text:             (c, c, c), then c + 1
        h x w patches:    (c, c + row, c + column), then c + max(h, w)

    So the next token is always one past the largest position before it. The time of a frame is told by the words that
    stand before it, not by its position.

    Args:
        input_ids: tokens; every merged patch of a picture is one image_token_id, of a clip one video_token_id, and
            frame groups have some other token between them.
        image_token_id, video_token_id: the placeholders.
        attention_mask: 0 or False on padding, which counts for nothing; None = no padding.
        image_grid_thw: patches along time, height and width of every picture, in order over the whole batch.
        video_grid_thw: the same for every clip.
        spatial_merge_size: side of the blocks of patches that are merged into one token.

    Returns:
        Time, row and column of every token (0 on padding), and of each row of the batch the position of the token that
        comes next, on all three axes.

    Raises:
        ShapeError: if placeholders and grids do not fit together.

    Source: Qwen3-VL technical report (arXiv:2511.21631); Qwen2-VL technical report, section 2.1 (arXiv:2409.12191).
    """
    pictures = {
        image_token_id: _Pictures("image", image_grid_thw, spatial_merge_size),
        video_token_id: _Pictures("video", video_grid_thw, spatial_merge_size),
    }
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if mask.shape != input_ids.shape:
        raise ShapeError(
            f"attention_mask: shape {tuple(mask.shape)}, expected that of input_ids, {tuple(input_ids.shape)}"
        )
    positions, following = input_ids.new_zeros(*input_ids.shape, 3), input_ids.new_zeros(len(input_ids))
    for ids, kept, place, end in zip(input_ids, mask.bool(), positions, following, strict=True):
        parts = [place.new_zeros(0, 3)]
        for token, run in itertools.groupby(ids[kept].tolist(), lambda token: token if token in pictures else None):
            length = len(list(run))
            if token is None:
                part, step = repeat(torch.arange(length, device=ids.device), "n -> n axes", axes=3), length
            else:
                h, w = pictures[token].next(length)
                part, step = grid_positions((1, h, w), device=ids.device), max(h, w)
            parts.append(part.to(place) + end)
            end += step
        place[kept] = torch.cat(parts)
    for kind in pictures.values():
        kind.check_all_taken()
    return positions, following


class _Pictures:
    """Sizes, in merged patches, of all pictures of one kind; every frame group of a clip is a picture of its own."""

    def __init__(self, kind: str, grids: Tensor | None, spatial_merge_size: int):
        rows = [] if grids is None else [checked_grid(Grid(*grid), spatial_merge_size) for grid in grids.tolist()]
        self.kind, self.taken = kind, 0
        self.sizes = [
            (grid.gh // spatial_merge_size, grid.gw // spatial_merge_size) for grid in rows for _ in range(grid.gt)
        ]

    def next(self, length: int) -> tuple[int, int]:
        """The size of the next one, which has `length` placeholders."""
        if self.taken == len(self.sizes):
            raise ShapeError(
                f"{self.kind}_grid_thw: {self.taken} pictures or frame groups, but input_ids holds one more, a run of "
                f"{length} {self.kind} placeholders; give a grid for each"
            )
        h, w = self.sizes[self.taken]
        if length != h * w:
            raise ShapeError(
                f"input_ids: a run of {length} {self.kind} placeholders, expected {h} x {w} = {h * w} for picture or "
                f"frame group {self.taken} of {self.kind}_grid_thw; two runs need another token between them"
            )
        self.taken += 1
        return h, w

    def check_all_taken(self) -> None:
        if self.taken < len(self.sizes):
            raise ShapeError(
                f"{self.kind}_grid_thw: {len(self.sizes)} pictures or frame groups, but input_ids holds {self.taken} "
                f"runs of {self.kind} placeholders; give one run for each"
            )
