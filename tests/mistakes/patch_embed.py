"""Classic wrong answers about patches and tokens, each with three hints of increasing directness."""

from collections.abc import Callable, Iterator

import torch
from einops import rearrange, repeat
from strategies import normal
from torch import nn
from torch.nn import functional as F

from minivid.classroom.museum import Mistake, Probe
from minivid.layers import patch_embed as library

# ---- tubelets


def cut(order: str) -> Callable:
    """Tubelets in another order of axes."""

    def tubelets(clips, *, patch_size, temporal_patch_size):
        return rearrange(
            clips,
            f"b (gt tau) c (gh p1) (gw p2) -> {order}",
            tau=temporal_patch_size,
            p1=patch_size,
            p2=patch_size,
        )

    return tubelets


frames_before_channels = cut("b (gt gh gw) (tau c p1 p2)")
pixels_before_channels = cut("b (gt gh gw) (tau p1 p2 c)")
rows_and_columns_swapped = cut("b (gt gh gw) (c tau p2 p1)")
boxes_column_by_column = cut("b (gt gw gh) (c tau p1 p2)")
time_last_in_the_row = cut("b (gt gh gw) (c p1 p2 tau)")
time_runs_fastest = cut("b (gh gw gt) (c tau p1 p2)")
boxes_inside_out = cut("b (gt p1 p2) (c tau gh gw)")


def frames_strided(clips, *, patch_size, temporal_patch_size):
    return rearrange(
        clips,
        "b (tau gt) c (gh p1) (gw p2) -> b (gt gh gw) (c tau p1 p2)",
        tau=temporal_patch_size,
        p1=patch_size,
        p2=patch_size,
    )


def pixels_strided(clips, *, patch_size, temporal_patch_size):
    return rearrange(
        clips,
        "b (gt tau) c (p1 gh) (p2 gw) -> b (gt gh gw) (c tau p1 p2)",
        tau=temporal_patch_size,
        p1=patch_size,
        p2=patch_size,
    )


def reshaped_only(clips, *, patch_size, temporal_patch_size):
    b, t, c, h, w = clips.shape
    box = c * temporal_patch_size * patch_size**2
    return clips.reshape(b, t * c * h * w // box, box)


def unfolded_and_reshaped(clips, *, patch_size, temporal_patch_size):
    p, tau = patch_size, temporal_patch_size
    boxes = clips.unfold(1, tau, tau).unfold(3, p, p).unfold(4, p, p)  # b gt c gh gw tau p p
    return boxes.reshape(len(clips), -1, clips.shape[2] * tau * p * p)


def boxes_overlap(clips, *, patch_size, temporal_patch_size):
    p, tau = patch_size, temporal_patch_size
    boxes = clips.unfold(1, tau, 1).unfold(3, p, p).unfold(4, p, p)
    return rearrange(boxes, "b gt c gh gw tau p1 p2 -> b (gt gh gw) (c tau p1 p2)")


def every_frame_alone(clips, *, patch_size, temporal_patch_size):
    return library.tubelets(clips, patch_size=patch_size, temporal_patch_size=1)


TUBELETS = [
    (
        frames_before_channels,
        (
            "With one channel, or one frame a box, it is right. Which of the two runs faster in a row?",
            "The row is written frame by frame, in it channel by channel; a kernel is c tau p p.",
            'The right side of rearrange ends in "(c tau p1 p2)".',
        ),
    ),
    (
        pixels_before_channels,
        (
            "With one channel it is right. Where do the channels stand in a kernel's shape?",
            "The channels run fastest, as in a picture file; a kernel is c tau p p.",
            'The right side of rearrange ends in "(c tau p1 p2)".',
        ),
    ),
    (
        time_last_in_the_row,
        (
            "With one frame a box it is right. Which number of a row comes second: the next pixel or the next frame?",
            "The frames run fastest in a row, behind the pixels; a kernel is c tau p p.",
            'The right side of rearrange ends in "(c tau p1 p2)".',
        ),
    ),
    (
        rows_and_columns_swapped,
        (
            "Print a box of 2 x 2 pixels and its row. Which pixel comes second?",
            "Inside a box, columns are read before rows: the box is mirrored.",
            'The right side of rearrange ends in "(c tau p1 p2)", p1 from the height.',
        ),
    ),
    (
        boxes_column_by_column,
        (
            "Which box comes second, the one to the right of the first or the one below?",
            "The boxes run down the columns; they run along the rows, as in a text.",
            'The rows are "(gt gh gw)".',
        ),
    ),
    (
        time_runs_fastest,
        (
            "With one frame group it is right. Which box comes second in a longer clip?",
            "The frame groups run fastest; all boxes of a frame group stand together.",
            'The rows are "(gt gh gw)".',
        ),
    ),
    (
        boxes_inside_out,
        (
            "How many rows come out, and how many should?",
            "The pixels of a box count the rows, and the boxes are in the row: the two are exchanged.",
            'The right side of rearrange is "b (gt gh gw) (c tau p1 p2)".',
        ),
    ),
    (
        frames_strided,
        (
            "Four frames in boxes of two: which two frames are in the first box?",
            "The first box takes frames 0 and 2; a box is tau frames in a row.",
            '"(gt tau)": the group is the slower of the two.',
        ),
    ),
    (
        pixels_strided,
        (
            "A frame of 4 x 4 pixels in boxes of 2 x 2: which four pixels are in the first box?",
            "A box takes every second pixel; it is p pixels side by side.",
            '"(gh p1)" and "(gw p2)": the box is the slower of the two.',
        ),
    ),
    (
        reshaped_only,
        (
            "A frame of 4 x 4 pixels in boxes of 2 x 2: which four pixels are in the first box?",
            "A reshape cuts the memory into pieces: the first is a line of the picture, not a box.",
            "Split the axes first, then bring the inner halves to the end: rearrange does both.",
        ),
    ),
    (
        unfolded_and_reshaped,
        (
            "With one channel it is right. Print the shape before the last line: which axes make a row?",
            "The channels stand among the boxes; they belong into the row, before the frames.",
            'rearrange(boxes, "b gt c gh gw tau p1 p2 -> b (gt gh gw) (c tau p1 p2)")',
        ),
    ),
    (
        boxes_overlap,
        (
            "Four frames in boxes of two: how many boxes are there along time?",
            "The boxes overlap: each starts one frame after the one before, not tau frames.",
            "unfold(1, tau, tau): the step is the size of the box, in time too.",
        ),
    ),
    (
        every_frame_alone,
        (
            "Boxes of two frames: how long should a row be?",
            "temporal_patch_size is not used.",
            'Split the frames: "(gt tau)", with tau=temporal_patch_size.',
        ),
    ),
]

# ---- embed_patches


def kernel_flipped(patches, weight, bias=None):
    return library.embed_patches(patches, weight.flip(2, 3, 4), bias)


def kernel_flipped_in_time(patches, weight, bias=None):
    return library.embed_patches(patches, weight.flip(2), bias)


def time_before_channels(patches, weight, bias=None):
    return F.linear(patches, rearrange(weight, "d c tau p1 p2 -> d (tau c p1 p2)"), bias)


def channels_last(patches, weight, bias=None):
    return F.linear(patches, rearrange(weight, "d c tau p1 p2 -> d (tau p1 p2 c)"), bias)


def height_and_width_swapped(patches, weight, bias=None):
    return F.linear(patches, rearrange(weight, "d c tau p1 p2 -> d (c tau p2 p1)"), bias)


def bias_forgotten(patches, weight, bias=None):
    return library.embed_patches(patches, weight)


def bias_for_every_number(patches, weight, bias=None):
    # The bias is added before the sum over a row, once for each of its numbers.
    tokens = library.embed_patches(patches, weight)
    return tokens if bias is None else tokens + weight[0].numel() * bias


def bias_summed(patches, weight, bias=None):
    tokens = library.embed_patches(patches, weight)
    return tokens if bias is None else tokens + bias.sum()


def mean_instead_of_sum(patches, weight, bias=None):
    tokens = library.embed_patches(patches, weight) / weight[0].numel()
    return tokens if bias is None else tokens + bias


def weight_read_as_columns(patches, weight, bias=None):
    tokens = patches @ weight.reshape(-1, weight.shape[0])
    return tokens if bias is None else tokens + bias


def first_frame_alone(patches, weight, bias=None):
    alone = torch.zeros_like(weight)
    alone[:, :, 0] = weight[:, :, 0]
    return library.embed_patches(patches, alone, bias)


EMBED_PATCHES = [
    (
        kernel_flipped,
        (
            "With boxes of one pixel it is right. Which number of the kernel meets the first of a box?",
            "The kernel is turned round, as mathematics does; a network's is laid on as it is.",
            "Leave out the flip.",
        ),
    ),
    (
        kernel_flipped_in_time,
        (
            "With boxes of one frame it is right. Which frame of the kernel meets the first of a box?",
            "The kernel is turned round in time.",
            "Leave out the flip.",
        ),
    ),
    (
        time_before_channels,
        (
            "With one channel, or one frame, it is right. In which order is a row written?",
            "The kernel is laid out frame by frame, the rows channel by channel.",
            'rearrange(weight, "d c tau p1 p2 -> d (c tau p1 p2)")',
        ),
    ),
    (
        channels_last,
        (
            "With one channel it is right. In which order is a row written?",
            "The kernel is laid out with the channels running fastest, the rows channel by channel.",
            'rearrange(weight, "d c tau p1 p2 -> d (c tau p1 p2)")',
        ),
    ),
    (
        height_and_width_swapped,
        (
            "With boxes of one pixel it is right. Which pixel of the kernel comes second?",
            "The kernel is read column by column, the rows line by line.",
            'rearrange(weight, "d c tau p1 p2 -> d (c tau p1 p2)")',
        ),
    ),
    (
        bias_forgotten,
        (
            "What is the token of a black box?",
            "The bias is not used.",
            "Add it: patches @ W.T + bias",
        ),
    ),
    (
        bias_for_every_number,
        (
            "What is the token of a black box? Of a larger black box?",
            "The bias is added once for every number of a box, before the sum.",
            "Sum first, then add: patches @ W.T + bias",
        ),
    ),
    (
        bias_summed,
        (
            "With tokens of one number it is right. Which bias does each number of a token get?",
            "All the biases are added to each number of the token.",
            "patches @ W.T + bias: it has a number for each number of a token.",
        ),
    ),
    (
        mean_instead_of_sum,
        (
            "A white box, and a kernel of ones: what is its token?",
            "The products are averaged; a convolution adds them up.",
            "patches @ W.T, divided by nothing.",
        ),
    ),
    (
        weight_read_as_columns,
        (
            "With one number in a token it is right. Where does the second kernel start in the weight?",
            "The weight is read with its kernels as columns, but it holds them one behind the other, as rows.",
            "weight.flatten(1).T, not weight.reshape(-1, d).",
        ),
    ),
    (
        first_frame_alone,
        (
            "With boxes of one frame it is right. What does the second frame of a box change?",
            "Only the first frame of each box counts.",
            "All of the kernel: weight.flatten(1).",
        ),
    ),
]

# ---- the two inflations


def not_divided(weight, temporal_patch_size):
    return repeat(weight, "d c p1 p2 -> d c tau p1 p2", tau=temporal_patch_size)


def divided_by_the_root(weight, temporal_patch_size):
    return not_divided(weight, temporal_patch_size) / temporal_patch_size**0.5


def divided_twice(weight, temporal_patch_size):
    return not_divided(weight, temporal_patch_size) / temporal_patch_size**2


def frames_in_front(weight, temporal_patch_size):
    return repeat(weight / temporal_patch_size, "d c p1 p2 -> tau d c p1 p2", tau=temporal_patch_size)


def frames_before_the_channels(weight, temporal_patch_size):
    return repeat(weight / temporal_patch_size, "d c p1 p2 -> d tau c p1 p2", tau=temporal_patch_size)


def frames_behind(weight, temporal_patch_size):
    return repeat(weight / temporal_patch_size, "d c p1 p2 -> d c p1 p2 tau", tau=temporal_patch_size)


def not_repeated(weight, temporal_patch_size):
    return (weight / temporal_patch_size)[:, :, None]


def divided_in_place(weight, temporal_patch_size):
    weight /= temporal_patch_size
    return not_divided(weight, temporal_patch_size)


def one_in_the_middle(weight, temporal_patch_size):
    return library.inflate_central(weight, temporal_patch_size)


def all_alike(weight, temporal_patch_size):
    return library.inflate_average(weight, temporal_patch_size)


def at(place: Callable[[int], int]) -> Callable:
    """The kernel in another frame."""

    def inflate_central(weight, temporal_patch_size):
        kernel = torch.zeros(*weight.shape[:2], temporal_patch_size, *weight.shape[2:])
        kernel[:, :, place(temporal_patch_size)] = weight
        return kernel

    return inflate_central


first_frame = at(lambda tau: 0)
last_frame = at(lambda tau: -1)
one_before_the_middle = at(lambda tau: (tau - 1) // 2)


def middle_divided(weight, temporal_patch_size):
    return library.inflate_central(weight, temporal_patch_size) / temporal_patch_size


INFLATE_AVERAGE = [
    (
        not_divided,
        (
            "A box of two equal frames: is its token that of the picture?",
            "Every frame has the whole kernel, so a still box counts tau times.",
            "weight / temporal_patch_size in every frame.",
        ),
    ),
    (
        divided_by_the_root,
        (
            "A box of four equal frames: how large is its token beside that of the picture?",
            "The root keeps the spread of random numbers, but a still box has equal frames: they add up in full.",
            "weight / temporal_patch_size in every frame.",
        ),
    ),
    (
        divided_twice,
        (
            "A box of two equal frames: how large is its token beside that of the picture?",
            "It is divided by the number of frames twice.",
            "weight / temporal_patch_size, repeated.",
        ),
    ),
    (
        frames_in_front,
        (
            "Print the shape of the kernel.",
            "The new axis stands in front; in a kernel, time stands behind the channels: d c tau p p.",
            'repeat(weight / tau, "d c p1 p2 -> d c tau p1 p2", tau=tau)',
        ),
    ),
    (
        frames_before_the_channels,
        (
            "Print the shape of the kernel, with other numbers of channels than of frames.",
            "Time stands before the channels; in a kernel it stands behind them: d c tau p p.",
            'repeat(weight / tau, "d c p1 p2 -> d c tau p1 p2", tau=tau)',
        ),
    ),
    (
        frames_behind,
        (
            "Print the shape of the kernel.",
            "The new axis stands at the end; in a kernel, time stands behind the channels: d c tau p p.",
            'repeat(weight / tau, "d c p1 p2 -> d c tau p1 p2", tau=tau)',
        ),
    ),
    (
        not_repeated,
        (
            "Print the shape of the kernel. How many frames does it have?",
            "There is an axis for time, with one frame in it; the kernel has temporal_patch_size.",
            'repeat(weight / tau, "d c p1 p2 -> d c tau p1 p2", tau=tau)',
        ),
    ),
    (
        divided_in_place,
        (
            "Print weight before the call and after it.",
            "`/=` divides the caller's tensor: the picture's own kernel is changed.",
            "weight / temporal_patch_size makes a new tensor.",
        ),
    ),
    (
        one_in_the_middle,
        (
            "Are the frames of the kernel alike?",
            "The kernel stands in one frame alone: that is the central-frame initialisation.",
            "weight / temporal_patch_size in every frame.",
        ),
    ),
]

INFLATE_CENTRAL = [
    (
        all_alike,
        (
            "Which frames of the kernel are zeros?",
            "The kernel stands in every frame, divided: that is inflation by the average.",
            "Zeros everywhere, then kernel[:, :, temporal_patch_size // 2] = weight.",
        ),
    ),
    (
        first_frame,
        (
            "Which frame of the box does the token show?",
            "It is the first frame; the central one is floor(tau / 2).",
            "kernel[:, :, temporal_patch_size // 2] = weight",
        ),
    ),
    (
        last_frame,
        (
            "With boxes of two frames it is right. Which frame is it of three?",
            "It is the last frame; the central one is floor(tau / 2).",
            "kernel[:, :, temporal_patch_size // 2] = weight",
        ),
    ),
    (
        one_before_the_middle,
        (
            "With an odd number of frames it is right. Which frame is it of two?",
            "Of an even number there are two in the middle: the formula takes the second, floor(tau / 2).",
            "kernel[:, :, temporal_patch_size // 2] = weight",
        ),
    ),
    (
        middle_divided,
        (
            "A still box: is its token that of the picture?",
            "The kernel is divided by the number of frames, but it stands in one frame only.",
            "kernel[:, :, temporal_patch_size // 2] = weight, not divided.",
        ),
    ),
]

# ---- merge_order


def raster_kept(tokens, grid, *, spatial_merge_size=2):
    return tokens


def reordered(text: str) -> Callable:
    """Tokens in another order."""

    def merge_order(tokens, grid, *, spatial_merge_size=2):
        gt, gh, gw = grid
        m = spatial_merge_size
        return rearrange(tokens, text, gt=gt, bh=gh // m, bw=gw // m, mh=m, mw=m)

    return merge_order


blocks_by_columns = reordered("... (gt bh mh bw mw) d -> ... (gt bw bh mh mw) d")
inside_by_columns = reordered("... (gt bh mh bw mw) d -> ... (gt bh bw mw mh) d")
far_neighbours = reordered("... (gt mh bh mw bw) d -> ... (gt bh bw mh mw) d")
blocks_inside_out = reordered("... (gt bh mh bw mw) d -> ... (gt mh mw bh bw) d")
blocks_through_time = reordered("... (gt bh mh bw mw) d -> ... (bh bw gt mh mw) d")
undone = reordered("... (gt bh bw mh mw) d -> ... (gt bh mh bw mw) d")


def height_and_width_exchanged(tokens, grid, *, spatial_merge_size=2):
    gt, gh, gw = grid
    return library.merge_order(tokens, (gt, gw, gh), spatial_merge_size=spatial_merge_size)


def joined_already(tokens, grid, *, spatial_merge_size=2):
    ordered = library.merge_order(tokens, grid, spatial_merge_size=spatial_merge_size)
    return rearrange(ordered, "... (n block) d -> ... n (block d)", block=spatial_merge_size**2)


def merge_size_two(tokens, grid, *, spatial_merge_size=2):
    return library.merge_order(tokens, grid, spatial_merge_size=2)


MERGE_ORDER = [
    (
        raster_kept,
        (
            "On a grid of 2 x 4 boxes, which four boxes are one block? Which four come first?",
            "The tokens are still in raster order: a line of boxes would become one token.",
            'rearrange(tokens, "... (gt bh mh bw mw) d -> ... (gt bh bw mh mw) d", ...)',
        ),
    ),
    (
        blocks_by_columns,
        (
            "On a grid of 4 x 4 boxes, which block comes second?",
            "The blocks run down the columns; they run along the rows.",
            'The right side is "(gt bh bw mh mw)".',
        ),
    ),
    (
        inside_by_columns,
        (
            "On a grid of 2 x 2 boxes nothing should change. What changes?",
            "In a block the boxes run down the columns; they run along the rows.",
            'The right side is "(gt bh bw mh mw)".',
        ),
    ),
    (
        far_neighbours,
        (
            "On a grid of 4 x 4 boxes, which four come first? Are they neighbours?",
            "A block takes boxes that lie gh / m apart; it is m boxes side by side.",
            'The left side is "(gt bh mh bw mw)": the block is the slower of the two.',
        ),
    ),
    (
        blocks_inside_out,
        (
            "On a grid of 4 x 4 boxes, which four come first? Are they neighbours?",
            "The place inside a block runs slowest; it runs fastest.",
            'The right side is "(gt bh bw mh mw)".',
        ),
    ),
    (
        blocks_through_time,
        (
            "With one frame group it is right. Which block comes second in a longer clip?",
            "The blocks of one place follow each other through time; all of a frame group stand together.",
            'The right side is "(gt bh bw mh mw)".',
        ),
    ),
    (
        undone,
        (
            "On a grid of 2 x 2 boxes it is right. In which order did the tokens come?",
            "This is the way back, from merge order to raster order.",
            "Exchange the two sides of the arrow.",
        ),
    ),
    (
        height_and_width_exchanged,
        (
            "On a square grid it is right. How many boxes has a line of a grid of 2 x 4?",
            "Height and width of the grid are exchanged.",
            "gt, gh, gw = grid",
        ),
    ),
    (
        joined_already,
        (
            "Print the shape of the result.",
            "The blocks are joined already; here the tokens only change places, and the merger joins them.",
            'The right side is "... (gt bh bw mh mw) d".',
        ),
    ),
    (
        merge_size_two,
        (
            "With a merge size of 2 it is right. Try 1, or 3.",
            "spatial_merge_size is not used.",
            "bh = gh // spatial_merge_size and bw = gw // spatial_merge_size",
        ),
    ),
]

# ---- PatchEmbed


class TimeAndChannelSwapped(library.PatchEmbed):
    def embed(self, patches):
        return time_before_channels(patches, self.proj.weight, self.proj.bias)


class BiasForgotten(library.PatchEmbed):
    def embed(self, patches):
        return library.embed_patches(patches, self.proj.weight)


class KernelFlipped(library.PatchEmbed):
    def embed(self, patches):
        return kernel_flipped(patches, self.proj.weight, self.proj.bias)


class StrideOfOne(library.PatchEmbed):
    """The boxes overlap: the stride is forgotten."""

    def forward(self, clips):
        places = F.conv3d(clips.transpose(1, 2), self.proj.weight, self.proj.bias)
        return rearrange(places, "b d gt gh gw -> b (gt gh gw) d")


class StrideOfThePatchEverywhere(library.PatchEmbed):
    """One number for the stride: patch_size in time too."""

    def forward(self, clips):
        places = F.conv3d(clips.transpose(1, 2), self.proj.weight, self.proj.bias, self.patch_size)
        return rearrange(places, "b d gt gh gw -> b (gt gh gw) d")


class TimeRunsFastest(library.PatchEmbed):
    def forward(self, clips):
        gt, gh, gw = self.grid(clips)
        return rearrange(super().forward(clips), "b (gt gh gw) d -> b (gh gw gt) d", gt=gt, gh=gh, gw=gw)


class StrideOfOneInTime(library.PatchEmbed):
    def forward(self, clips):
        stride = (1, self.patch_size, self.patch_size)
        places = F.conv3d(clips.transpose(1, 2), self.proj.weight, self.proj.bias, stride)
        return rearrange(places, "b d gt gh gw -> b (gt gh gw) d")


class ChannelsReadAsFrames(library.PatchEmbed):
    def forward(self, clips):
        b, t, c, h, w = clips.shape
        return super().forward(clips.reshape(b, c, t, h, w).transpose(1, 2))


class TokensReshaped(library.PatchEmbed):
    """What a convolution gives, b d n, is reshaped to b n d instead of transposed."""

    def forward(self, clips):
        tokens = super().forward(clips)
        return tokens.transpose(1, 2).reshape(tokens.shape)


class TokensTransposed(library.PatchEmbed):
    def forward(self, clips):
        return super().forward(clips).transpose(1, 2)


class ColumnByColumn(library.PatchEmbed):
    def forward(self, clips):
        gt, gh, gw = self.grid(clips)
        return rearrange(super().forward(clips), "b (gt gh gw) d -> b (gt gw gh) d", gt=gt, gh=gh, gw=gw)


class BiasAnyway(library.PatchEmbed):
    """bias=False is not used."""

    def __init__(self, *arguments, bias=True, **options):
        super().__init__(*arguments, bias=bias, **options)
        self.extra = torch.ones(self.proj.weight.shape[0])
        self.biased = bias

    def forward(self, clips):
        tokens = super().forward(clips)
        return tokens if self.biased else tokens + self.extra


PATCH_EMBED = [
    (
        TimeAndChannelSwapped,
        (
            "With one channel, or one frame a box, it is right. In which order is a row written?",
            "The rows are written channel by channel; the kernel is laid out frame by frame.",
            'rearrange(weight, "d c tau p1 p2 -> d (c tau p1 p2)")',
        ),
    ),
    (
        BiasForgotten,
        (
            "What is the token of a black clip?",
            "The bias is not used.",
            "Add proj.bias to every token.",
        ),
    ),
    (
        KernelFlipped,
        (
            "With boxes of one pixel it is right. Which number of the kernel meets the first of a box?",
            "The kernel is turned round; a network's is laid on as it is.",
            "Leave out the flip.",
        ),
    ),
    (
        StrideOfOne,
        (
            "How many tokens come out, and how many boxes are there?",
            "The kernel is laid on every pixel; the stride of a patch embedding is its kernel.",
            "stride=(temporal_patch_size, patch_size, patch_size)",
        ),
    ),
    (
        StrideOfOneInTime,
        (
            "How many tokens come out of four frames in boxes of two?",
            "In time the boxes overlap; the stride is the kernel there too.",
            "stride=(temporal_patch_size, patch_size, patch_size)",
        ),
    ),
    (
        StrideOfThePatchEverywhere,
        (
            "With boxes as deep as they are wide it is right. How many tokens come out of four frames in boxes of two?",
            "In time the boxes are as far apart as in space; the stride is the kernel, temporal_patch_size in time.",
            "stride=(temporal_patch_size, patch_size, patch_size)",
        ),
    ),
    (
        TimeRunsFastest,
        (
            "With one frame group it is right. Which token comes second in a longer clip?",
            "The frame groups run fastest; all tokens of a frame group stand together.",
            'rearrange(places, "b d gt gh gw -> b (gt gh gw) d")',
        ),
    ),
    (
        ChannelsReadAsFrames,
        (
            "With one channel it is right. Which axis of a clip are the channels?",
            "A reshape from t c to c t tears frames apart: their memory stays in the old order.",
            "clips.transpose(1, 2), or one rearrange from b t c h w.",
        ),
    ),
    (
        TokensReshaped,
        (
            "With one token, or tokens of one number, it is right. Which numbers are one token?",
            "b d n is reshaped to b n d: that cuts the memory anew instead of exchanging the axes.",
            'rearrange(places, "b d gt gh gw -> b (gt gh gw) d")',
        ),
    ),
    (
        TokensTransposed,
        (
            "Print the shape of the result.",
            "A convolution puts the channels first; tokens are b n d.",
            'rearrange(places, "b d gt gh gw -> b (gt gh gw) d")',
        ),
    ),
    (
        ColumnByColumn,
        (
            "Which token comes second, the box to the right of the first or the one below?",
            "The tokens run down the columns; they run along the rows.",
            '"b (gt gh gw) d"',
        ),
    ),
    (
        BiasAnyway,
        (
            "What is the token of a black clip with bias=False?",
            "Something is added though no bias was asked for.",
            "With bias=False, proj.bias is None and nothing is added.",
        ),
    ),
]

# ---- PatchMerger


class NormAlwaysBefore(library.PatchMerger):
    """The norm stands before the grouping in the DeepStack mergers too (its scales are read block by block)."""

    def forward(self, tokens):
        if not self.use_postshuffle_norm:
            return super().forward(tokens)
        block = self.spatial_merge_size**2
        x = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        x = rearrange(x, "... (n block) d -> ... n (block d)", block=block) * self.norm.weight + self.norm.bias
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class NormAlwaysAfter(library.PatchMerger):
    """The norm stands after the grouping in the main merger too."""

    def forward(self, tokens):
        if self.use_postshuffle_norm:
            return super().forward(tokens)
        block = self.spatial_merge_size**2
        x = rearrange(tokens, "... (n block) d -> ... n (block d)", block=block)
        x = F.layer_norm(x, x.shape[-1:], self.norm.weight.repeat(block), self.norm.bias.repeat(block), 1e-6)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class Strided(library.PatchMerger):
    """A block takes tokens n / m^2 apart instead of side by side."""

    def forward(self, tokens):
        block = self.spatial_merge_size**2
        return super().forward(rearrange(tokens, "... (block n) d -> ... (n block) d", block=block))


class NumbersBeforeTokens(library.PatchMerger):
    """The row of a block is written number by number, in it token by token."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        block = self.spatial_merge_size**2
        self.linear_fc1.register_forward_pre_hook(
            lambda _, inputs: (rearrange(inputs[0], "... (block d) -> ... (d block)", block=block),)
        )


class Meant(library.PatchMerger):
    """The mean of the tokens of a block is taken, for each of them."""

    def forward(self, tokens):
        block = self.spatial_merge_size**2
        x = rearrange(tokens, "... (n block) d -> ... n block d", block=block).mean(-2, keepdim=True)
        return super().forward(x.expand(*x.shape[:-2], block, x.shape[-1]).flatten(-3, -2))


class NoNorm(library.PatchMerger):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.norm.forward = lambda x: x


class Normed(library.PatchMerger):
    """The norm divides by something else."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        norm = self.norm
        norm.forward = lambda x: self.scaled(x) * norm.weight + norm.bias

    def scaled(self, x):
        raise NotImplementedError


class MeanKept(Normed):
    def scaled(self, x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


class SampleVariance(Normed):
    def scaled(self, x):
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / max(x.shape[-1] - 1, 1)
        return centred / (variance + 1e-6).sqrt()


class ScalesNotUsed(library.PatchMerger):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.norm.forward = lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-6)


class OtherEps(library.PatchMerger):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.norm.eps = 1e-5


class Activated(library.PatchMerger):
    """Another activation stands between the layers."""

    activation = staticmethod(nn.functional.relu)

    def forward(self, tokens):
        block = self.spatial_merge_size**2
        x = tokens if self.use_postshuffle_norm else self.norm(tokens)
        x = rearrange(x, "... (n block) d -> ... n (block d)", block=block)
        x = self.norm(x) if self.use_postshuffle_norm else x
        return self.linear_fc2(self.activation(self.linear_fc1(x)))


class TanhGelu(Activated):
    activation = staticmethod(lambda x: F.gelu(x, approximate="tanh"))


class Silu(Activated):
    activation = staticmethod(F.silu)


class NoActivation(Activated):
    activation = staticmethod(lambda x: x)


class ActivatedAfter(library.PatchMerger):
    """The activation stands behind the second layer."""

    def forward(self, tokens):
        block = self.spatial_merge_size**2
        x = tokens if self.use_postshuffle_norm else self.norm(tokens)
        x = rearrange(x, "... (n block) d -> ... n (block d)", block=block)
        x = self.norm(x) if self.use_postshuffle_norm else x
        return F.gelu(self.linear_fc2(self.linear_fc1(x)))


class Residual(library.PatchMerger):
    """The grouped tokens are added to the hidden layer."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.linear_fc1.register_forward_hook(lambda _, inputs, output: output + inputs[0])


PATCH_MERGER = [
    (
        NormAlwaysBefore,
        (
            "Without use_postshuffle_norm it is right. What are mean and variance taken over with it?",
            "With use_postshuffle_norm, the norm comes after the grouping: over all m^2 d numbers of a block.",
            "Group first, then self.norm(grouped).",
        ),
    ),
    (
        NormAlwaysAfter,
        (
            "With use_postshuffle_norm it is right. What are mean and variance taken over without it?",
            "In the main merger the norm comes before the grouping: over the d numbers of each token.",
            "self.norm(tokens) first, then group.",
        ),
    ),
    (
        Strided,
        (
            "Two blocks: which tokens are the first of them?",
            "A block takes tokens that lie apart; in merge order they stand side by side.",
            'rearrange(tokens, "... (n block) d -> ... n (block d)", block=m * m)',
        ),
    ),
    (
        NumbersBeforeTokens,
        (
            "With tokens of one number it is right. In which order is the row of a block written?",
            "The row holds number by number; it holds token by token, end to end.",
            '"... n (block d)", not "... n (d block)".',
        ),
    ),
    (
        Meant,
        (
            "Exchange two tokens of a block: does the merged token change?",
            "The tokens are averaged; merging keeps all of them, end to end.",
            'rearrange(tokens, "... (n block) d -> ... n (block d)", block=m * m)',
        ),
    ),
    (
        NoNorm,
        (
            "Make the tokens ten times as large: does the main merger's result change?",
            "The norm is not used.",
            "self.norm(...), before or after the grouping as asked for.",
        ),
    ),
    (
        MeanKept,
        (
            "Add 1 to all numbers of a token: does the main merger's result change?",
            "The mean is not taken away: this is RMSNorm, which an earlier model of the family has in its merger.",
            "LayerNorm(..., eps=1e-6)",
        ),
    ),
    (
        SampleVariance,
        (
            "With long tokens it is nearly right. By what is the sum of squares divided?",
            "The variance is divided by d - 1, as torch.var does; a norm divides by d.",
            "x.var(-1, keepdim=True, correction=0), or LayerNorm.",
        ),
    ),
    (
        ScalesNotUsed,
        (
            "As long as nothing is learned it is right. What do norm.weight and norm.bias change?",
            "The learned scales and shifts of the norm are not used.",
            "self.norm(x), which has them.",
        ),
    ),
    (
        OtherEps,
        (
            "With tokens of about 1 it is right. Try numbers of about 0.001.",
            "The norm's eps is torch's, 1e-5; the published model's is 1e-6.",
            "LayerNorm(..., eps=1e-6)",
        ),
    ),
    (
        Activated,
        (
            "What becomes of a hidden number of -1?",
            "Between the layers stands a ReLU; the published model has a GELU.",
            "gelu(self.linear_fc1(...))",
        ),
    ),
    (
        TanhGelu,
        (
            "It is nearly right. Look at the third digit.",
            "The GELU is the approximation by tanh, as in the blocks; the merger has the exact one.",
            "gelu, with erf, not gelu_tanh.",
        ),
    ),
    (
        Silu,
        (
            "What becomes of a hidden number of -1?",
            "Between the layers stands a SiLU, as in the language model; the merger has the exact GELU.",
            "gelu(self.linear_fc1(...))",
        ),
    ),
    (
        NoActivation,
        (
            "What stands between the two layers?",
            "Nothing: the two layers are one matrix.",
            "self.linear_fc2(gelu(self.linear_fc1(grouped)))",
        ),
    ),
    (
        ActivatedAfter,
        (
            "Can a number of the result be -1?",
            "The GELU stands behind the second layer; it stands between the two.",
            "self.linear_fc2(gelu(self.linear_fc1(grouped)))",
        ),
    ),
    (
        Residual,
        (
            "With all weights at zero, what comes out?",
            "The grouped tokens are added on the way, as in a transformer block; a merger has no residual.",
            "self.linear_fc2(gelu(self.linear_fc1(grouped)))",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "tubelets": [Mistake(*row) for row in TUBELETS],
    "embed_patches": [Mistake(*row) for row in EMBED_PATCHES],
    "inflate_average": [Mistake(*row) for row in INFLATE_AVERAGE],
    "inflate_central": [Mistake(*row) for row in INFLATE_CENTRAL],
    "merge_order": [Mistake(*row) for row in MERGE_ORDER],
    "PatchEmbed": [Mistake(*row) for row in PATCH_EMBED],
    "PatchMerger": [Mistake(*row) for row in PATCH_MERGER],
}


def probes(name: str) -> Iterator[Probe]:
    """Uses on which every two of the mistakes above differ."""
    if name == "tubelets":
        for c, tau, p in ((2, 2, 3), (1, 2, 2), (3, 1, 2)):
            yield (normal(0, 2, 4, c, 6, 12),), {"patch_size": p, "temporal_patch_size": tau}
    elif name == "embed_patches":
        patches, weight = normal(0, 5, 36), normal(1, 7, 2, 2, 3, 3)
        yield (patches, weight), {}
        yield (patches, weight, normal(2, 7)), {}
    elif name in ("inflate_average", "inflate_central"):
        for tau in (1, 2, 3, 4):
            yield (normal(0, 3, 2, 2, 2), tau), {}
    elif name == "merge_order":
        yield (normal(0, 3 * 4 * 8, 3), (3, 4, 8)), {}
        yield (normal(1, 2 * 6 * 12, 2), (2, 6, 12)), {"spatial_merge_size": 3}
        yield (normal(1, 2 * 2 * 3, 2), (2, 2, 3)), {"spatial_merge_size": 1}
    elif name == "PatchEmbed":
        yield embedding(True)
        yield embedding(False)
    elif name == "PatchMerger":
        yield merging(False, 1.0)
        yield merging(True, 1.0)
        yield merging(False, 1e-3)


def embedding(bias: bool) -> Callable:
    """Embed clips, and rows."""

    def used(embed_of: Callable) -> list:
        module = embed_of(2, 5, 3, 2, **({} if bias else {"bias": False}))
        weights = {"proj.weight": normal(0, 5, 2, 2, 3, 3), **({"proj.bias": normal(1, 5)} if bias else {})}
        module.load_state_dict(weights)
        return [module(normal(2, 2, 4, 2, 6, 9)), module(normal(3, 1, 2, 2, 3, 3))]

    return used


def merging(after: bool, scale: float) -> Callable:
    """Merge tokens of that size."""

    def used(merger_of: Callable) -> object:
        module = merger_of(3, 5, spatial_merge_size=2, use_postshuffle_norm=after)
        wide = 12 if after else 3
        module.load_state_dict(
            {
                "norm.weight": normal(0, wide),
                "norm.bias": normal(1, wide),
                "linear_fc1.weight": normal(2, 12, 12),
                "linear_fc1.bias": normal(3, 12),
                # Large, so that a small difference in the hidden layer shows.
                "linear_fc2.weight": 10 * normal(4, 5, 12),
                "linear_fc2.bias": normal(5, 5),
            }
        )
        return module(scale * normal(6, 8, 3))

    return used
