"""Classic wrong answers about positions, each with three hints of increasing directness."""

import math
from collections.abc import Iterator

import torch
from einops import rearrange
from strategies import normal

from minivid.classroom.museum import Mistake
from minivid.layers import positions as library

# ---- sinusoidal


def waves(n, d, exponent, *, halves=False, cosine_first=False, start=0):
    angle = torch.arange(start, n + start, dtype=torch.float64)[:, None] * 10000.0**-exponent
    pair = [angle.cos(), angle.sin()] if cosine_first else [angle.sin(), angle.cos()]
    table = torch.cat(pair, -1) if halves else torch.stack(pair, -1).flatten(1)
    return table.float()


def columns(d):
    return torch.arange(0, d, 2, dtype=torch.float64)


def sines_then_cosines(n, d, *, device=None):
    return waves(n, d, columns(d) / d, halves=True)


def cosine_before_sine(n, d, *, device=None):
    return waves(n, d, columns(d) / d, cosine_first=True)


def counted_from_one(n, d, *, device=None):
    return waves(n, d, columns(d) / d, start=1)


def pair_number_over_width(n, d, *, device=None):
    return waves(n, d, columns(d) / (2 * d))


def divided_by_half_the_width(n, d, *, device=None):
    return waves(n, d, columns(d) / (d / 2))


def speed_for_every_column(n, d, *, device=None):
    angle = torch.arange(n)[:, None] / 10000.0 ** (torch.arange(d) / d)
    return torch.where(torch.arange(d) % 2 == 0, angle.sin(), angle.cos())


def growing_speed(n, d, *, device=None):
    return waves(n, d, -columns(d) / d)


def sines_only(n, d, *, device=None):
    angle = torch.arange(n)[:, None] / 10000.0 ** (columns(d) / d)
    return angle.sin().repeat_interleave(2, 1).float()


def whole_turns(n, d, *, device=None):
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64)[:, None] * 10000.0 ** -(columns(d) / d)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).float()


def last_speed_exactly(n, d, *, device=None):
    return waves(n, d, columns(d) / (d - 2), halves=True)


def base_of_a_thousand(n, d, *, device=None):
    return waves(n, d, columns(d) / d * 0.75)


SINUSOIDAL = [
    (
        sines_then_cosines,
        (
            "Which two columns belong to the same angle?",
            "All the sines stand before all the cosines; each sine should have its cosine beside it.",
            "torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)",
        ),
    ),
    (
        cosine_before_sine,
        (
            "What is in the first column of position 0: the sine of 0, or the cosine?",
            "Sine and cosine are swapped in each pair.",
            "Even columns are sines: stack([angle.sin(), angle.cos()], dim=-1).",
        ),
    ),
    (
        counted_from_one,
        (
            "What does the first row look like? The sine of 0 is 0, the cosine is 1.",
            "The first position is 1 instead of 0.",
            "position = torch.arange(n)",
        ),
    ),
    (
        pair_number_over_width,
        (
            "The first pair is right. Is the second one slow enough?",
            "The exponent is i / d; it should be 2 i / d, so that the slowest pair comes near 10000.",
            "torch.arange(0, d, 2) / d",
        ),
    ),
    (
        divided_by_half_the_width,
        (
            "The first pair is right. Is the second one too slow?",
            "The exponent is 4 i / d: the factor 2 is there twice.",
            "torch.arange(0, d, 2) / d: the step of 2 is the factor.",
        ),
    ),
    (
        speed_for_every_column,
        (
            "Square the two columns of a pair and add: one? For every pair?",
            "Sine and cosine of a pair have different angles: the exponent counts columns, not pairs.",
            "One speed for two columns: 10000 ** (-torch.arange(0, d, 2) / d).",
        ),
    ),
    (
        growing_speed,
        (
            "Does the last pair turn faster or slower than the first?",
            "The speed grows from pair to pair; the sign of the exponent is wrong.",
            "10000 ** (-torch.arange(0, d, 2) / d)",
        ),
    ),
    (
        sines_only,
        (
            "Square the two columns of a pair and add: one?",
            "Both columns of a pair are sines.",
            "The second one is the cosine of the same angle.",
        ),
    ),
    (
        whole_turns,
        (
            "The fastest hand at position 1: which angle?",
            "The angle is multiplied by 2 pi; it is counted in radians as it is.",
            "position * speed, without 2 pi",
        ),
    ),
    (
        last_speed_exactly,
        (
            "Which two columns belong to the same angle? And how fast is the slowest hand?",
            "Here, as in some published code, sines stand before cosines and the last exponent is 1; a sine should "
            "have its cosine beside it, and the exponents be 2 i / d.",
            "10000.0 ** (-torch.arange(0, d, 2) / d) and torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)",
        ),
    ),
    (
        base_of_a_thousand,
        (
            "By which factor do the speeds fall in all: 1000, or 10000?",
            "The base is 1000; it is 10000.",
            "10000.0 ** (-torch.arange(0, d, 2) / d)",
        ),
    ),
]

# ---- rotary_angles


def interleaved_twice(positions, k, *, base=10000.0):
    return library.rotary_angles(positions, k, base=base).repeat_interleave(2, -1)


def repeated(positions, k, *, base=10000.0):
    angles = library.rotary_angles(positions, k, base=base)
    return torch.cat([angles, angles], -1)


def exponent_without_two(positions, k, *, base=10000.0):
    return positions[..., None] * base ** (-torch.arange(k // 2) / k)


def always_ten_thousand(positions, k, *, base=10000.0):
    return library.rotary_angles(positions, k)


def from_position_one(positions, k, *, base=10000.0):
    return library.rotary_angles(positions + 1, k, base=base)


def faster_and_faster(positions, k, *, base=10000.0):
    return positions[..., None] * base ** (torch.arange(0, k, 2) / k)


def divided_by_half(positions, k, *, base=10000.0):
    return positions[..., None] * base ** (-torch.arange(0, k, 2) / (k // 2))


def own_positions(positions, k, *, base=10000.0):
    return library.rotary_angles(torch.arange(positions.shape[-1]), k, base=base)


ROTARY_ANGLES = [
    (
        interleaved_twice,
        (
            "How many pairs does a head of width k have?",
            "Every angle stands there twice; there is one angle a pair, k / 2 in all.",
            "torch.arange(0, k, 2) has k / 2 entries; do not repeat them.",
        ),
    ),
    (
        repeated,
        (
            "How many pairs does a head of width k have?",
            "The angles are repeated up to k; there is one angle a pair, k / 2 in all.",
            "Leave out the repetition: `rotate` splits x into halves instead.",
        ),
    ),
    (
        exponent_without_two,
        (
            "The first pair is right. Is the second one slow enough?",
            "The exponent is i / k; it should be 2 i / k.",
            "base ** (-torch.arange(0, k, 2) / k)",
        ),
    ),
    (
        always_ten_thousand,
        (
            "Try another base.",
            "The base is an argument that no line uses.",
            "base ** (...) instead of 10000 ** (...).",
        ),
    ),
    (
        from_position_one,
        (
            "By how much is a token at position 0 turned?",
            "Every position is one too large.",
            "Take the positions as they come: positions[..., None] * speed.",
        ),
    ),
    (
        faster_and_faster,
        (
            "Does the last pair turn faster or slower than the first?",
            "The sign of the exponent is wrong: speeds grow instead of falling.",
            "base ** (-torch.arange(0, k, 2) / k)",
        ),
    ),
    (
        divided_by_half,
        (
            "The first pair is right. Is the second one too slow?",
            "The exponent is 4 i / k: the factor 2 is there twice.",
            "base ** (-torch.arange(0, k, 2) / k)",
        ),
    ),
    (
        own_positions,
        (
            "Give positions that do not begin at 0.",
            "The given positions are not used; the tokens are counted anew.",
            "positions[..., None] * speed",
        ),
    ),
]

# ---- rotate


def parts(x, angles):
    return *x.chunk(2, -1), angles.cos().unsqueeze(-3), angles.sin().unsqueeze(-3)


def turned_backwards(x, angles):
    return library.rotate(x, -angles)


def minus_forgotten(x, angles):
    first, second, cos, sin = parts(x, angles)
    return torch.cat([first * cos + second * sin, second * cos + first * sin], -1)


def neighbours_paired(x, angles):
    pairs = rearrange(x, "b heads n (half two) -> b heads n (two half)", two=2)
    return rearrange(library.rotate(pairs, angles), "b heads n (two half) -> b heads n (half two)", two=2)


def halves_swapped(x, angles):
    first, second, cos, sin = parts(x, angles)
    return torch.cat([second * cos + first * sin, first * cos - second * sin], -1)


def half_turned(x, angles):
    first, second, cos, sin = parts(x, angles)
    return torch.cat([first * cos - second * sin, second], -1)


def turned_result_turned_again(x, angles):
    # The first line overwrites what the second one still needs.
    first, second, cos, sin = parts(x, angles)
    first = first * cos - second * sin
    return torch.cat([first, second * cos + first * sin], -1)


def turned_by_heads(x, angles):
    # The angles of the first token for everything in the first head, and so on.
    angles = angles.expand(len(x), *angles.shape[-2:])
    index = torch.arange(x.shape[1]) % x.shape[2]
    return library.rotate(x.transpose(1, 2), angles[:, index]).transpose(1, 2)


def first_clips_angles(x, angles):
    return library.rotate(x, angles[0] if angles.ndim == 3 else angles)


def scaled(x, angles):
    first, second, cos, sin = parts(x, angles)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1) / math.sqrt(2)


def degrees(x, angles):
    return library.rotate(x, angles.deg2rad())


def neighbours_angles_on_halves(x, angles):
    first, second = x.chunk(2, -1)
    wide = angles.repeat_interleave(2, -1).unsqueeze(-3)
    return x * wide.cos() + torch.cat([-second, first], -1) * wide.sin()


def halves_angles_on_neighbours(x, angles):
    wide = torch.cat([angles, angles], -1).unsqueeze(-3)
    swapped = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * wide.cos() + swapped * wide.sin()


ROTATE = [
    (
        turned_backwards,
        (
            "Turn (1, 0) by a small angle. Does its second number grow?",
            "The rotation runs backwards: the minus stands at the wrong sine.",
            "first * cos - second * sin, second * cos + first * sin",
        ),
    ),
    (
        minus_forgotten,
        (
            "Is the turned token as long as before?",
            "Both sines have a plus; in a rotation one has a minus.",
            "first * cos - second * sin, second * cos + first * sin",
        ),
    ),
    (
        neighbours_paired,
        (
            "With k = 2 it is right. Which two numbers make a pair in k = 4?",
            "Neighbours 2 i and 2 i + 1 are turned together, as in the article; here the pairs are i and i + k / 2.",
            "first, second = x.chunk(2, dim=-1)",
        ),
    ),
    (
        halves_swapped,
        (
            "Turn by the angle 0. Does everything stay in its place?",
            "The two halves come back in the wrong order.",
            "torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)",
        ),
    ),
    (
        half_turned,
        (
            "Is the turned token as long as before?",
            "Only the first half changes; a rotation changes both numbers of a pair.",
            "The second half is second * cos + first * sin.",
        ),
    ),
    (
        turned_result_turned_again,
        (
            "Is the turned token as long as before?",
            "The second half is computed from the first half after that has been turned.",
            "Compute both halves from the old ones, then put them together.",
        ),
    ),
    (
        turned_by_heads,
        (
            "Do two heads of the same token turn by the same angles? And two tokens of one head?",
            "The angles run over the heads; they belong to the tokens.",
            "Give the angles an axis of size one for the heads: angles.unsqueeze(-3).",
        ),
    ),
    (
        first_clips_angles,
        (
            "Give two clips whose tokens stand elsewhere.",
            "All clips are turned by the angles of the first.",
            "angles.unsqueeze(-3) turns n half into 1 n half, and b n half into b 1 n half.",
        ),
    ),
    (
        scaled,
        (
            "Is the turned token as long as before?",
            "The result is divided; a rotation needs no scale.",
            "cos and sin already have squares that sum to one.",
        ),
    ),
    (
        degrees,
        (
            "How far does an angle of pi turn?",
            "The angles are taken for degrees; they are radians.",
            "angles.cos() takes radians.",
        ),
    ),
    (
        neighbours_angles_on_halves,
        (
            "Are both numbers of a pair turned by the same angle?",
            "The pairs are i and i + k/2, but the angles are laid out for neighbours, each twice in a row.",
            "torch.cat([angles, angles], -1), where repeat_interleave stands",
        ),
    ),
    (
        halves_angles_on_neighbours,
        (
            "Are both numbers of a pair turned by the same angle?",
            "Neighbours are paired, but the angles are laid out for halves, one whole row after the other.",
            "first, second = x.chunk(2, -1), and turn number i of the one with number i of the other.",
        ),
    ),
]

# ---- places on an axis


def without_halves(n, size):
    return (torch.arange(n) * (size / n)).clamp(0, size - 1)


def not_clamped(n, size):
    return (torch.arange(n) + 0.5) * (size / n) - 0.5


def clamped_below_only(n, size):
    return not_clamped(n, size).clamp_min(0)


def clamped_above_only(n, size):
    return not_clamped(n, size).clamp_max(size - 1)


def corners_for_edges(n, size):
    return library.corner_places(n, size)


def scaled_the_wrong_way(n, size):
    return ((torch.arange(n) + 0.5) * (n / size) - 0.5).clamp(0, size - 1)


def half_not_taken_back(n, size):
    return ((torch.arange(n) + 0.5) * (size / n)).clamp(0, size - 1)


def rounded_places(n, size):
    return library.edge_places(n, size).round()


EDGE_PLACES = [
    (
        without_halves,
        (
            "Are the places the same when counted from the other end?",
            "The corners of the fields are put on each other, not their middles.",
            "(torch.arange(n) + 0.5) * size / n - 0.5",
        ),
    ),
    (
        not_clamped,
        (
            "Four cells on an axis of two: is the first place on the axis?",
            "Places outside the axis are not brought back to its ends.",
            ".clamp(0, size - 1)",
        ),
    ),
    (
        clamped_below_only,
        (
            "Four cells on an axis of two: is the last place on the axis?",
            "Places behind the last cell are not brought back.",
            ".clamp(0, size - 1)",
        ),
    ),
    (
        clamped_above_only,
        (
            "Four cells on an axis of two: is the first place on the axis?",
            "Places before the first cell are not brought back.",
            ".clamp(0, size - 1)",
        ),
    ),
    (
        corners_for_edges,
        (
            "Two cells on an axis of four: is the first place 0, or between 0 and 1?",
            "The middles of the outer cells are put on each other; here it is the edges of the axes.",
            "(torch.arange(n) + 0.5) * size / n - 0.5",
        ),
    ),
    (
        scaled_the_wrong_way,
        (
            "Two cells on an axis of four: how far apart are the two places?",
            "The ratio is upside down.",
            "A cell of the new axis is size / n cells of the old one long.",
        ),
    ),
    (
        half_not_taken_back,
        (
            "As many cells as the axis has: is each on its own place?",
            "The middle of cell j lies at j + 1/2; the last half is not taken off.",
            "(torch.arange(n) + 0.5) * size / n - 0.5",
        ),
    ),
    (
        rounded_places,
        (
            "May a place lie between two cells?",
            "The places are rounded to cells.",
            "Leave the fraction: it says how much each neighbour counts.",
        ),
    ),
]


def last_left_out(n, size):
    return torch.arange(n) * ((size - 1) / n)


def edges_for_corners(n, size):
    return library.edge_places(n, size)


def ends_behind_the_axis(n, size):
    return torch.arange(n) * (size / max(n - 1, 1))


def single_in_the_middle(n, size):
    return torch.full((1,), (size - 1) / 2) if n == 1 else library.corner_places(n, size)


def divided_by_nothing(n, size):
    return torch.arange(n) * (size - 1) / (n - 1)


def counted_from_cell_one(n, size):
    return library.corner_places(n, size) + 1


CORNER_PLACES = [
    (
        last_left_out,
        (
            "Where does the last cell stand?",
            "There are n - 1 steps between n cells, not n.",
            "torch.arange(n) * (size - 1) / max(n - 1, 1)",
        ),
    ),
    (
        edges_for_corners,
        (
            "Two cells on an axis of four: where does the first stand?",
            "The edges of both axes are put on each other; here it is the first and the last cell.",
            "torch.arange(n) * (size - 1) / max(n - 1, 1)",
        ),
    ),
    (
        ends_behind_the_axis,
        (
            "Where does the last cell stand? The axis ends at size - 1.",
            "From the first to the last of `size` cells there are size - 1 steps.",
            "torch.arange(n) * (size - 1) / max(n - 1, 1)",
        ),
    ),
    (
        single_in_the_middle,
        (
            "Where does a single cell stand?",
            "A single cell is put in the middle; here it is the first, at 0.",
            "torch.arange(n) * (size - 1) / max(n - 1, 1) gives 0 for n = 1.",
        ),
    ),
    (
        divided_by_nothing,
        (
            "Where does a single cell stand?",
            "With one cell there is no step, and n - 1 is 0: 0 / 0 is not a number.",
            "torch.arange(n) * (size - 1) / max(n - 1, 1)",
        ),
    ),
    (
        counted_from_cell_one,
        (
            "Where does the first cell stand?",
            "The cells of the axis are counted from 1; they are 0 to size - 1.",
            "torch.arange(n) * (size - 1) / max(n - 1, 1)",
        ),
    ),
]


def nearest_cell(places, size):
    return (places[:, None].round() == torch.arange(size)).float()


def hat_too_wide(places, size):
    return (1 - (places[:, None] - torch.arange(size)).abs() / 2).clamp_min(0)


def not_cut_at_zero(places, size):
    return 1 - (places[:, None] - torch.arange(size)).abs()


def shares_swapped(places, size):
    low = places.floor().long()
    weights = torch.zeros(len(places), size)
    rows = torch.arange(len(places))
    weights[rows, low] = places - low
    weights[rows, (low + 1).clamp_max(size - 1)] += 1 - (places - low)
    return weights


def lower_cell(places, size):
    return (places[:, None].floor() == torch.arange(size)).float()


def upper_share_written_last(places, size):
    low, high = places.floor().long(), places.ceil().long()
    weights, rows = torch.zeros(len(places), size), torch.arange(len(places))
    weights[rows, low] = 1 - (places - low)
    weights[rows, high] = places - low  # on a cell, low and high are the same
    return weights


def softmax_of_distances(places, size):
    return torch.softmax(-(places[:, None] - torch.arange(size)).abs(), -1)


def one_side_only(places, size):
    return (1 - (places[:, None] - torch.arange(size))).clamp_min(0)


HAT_WEIGHTS = [
    (
        nearest_cell,
        (
            "At 0.25, how much should cell 1 count?",
            "The nearest cell takes everything.",
            "(1 - |place - cell|), not below 0",
        ),
    ),
    (
        hat_too_wide,
        (
            "Do the weights of a place sum to one?",
            "Cells up to 2 away count; only the two next to the place should.",
            "(1 - |place - cell|), not below 0: at a distance of 1 nothing is left.",
        ),
    ),
    (
        not_cut_at_zero,
        (
            "How much does a cell count that is 3 away?",
            "Distant cells count negatively.",
            ".clamp_min(0)",
        ),
    ),
    (
        shares_swapped,
        (
            "At 0.25, which of cells 0 and 1 counts more?",
            "The two shares are swapped: the nearer cell gets the smaller one.",
            "The lower cell gets 1 - fraction, the upper one the fraction.",
        ),
    ),
    (
        lower_cell,
        (
            "At 0.75, how much should cell 1 count?",
            "The cell below takes everything.",
            "(1 - |place - cell|), not below 0",
        ),
    ),
    (
        upper_share_written_last,
        (
            "Which weights has a place that lies exactly on a cell?",
            "There, the cell below and the cell above are the same one, and its second share, 0, overwrites the first.",
            "(1 - (places[:, None] - cells).abs()).clamp_min(0) needs no two cases.",
        ),
    ),
    (
        softmax_of_distances,
        (
            "At 0.25, how much should cell 2 count?",
            "A softmax gives every cell a share; only the two next to a place have one.",
            "(1 - |place - cell|), not below 0",
        ),
    ),
    (
        one_side_only,
        (
            "At 0, how much should cell 3 count?",
            "The difference has a sign, so the cells above a place get more, the further they are.",
            "(places[:, None] - cells).abs()",
        ),
    ),
]

# ---- tables


def reading(rows, columns):
    return lambda table, gh, gw: torch.einsum(
        "ir,jc,rcd->ijd",
        library.hat_weights(rows(gh, table.shape[0]), table.shape[0]),
        library.hat_weights(columns(gw, table.shape[1]), table.shape[1]),
        table,
    )


def rows_and_columns_swapped(read):
    def answer(table, gh, gw):
        return read(table.transpose(0, 1), gh, gw)

    return answer


def size_swapped(read):
    def answer(table, gh, gw):
        return read(table, gw, gh)

    return answer


def reshaped(read):
    def answer(table, gh, gw):
        return read(table.reshape(table.shape[1], table.shape[0], -1), gh, gw)

    return answer


def cut_or_repeated(table, gh, gw):
    rows, columns = torch.arange(gh) % table.shape[0], torch.arange(gw) % table.shape[1]
    return table[rows][:, columns]


def table_mistakes(own, other, own_words, other_words):
    read = reading(own, own)
    rounded = reading(lambda n, size: own(n, size).round(), lambda n, size: own(n, size).round())
    return [
        (
            reading(other, other),
            (
                "Read a table of two at four places: which numbers come out?",
                f"The places are those of {other_words}; here it is {own_words}.",
                f"hat_weights({own.__name__}(gh, rows), rows), and the same for the columns.",
            ),
        ),
        (
            rows_and_columns_swapped(read),
            (
                "Give a table with more columns than rows.",
                "The table is read on its side: its rows as columns.",
                "Axis 0 of the table are rows and go with gh, axis 1 are columns and go with gw.",
            ),
        ),
        (
            size_swapped(read),
            (
                "Which shape comes out for gh = 2 and gw = 3?",
                "gh and gw are swapped.",
                "gh belongs to the rows, gw to the columns.",
            ),
        ),
        (
            reshaped(read),
            (
                "Give a table with more columns than rows, and its own size.",
                "The table is reshaped to columns x rows, which tears its rows apart.",
                "Leave the table as rows x columns x d.",
            ),
        ),
        (
            cut_or_repeated,
            (
                "Read a table of four at two places: does the whole table count?",
                "The table is cut off or begins again; it should be spread over the picture.",
                f"Place the cells by {own.__name__} and weigh by hat_weights.",
            ),
        ),
        (
            rounded,
            (
                "Read a table of two at three places: what is in the middle?",
                "The nearest row of the table is taken; its neighbours should be mixed.",
                "hat_weights at the places as they are, not rounded.",
            ),
        ),
        (
            reading(own, other),
            (
                "The rows are right. The columns?",
                f"The columns are placed by {other_words}, the rows by {own_words}.",
                f"{own.__name__} for both axes.",
            ),
        ),
        (
            reading(other, own),
            (
                "The columns are right. The rows?",
                f"The rows are placed by {other_words}, the columns by {own_words}.",
                f"{own.__name__} for both axes.",
            ),
        ),
    ]


EDGES, CORNERS = (library.edge_places, "edges on edges"), (library.corner_places, "corners on corners")
RESIZE_TABLE = table_mistakes(EDGES[0], CORNERS[0], EDGES[1], CORNERS[1])
STRETCH_TABLE = table_mistakes(CORNERS[0], EDGES[0], CORNERS[1], EDGES[1])

# ---- grid_positions


def raster_order(grid, *, spatial_merge_size=1, device=None):
    return library.grid_positions(grid)


def column_by_column(grid, *, spatial_merge_size=1, device=None):
    gt, gh, gw = grid
    return library.grid_positions((gt, gw, gh), spatial_merge_size=spatial_merge_size)[:, [0, 2, 1]]


def time_innermost(grid, *, spatial_merge_size=1, device=None):
    return rearrange(
        library.grid_positions(grid, spatial_merge_size=spatial_merge_size), "(gt n) axes -> (n gt) axes", gt=grid[0]
    )


def column_before_row(grid, *, spatial_merge_size=1, device=None):
    return library.grid_positions(grid, spatial_merge_size=spatial_merge_size)[:, [0, 2, 1]]


def inside_columns_first(grid, *, spatial_merge_size=1, device=None):
    m = spatial_merge_size
    return rearrange(
        library.grid_positions(grid, spatial_merge_size=m), "(block i j) axes -> (block j i) axes", i=m, j=m
    )


def blocks_columns_first(grid, *, spatial_merge_size=1, device=None):
    m, (gt, gh, gw) = spatial_merge_size, grid
    blocks = dict(gt=gt, h=gh // m, w=gw // m)
    return rearrange(library.grid_positions(grid, spatial_merge_size=m), "(gt h w m) axes -> (gt w h m) axes", **blocks)


def block_numbers(grid, *, spatial_merge_size=1, device=None):
    places = library.grid_positions(grid, spatial_merge_size=spatial_merge_size)
    return places // torch.tensor([1, spatial_merge_size, spatial_merge_size])


def dealt_out(grid, *, spatial_merge_size=1, device=None):
    # "(i h) (j w)": a block is made of patches far apart.
    m, (gt, gh, _) = spatial_merge_size, grid
    places = rearrange(library.grid_positions(grid), "(gt gh gw) axes -> gt gh gw axes", gt=gt, gh=gh)
    return rearrange(places, "gt (i h) (j w) axes -> (gt h w i j) axes", i=m, j=m)


GRID_POSITIONS = [
    (
        raster_order,
        (
            "With spatial_merge_size 1 it is right. With 2, which patch comes third?",
            "The patches run row by row over the whole picture; they should run block by block.",
            '"gt (h i) (w j) axes -> (gt h w i j) axes" with i = j = spatial_merge_size',
        ),
    ),
    (
        column_by_column,
        (
            "Which patch comes second: the one to the right, or the one below?",
            "The order runs down the columns; it should run along the rows.",
            "Height before width: (gt h w i j).",
        ),
    ),
    (
        time_innermost,
        (
            "With two frame groups, which patch comes second?",
            "The time runs fastest; it should run slowest.",
            "gt stands first in (gt h w i j).",
        ),
    ),
    (
        column_before_row,
        (
            "What does the second number count?",
            "Row and column are swapped in the result.",
            "The three numbers are frame group, row, column.",
        ),
    ),
    (
        inside_columns_first,
        (
            "Inside a block, which patch comes second: the one to the right, or the one below?",
            "Inside a block the order runs down the columns.",
            "i before j: (gt h w i j).",
        ),
    ),
    (
        blocks_columns_first,
        (
            "Which block comes second: the one to the right, or the one below?",
            "The blocks run down the columns.",
            "h before w: (gt h w i j).",
        ),
    ),
    (
        block_numbers,
        (
            "How many different rows are there in a picture of 4 rows?",
            "The numbers are those of the blocks; every patch has a row and a column of its own.",
            "Do not divide by spatial_merge_size.",
        ),
    ),
    (
        dealt_out,
        (
            "Do the first four patches touch each other?",
            "A block is made of patches far apart: the bracket is (i h) where it should be (h i).",
            '"gt (h i) (w j) axes -> ...": the block is the outer number.',
        ),
    ),
]

# ---- axial_angles


def columns_before_rows(positions, k, *, base=10000.0):
    return library.axial_angles(positions.flip(-1), k, base=base)


def axes_in_turns(positions, k, *, base=10000.0):
    return rearrange(
        library.axial_angles(positions, k, base=base),
        "... (axes pairs) -> ... (pairs axes)",
        axes=positions.shape[-1],
    )


def one_ladder_of_speeds(positions, k, *, base=10000.0):
    axes = positions.shape[-1]
    whole = library.rotary_angles(positions, k, base=base)  # ... axes half
    return torch.cat([part[..., i, :] for i, part in enumerate(whole.chunk(axes, -1))], -1)


def same_fast_pairs(positions, k, *, base=10000.0):
    axes = positions.shape[-1]
    return library.rotary_angles(positions, k, base=base)[..., : k // 2 // axes].flatten(-2)


def coordinates_added(positions, k, *, base=10000.0):
    return library.rotary_angles(positions.sum(-1), k, base=base)


def rows_only(positions, k, *, base=10000.0):
    return library.axial_angles(positions[..., :1].expand(positions.shape), k, base=base)


def all_pairs_for_each_axis(positions, k, *, base=10000.0):
    return library.rotary_angles(positions, k, base=base).flatten(-2)


def own_base(positions, k, *, base=10000.0):
    return library.axial_angles(positions, k)


AXIAL_ANGLES = [
    (
        columns_before_rows,
        (
            "Move a patch down by one row: which angles change?",
            "The first half of the pairs is turned by the column; it belongs to the row.",
            "The first coordinate has the first pairs.",
        ),
    ),
    (
        axes_in_turns,
        (
            "With k = 4 it is right. With k = 8, which coordinate turns the second pair?",
            "Row and column take turns; the row has the first half of the pairs, the column the second.",
            "rotary_angles(positions, k // axes) gives n axes quarter; flatten the last two.",
        ),
    ),
    (
        one_ladder_of_speeds,
        (
            "How fast does the first pair of the column turn? And the first pair of the row?",
            "The speeds fall over all pairs; each axis should have its own from fast to slow.",
            "rotary_angles with a head of width k // axes for each axis.",
        ),
    ),
    (
        same_fast_pairs,
        (
            "How slow is the slowest pair of each axis?",
            "The exponent runs over the whole width; only half of the speeds are used.",
            "rotary_angles with a head of width k // axes for each axis.",
        ),
    ),
    (
        coordinates_added,
        (
            "Are row 1, column 2 and row 2, column 1 different places?",
            "The coordinates are added: places on a diagonal look alike.",
            "Each coordinate turns pairs of its own.",
        ),
    ),
    (
        rows_only,
        (
            "Move a patch to the right: does anything change?",
            "All pairs are turned by the row.",
            "positions[..., 1] turns the second half.",
        ),
    ),
    (
        all_pairs_for_each_axis,
        (
            "How many pairs does a head of width k have?",
            "Each axis has k / 2 angles; together they should have k / 2.",
            "rotary_angles with a head of width k // axes.",
        ),
    ),
    (
        own_base,
        (
            "Try another base.",
            "The base is an argument that no line uses.",
            "Hand it on: rotary_angles(..., base=base).",
        ),
    ),
]

# ---- interleaved_axes and mrope_angles


def in_sections(sections):
    return torch.repeat_interleave(torch.arange(3), torch.tensor(list(sections)))


def turns_to_the_end(sections):
    return torch.arange(sum(sections)) % 3


def columns_then_rows(sections):
    axes = library.interleaved_axes(sections)
    return torch.tensor([0, 2, 1])[axes]


def own_count_as_limit(sections):
    pairs = torch.arange(sum(sections))
    axes = torch.zeros_like(pairs)
    for axis in (1, 2):
        axes[(pairs % 3 == axis) & (pairs < sections[axis])] = axis
    return axes


def row_first(sections):
    pairs = torch.arange(sum(sections))
    axes = torch.zeros_like(pairs)
    for axis in (1, 2):
        axes[(pairs % 3 == axis - 1) & (pairs < 3 * sections[axis])] = axis
    return axes


def rows_limit_for_both(sections):
    pairs = torch.arange(sum(sections))
    return torch.where(pairs < 3 * sections[1], pairs % 3, 0)


def one_past_the_limit(sections):
    pairs = torch.arange(sum(sections))
    axes = torch.zeros_like(pairs)
    for axis in (1, 2):
        axes[(pairs % 3 == axis) & (pairs <= 3 * sections[axis] + axis)] = axis
    return axes


def leftovers_at_the_front(sections):
    return library.interleaved_axes(sections).flip(0)


def used_up_axes_passed_over(sections):
    left, axes = list(sections), []
    while any(left):
        for axis in range(3):
            if left[axis]:
                axes.append(axis)
                left[axis] -= 1
    return torch.tensor(axes, dtype=torch.int64)


INTERLEAVED_AXES = [
    (
        in_sections,
        (
            "Which axis turns the second pair?",
            "All pairs of time stand before those of the row, as in Qwen2-VL; here the axes take turns.",
            "Pair i belongs to axis i % 3, as long as that axis has pairs left.",
        ),
    ),
    (
        turns_to_the_end,
        (
            "How many pairs does the row get in all? How many should it have?",
            "The turns never end; an axis whose pairs are used up is stood in for by time.",
            "i % 3 == axis only where i < 3 * sections[axis]; 0 elsewhere.",
        ),
    ),
    (
        columns_then_rows,
        (
            "Which axis turns the second pair: row or column?",
            "Row and column are swapped.",
            "1 is the row and has pairs 1, 4, 7, ...; 2 is the column and has pairs 2, 5, 8, ...",
        ),
    ),
    (
        own_count_as_limit,
        (
            "How many pairs does the row get in all?",
            "The turns end too early: sections[axis] pairs of one axis lie among 3 times as many.",
            "pairs < 3 * sections[axis]",
        ),
    ),
    (
        row_first,
        (
            "Which axis turns the first pair?",
            "The turns begin with the row; they begin with time.",
            "pairs % 3 == axis, with time = 0.",
        ),
    ),
    (
        rows_limit_for_both,
        (
            "Give row and column different numbers of pairs.",
            "The column stops where the row does.",
            "pairs < 3 * sections[axis] for each axis on its own.",
        ),
    ),
    (
        one_past_the_limit,
        (
            "How many pairs does the row get in all? How many should it have?",
            "Each axis gets one pair too many, if there are enough.",
            "pairs < 3 * sections[axis], with <.",
        ),
    ),
    (
        leftovers_at_the_front,
        (
            "Which axis turns the last pair, when time has the most?",
            "The order is turned round.",
            "Pair 0 is time's, and what is left over is at the end.",
        ),
    ),
    (
        used_up_axes_passed_over,
        (
            "With sections [2, 0, 1], which axis turns pair 1?",
            "The turn of an axis that is used up goes to the next one; time should stand in for it.",
            "i % 3 == axis only where i < 3 * sections[axis]; 0 elsewhere.",
        ),
    ),
]


def by_axes(axes_of):
    def answer(positions, sections, *, base=10000.0):
        axes = axes_of(sections)
        return library.rotary_angles(positions, 2 * len(axes), base=base)[..., axes, torch.arange(len(axes))]

    return answer


def speeds_of_their_own(positions, sections, *, base=10000.0):
    axes = library.interleaved_axes(sections)
    angles = positions.new_zeros(*positions.shape[:-1], len(axes), dtype=torch.float32)
    for axis in range(3):
        mine = axes == axis
        if mine.any():
            angles[..., mine] = library.rotary_angles(positions[..., axis], 2 * int(mine.sum()), base=base)
    return angles


def time_only(positions, sections, *, base=10000.0):
    return library.rotary_angles(positions[..., 0], 2 * sum(sections), base=base)


def positions_added(positions, sections, *, base=10000.0):
    return library.rotary_angles(positions.sum(-1), 2 * sum(sections), base=base)


def base_unused(positions, sections, *, base=10000.0):
    return library.mrope_angles(positions, sections)


def all_angles_twice(positions, sections, *, base=10000.0):
    return library.mrope_angles(positions, sections, base=base).repeat_interleave(2, -1)


MROPE_ANGLES = [
    (
        by_axes(in_sections),
        (
            "Which axis turns the second pair?",
            "All pairs of time stand before those of the row, as in Qwen2-VL; here the axes take turns.",
            "interleaved_axes(sections) says which axis turns each pair.",
        ),
    ),
    (
        by_axes(turns_to_the_end),
        (
            "How many pairs does the row turn in all?",
            "The turns never end; an axis whose pairs are used up is stood in for by time.",
            "interleaved_axes(sections) says which axis turns each pair.",
        ),
    ),
    (
        by_axes(columns_then_rows),
        (
            "Move a patch down by one row: which pair changes first?",
            "Row and column are swapped.",
            "positions[..., 1] is the row and turns pairs 1, 4, 7, ...",
        ),
    ),
    (
        speeds_of_their_own,
        (
            "Is a token of text turned as rotary_angles turns it?",
            "Each axis counts its pairs, and their speeds, anew; pair i keeps speed i whichever axis turns it.",
            "rotary_angles(positions, 2 * half)[..., axes, torch.arange(half)]",
        ),
    ),
    (
        time_only,
        (
            "Move a patch to the right: does anything change?",
            "All pairs are turned by the time.",
            "interleaved_axes(sections) says which axis turns each pair.",
        ),
    ),
    (
        positions_added,
        (
            "Is a token of text turned as rotary_angles turns it?",
            "The three positions are added.",
            "For each pair, take the position of its axis alone.",
        ),
    ),
    (
        base_unused,
        (
            "Try another base.",
            "The base is an argument that no line uses.",
            "Hand it on: rotary_angles(..., base=base).",
        ),
    ),
    (
        all_angles_twice,
        (
            "How many pairs does a head of width k have?",
            "Every angle stands there twice; there is one a pair.",
            "The result has sum(sections) angles a token.",
        ),
    ),
]

# ---- mrope_positions


def walk(step, part=None, *, ignore_mask=False, split=True, filling=0, first=0, merged=True):
    """The library's walk with its decisions replaced: how far a picture moves the count, and its own positions."""

    def answer(
        input_ids,
        *,
        image_token_id,
        video_token_id,
        attention_mask=None,
        image_grid_thw=None,
        video_grid_thw=None,
        spatial_merge_size=2,
    ):
        m = spatial_merge_size if merged else 1
        frames = {}
        for token, grids in ((image_token_id, image_grid_thw), (video_token_id, video_grid_thw)):
            rows = [] if grids is None else grids.tolist()
            frames[token] = [(t, h // m, w // m) for t, h, w in rows for _ in range(t if split else 1)]
        mask = torch.ones_like(input_ids) if attention_mask is None or ignore_mask else attention_mask
        positions = torch.full((*input_ids.shape, 3), filling)
        ends = []
        for row, ids in enumerate(input_ids.tolist()):
            kept = [i for i in range(len(ids)) if mask[row, i]]
            count, at = first, 0
            while at < len(kept):
                token = ids[kept[at]]
                if token not in frames:
                    positions[row, kept[at]] = count
                    count, at = count + 1, at + 1
                    continue
                t, h, w = frames[token].pop(0)
                places = library.grid_positions((1, h, w)) + count
                if part is not None:
                    places = part(places, count, (t, h, w))
                positions[row, kept[at : at + h * w]] = places
                count, at = count + step(t, h, w), at + h * w
            ends.append(count)
        return positions, torch.tensor(ends)

    return answer


def longer(t, h, w):
    return max(h, w)


def place_of(columns):
    return lambda places, count, size: places[:, columns]


not_advanced_past_a_picture = walk(lambda t, h, w: 0)
one_token_a_picture = walk(lambda t, h, w: 1)
every_patch_counted = walk(lambda t, h, w: h * w)
shorter_side = walk(lambda t, h, w: min(h, w))
height_only = walk(lambda t, h, w: h)
width_only = walk(lambda t, h, w: w)
one_too_far = walk(lambda t, h, w: max(h, w) + 1)
time_moves_on = walk(
    longer, lambda places, count, size: places + torch.arange(len(places))[:, None] * torch.tensor([1, 0, 0])
)
rows_as_columns = walk(longer, place_of([0, 2, 1]))
columns_of_rows = walk(
    longer,
    lambda places, count, size: (
        count + rearrange(library.grid_positions((1, size[2], size[1])), "n axes -> n axes")[:, [0, 2, 1]]
    ),
)
from_zero_again = walk(longer, lambda places, count, size: places - torch.tensor([0, count, count]))
flat_picture = walk(
    lambda t, h, w: h * w, lambda places, count, size: count + torch.arange(len(places))[:, None].expand(-1, 3)
)
padding_counted = walk(longer, ignore_mask=True)
ones_on_padding = walk(longer, filling=1)
counted_from_one_on = walk(longer, first=1)


def patches_not_merged(input_ids, **settings):
    return library.mrope_positions(input_ids, **{**settings, "spatial_merge_size": 1})


def last_position(input_ids, **settings):
    positions, following = library.mrope_positions(input_ids, **settings)
    return positions, following - 1


def length_as_next(input_ids, *, attention_mask=None, **settings):
    positions, _ = library.mrope_positions(input_ids, attention_mask=attention_mask, **settings)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return positions, mask.long().sum(1)


def axes_first(input_ids, **settings):
    positions, following = library.mrope_positions(input_ids, **settings)
    return positions.permute(2, 0, 1), following


def grids_begin_again_in_every_row(
    input_ids, *, attention_mask=None, image_grid_thw=None, video_grid_thw=None, **settings
):
    positions, following = [], []
    for row, ids in enumerate(input_ids):
        given = dict(settings)
        for name, grids, token in (
            ("image_grid_thw", image_grid_thw, settings["image_token_id"]),
            ("video_grid_thw", video_grid_thw, settings["video_token_id"]),
        ):
            if grids is not None and (ids == token).any():
                given[name] = grids
        mask = None if attention_mask is None else attention_mask[row : row + 1]
        one, end = library.mrope_positions(ids[None], attention_mask=mask, **given)
        positions.append(one)
        following.append(end)
    return torch.cat(positions), torch.cat(following)


LONGER = (
    "From the first position behind a picture, take away the picture's first: what should be left for 2 x 3 patches?"
)
MROPE_POSITIONS = [
    (
        not_advanced_past_a_picture,
        (
            LONGER,
            "The count is not advanced past a picture: text goes on where the picture began.",
            "count += max(h, w)",
        ),
    ),
    (
        one_token_a_picture,
        (
            LONGER,
            "A picture advances the count by one, as if it were a word: text stands among its rows.",
            "count += max(h, w)",
        ),
    ),
    (
        every_patch_counted,
        (
            LONGER,
            "A picture advances the count by all its patches; it takes as much as its longer side.",
            "count += max(h, w)",
        ),
    ),
    (
        shorter_side,
        (
            LONGER,
            "The shorter side is taken: text stands among the rows or columns of the picture.",
            "count += max(h, w)",
        ),
    ),
    (
        height_only,
        (
            "Give a picture that is wider than high.",
            "Only the height advances the count.",
            "count += max(h, w)",
        ),
    ),
    (
        width_only,
        (
            "Give a picture that is higher than wide.",
            "Only the width advances the count.",
            "count += max(h, w)",
        ),
    ),
    (
        one_too_far,
        (
            LONGER,
            "A position is left out behind every picture.",
            "count += max(h, w): the largest position in the picture is count + max(h, w) - 1.",
        ),
    ),
    (
        time_moves_on,
        (
            "Do the patches of one picture stand at one time?",
            "The time counts the patches; within a picture it stands still.",
            "Time is the count for every patch of a picture.",
        ),
    ),
    (
        rows_as_columns,
        (
            "Which of the three numbers changes between neighbours in a row?",
            "Row and column are swapped.",
            "(count, count + row, count + column)",
        ),
    ),
    (
        columns_of_rows,
        (
            "In a picture of 2 x 3 patches, which is the third patch?",
            "The patches are numbered column by column; they come row by row.",
            "grid_positions((1, h, w)) is row by row.",
        ),
    ),
    (
        from_zero_again,
        (
            "Where does the first row of a picture stand, if five words came before it?",
            "Rows and columns begin at 0 again; they begin where the text had come to.",
            "(count, count + row, count + column)",
        ),
    ),
    (
        flat_picture,
        (
            "Which position do two patches above each other share?",
            "A picture is counted like text, one position a patch.",
            "(count, count + row, count + column)",
        ),
    ),
    (
        padding_counted,
        (
            "Fill a row up on the left. Where does its first word stand?",
            "The padding counts too.",
            "Walk over ids[mask] only, and write to positions[mask].",
        ),
    ),
    (
        ones_on_padding,
        (
            "What are the positions of padding?",
            "Padding has position 1; here it has 0.",
            "Begin with zeros and write where the mask says so.",
        ),
    ),
    (
        counted_from_one_on,
        (
            "Where does the first token stand?",
            "The count begins at 1; it begins at 0.",
            "count = 0",
        ),
    ),
    (
        patches_not_merged,
        (
            "How many tokens does a picture of 4 x 6 patches have, merged 2 by 2?",
            "The grids count patches, the tokens are merged ones: both sides have to be divided.",
            "h, w = gh // spatial_merge_size, gw // spatial_merge_size",
        ),
    ),
    (
        last_position,
        (
            "Where does the next token stand after n words?",
            "What comes back is the largest position; the next token stands one further.",
            "The count after the last run.",
        ),
    ),
    (
        length_as_next,
        (
            "After a picture of 3 x 3, where does the next token stand?",
            "What comes back is the number of tokens; a picture of 9 tokens takes 3 positions only.",
            "The count after the last run.",
        ),
    ),
    (
        axes_first,
        (
            "Which shape comes out, which one is expected?",
            "The three positions come first, as in the published code; here they come last, b n 3.",
            "positions of shape (*input_ids.shape, 3)",
        ),
    ),
    (
        grids_begin_again_in_every_row,
        (
            "Give two rows with one picture each, of different sizes.",
            "Every row of the batch begins with the first grid again.",
            "One iterator over the grids for the whole batch.",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "sinusoidal": [Mistake(*row) for row in SINUSOIDAL],
    "edge_places": [Mistake(*row) for row in EDGE_PLACES],
    "corner_places": [Mistake(*row) for row in CORNER_PLACES],
    "hat_weights": [Mistake(*row) for row in HAT_WEIGHTS],
    "resize_table": [Mistake(*row) for row in RESIZE_TABLE],
    "stretch_table": [Mistake(*row) for row in STRETCH_TABLE],
    "grid_positions": [Mistake(*row) for row in GRID_POSITIONS],
    "rotary_angles": [Mistake(*row) for row in ROTARY_ANGLES],
    "rotate": [Mistake(*row) for row in ROTATE],
    "axial_angles": [Mistake(*row) for row in AXIAL_ANGLES],
    "interleaved_axes": [Mistake(*row) for row in INTERLEAVED_AXES],
    "mrope_angles": [Mistake(*row) for row in MROPE_ANGLES],
    "mrope_positions": [Mistake(*row) for row in MROPE_POSITIONS],
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Arguments on which every two of the mistakes above differ."""
    if name == "sinusoidal":
        yield (5, 6), {}
    elif name in ("edge_places", "corner_places"):
        for case in ((4, 2), (2, 5), (3, 3), (1, 4)):
            yield case, {}
    elif name == "hat_weights":
        yield (torch.tensor([0.0, 0.25, 1.75, 2.0, 3.0]), 4), {}
    elif name in ("resize_table", "stretch_table"):
        yield (normal(0, 2, 3, 2), 4, 5), {}
        yield (normal(1, 3, 2, 2), 3, 2), {}
        yield (normal(2, 4, 4, 1), 2, 3), {}
    elif name == "grid_positions":
        yield ((2, 2, 3),), {}
        yield ((2, 4, 6),), {"spatial_merge_size": 2}
    elif name == "rotary_angles":
        yield (torch.tensor([3, 5]), 6), {}
        yield (torch.tensor([3, 5]), 6), {"base": 100.0}
    elif name == "rotate":
        yield (normal(0, 2, 3, 4, 6), normal(1, 4, 3)), {}
        yield (normal(0, 2, 3, 4, 6), normal(2, 2, 4, 3)), {}
    elif name == "axial_angles":
        yield (torch.tensor([[1, 2], [3, 5]]), 8), {}
        yield (torch.tensor([[1, 2], [3, 5]]), 8), {"base": 100.0}
    elif name == "interleaved_axes":
        for sections in ([4, 2, 2], [3, 2, 1], [3, 1, 2], [5, 1, 1], [4, 2, 0]):
            yield (sections,), {}
    elif name == "mrope_angles":
        for sections in ([4, 2, 2], [3, 2, 1]):
            yield (torch.tensor([[1, 2, 4], [7, 7, 7]]), sections), {}
        yield (torch.tensor([[1, 2, 4], [7, 7, 7]]), [4, 2, 2]), {"base": 100.0}
    elif name == "mrope_positions":
        tokens = {"image_token_id": 1, "video_token_id": 2}
        yield (torch.tensor([[7, 7, 7]]),), tokens
        for h, w in ((2, 3), (3, 2)):
            ids = torch.tensor([[7, 7, *[1] * 6, 7, 7, *[2] * 6, 7, *[2] * 6, 7]])
            image, video = torch.tensor([(1, 2 * h, 2 * w)]), torch.tensor([(2, 2 * h, 2 * w)])
            yield (ids,), {**tokens, "image_grid_thw": image, "video_grid_thw": video}
        ids, mask = torch.tensor([[7, 7, 7, 1, 1], [1, 1, 1, 7, 7]]), torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
        grids = torch.tensor([(1, 1, 2), (1, 3, 1)])
        yield (ids,), {**tokens, "attention_mask": mask, "image_grid_thw": grids, "spatial_merge_size": 1}
