"""Classic wrong answers about convolution, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch
from einops import rearrange
from strategies import normal
from torch import Tensor
from torch.nn import functional as F

from minivid.classroom.museum import Mistake
from minivid.layers import conv3d as library
from minivid.layers.conv3d import triple

# ---- conv3d


def flipped(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight.flip(2, 3, 4), bias, stride, padding, dilation, groups)


def flipped_in_time(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight.flip(2), bias, stride, padding, dilation, groups)


def time_and_height_swapped(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    # The settings are read as height, time, width.
    if isinstance(padding, str):
        return library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    stride, padding, dilation = (
        [three[1], three[0], three[2]]
        for three in (triple("", stride), triple("", padding, least=0), triple("", dilation))
    )
    return library.conv3d(input, weight, bias, stride, padding, dilation, groups)


def kernel_read_as_height_first(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight.transpose(2, 3), bias, stride, padding, dilation, groups)


def height_and_width_swapped(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight.transpose(3, 4), bias, stride, padding, dilation, groups)


def padded_behind_only(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if isinstance(padding, str):
        return library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    t, h, w = triple("", padding, least=0)
    input = F.pad(input, (0, 2 * w, 0, 2 * h, 0, 2 * t))
    return library.conv3d(input, weight, bias, stride, 0, dilation, groups)


def padded_before_only(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if isinstance(padding, str):
        return library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    t, h, w = triple("", padding, least=0)
    input = F.pad(input, (2 * w, 0, 2 * h, 0, 2 * t, 0))
    return library.conv3d(input, weight, bias, stride, 0, dilation, groups)


def padding_read_backwards(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if not isinstance(padding, str):
        padding = triple("", padding, least=0)[::-1]
    return library.conv3d(input, weight, bias, stride, padding, dilation, groups)


def edge_repeated(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if isinstance(padding, str):
        return library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    t, h, w = triple("", padding, least=0)
    input = F.pad(input, (w, w, h, h, t, t), mode="replicate")
    return library.conv3d(input, weight, bias, stride, 0, dilation, groups)


def padding_ignored(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight, bias, stride, 0, dilation, groups)


def odd_zero_before(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if padding == "same":
        sizes = zip(weight.shape[2:], triple("", dilation), strict=True)
        total = [gap * (size - 1) for size, gap in sizes]
        input = F.pad(input, [n for zeros in reversed(total) for n in (zeros - zeros // 2, zeros // 2)])
        padding = 0
    return library.conv3d(input, weight, bias, stride, padding, dilation, groups)


def time_stride_ignored(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    _, h, w = triple("", stride)
    return library.conv3d(input, weight, bias, (1, h, w), padding, dilation, groups)


def width_stride_for_all(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight, bias, triple("", stride)[2], padding, dilation, groups)


def stride_ignored(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight, bias, 1, padding, dilation, groups)


def last_places_kept(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    t, h, w = triple("", stride)
    output = library.conv3d(input, weight, bias, 1, padding, dilation, groups)
    return output.flip(2, 3, 4)[:, :, ::t, ::h, ::w].flip(2, 3, 4)


def rounded_up(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    # As pooling does with ceil_mode: one place more where the stride does not divide what is left.
    if isinstance(padding, str):
        return library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    axes = zip(
        input.shape[2:], weight.shape[2:], triple("", stride), triple("", padding, least=0), triple("", dilation),
        strict=True,
    )  # fmt: skip
    short = [-(n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in axes]
    p_t, p_h, p_w = triple("", padding, least=0)
    input = F.pad(input, (p_w, p_w + short[2], p_h, p_h + short[1], p_t, p_t + short[0]))
    return library.conv3d(input, weight, bias, stride, 0, dilation, groups)


def clip_stuffed_with_zeros(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    t, h, w = triple("", dilation)
    b, c, *sizes = input.shape
    stuffed = input.new_zeros(b, c, *((n - 1) * d + 1 for n, d in zip(sizes, (t, h, w), strict=True)))
    stuffed[:, :, ::t, ::h, ::w] = input
    return library.conv3d(stuffed, weight, bias, stride, padding, 1, groups)


def dilation_ignored(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight, bias, stride, padding, 1, groups)


def every_dth_frame(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    t, h, w = triple("", dilation)
    return library.conv3d(input[:, :, ::t, ::h, ::w], weight, bias, stride, padding, 1, groups)


def groups_interleaved(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    input = rearrange(input, "b (c g) t h w -> b (g c) t h w", g=groups)
    return library.conv3d(input, weight, bias, stride, padding, dilation, groups)


def results_of_groups_interleaved(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    return rearrange(output, "b (g o) t h w -> b (o g) t h w", g=groups)


def same_kernels_for_every_group(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    first = weight.chunk(groups)[0].repeat(groups, 1, 1, 1, 1)
    return library.conv3d(input, first, bias, stride, padding, dilation, groups)


def groups_added_up(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight.repeat(1, groups, 1, 1, 1), bias, stride, padding, dilation)


def bias_forgotten(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight, None, stride, padding, dilation, groups)


def bias_for_every_channel_read(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    bias = None if bias is None else bias * weight.shape[1]
    return library.conv3d(input, weight, bias, stride, padding, dilation, groups)


def bias_once_a_group(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    bias = None if bias is None else bias * groups
    return library.conv3d(input, weight, bias, stride, padding, dilation, groups)


def bias_along_the_width(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = library.conv3d(input, weight, None, stride, padding, dilation, groups)
    return output if bias is None else output + bias


def taps_before_channels(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    windows = library.unfold(
        library.pad(input, weight.shape[2:], stride, padding, dilation), weight.shape[2:], stride, dilation
    )
    columns = rearrange(windows, "b (g c) t h w i j k -> b g (i j k c) (t h w)", g=groups)
    t, h, w = windows.shape[2:5]
    output = rearrange(weight, "(g o) c i j k -> g o (c i j k)", g=groups) @ columns
    output = rearrange(output, "b g o (t h w) -> b (g o) t h w", t=t, h=h, w=w)
    return output if bias is None else output + bias[:, None, None, None]


def width_before_height(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    return rearrange(output, "b o t h w -> b o t w h").reshape(output.shape)


def channels_and_places_mixed(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    return rearrange(output, "b o t h w -> b t h w o").reshape(output.shape)


def mean_and_not_sum(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.conv3d(input, weight / weight[0].numel(), bias, stride, padding, dilation, groups)


def channels_apart(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    # Every channel is convolved, but their results are put side by side instead of added.
    parts = [
        library.conv3d(x, k, None, stride, padding, dilation)
        for x, k in zip(input.split(1, 1), weight.repeat(1, groups, 1, 1, 1).split(1, 1), strict=True)
    ]
    return torch.cat(parts, 1)


CONV3D = [
    (
        flipped,
        (
            "Take a kernel of -1 and 1 and a clip that grows by one a frame. Which sign comes out?",
            "The kernel is turned round before it is laid on the clip. Mathematics does so; networks do not.",
            "Leave out the flip: weight[i] meets padded[t + i].",
        ),
    ),
    (
        flipped_in_time,
        (
            "Take a kernel of -1 and 1 in time and a clip that grows by one a frame. Which sign comes out?",
            "Height and width are right; along time the kernel runs backwards.",
            "weight[:, :, i] meets frame t + i, not frame t + k_t - 1 - i.",
        ),
    ),
    (
        time_and_height_swapped,
        (
            "With one number for all axes it is right. Give three that differ.",
            "Three numbers are read as height, time, width; they come as time, height, width.",
            "The first number belongs to axis 2 (time), the second to axis 3 (height), the third to axis 4 (width).",
        ),
    ),
    (
        kernel_read_as_height_first,
        (
            "Take a kernel that is 3 frames deep and 1 pixel high. How many frames does the result lose?",
            "The kernel's time and height are swapped: weight is c_out c_group k_t k_h k_w.",
            "Time is axis 2 of the weight, height is axis 3.",
        ),
    ),
    (
        height_and_width_swapped,
        (
            "Take a kernel of 1 x 1 x 2. Along which axis does the result get shorter?",
            "The kernel is laid on turned by 90 degrees: its height along the width.",
            "Height is axis 3 of both the clip and the weight, width is axis 4.",
        ),
    ),
    (
        padded_behind_only,
        (
            "The shape is right. Where do the zeros stand?",
            "All the zeros are behind the last number; as many belong before the first.",
            "F.pad(input, (w, w, h, h, t, t)): two numbers an axis, before and behind, the last axis first.",
        ),
    ),
    (
        padded_before_only,
        (
            "The shape is right. Where do the zeros stand?",
            "All the zeros are before the first number; as many belong behind the last.",
            "F.pad(input, (w, w, h, h, t, t)): two numbers an axis, before and behind, the last axis first.",
        ),
    ),
    (
        padding_read_backwards,
        (
            "With one number for all axes it is right. Pad the time alone.",
            "F.pad starts at the last axis; padding starts at the time.",
            "F.pad(input, (w, w, h, h, t, t)) for padding (t, h, w).",
        ),
    ),
    (
        edge_repeated,
        (
            "Look at the first frame of the result with padding 1. What was laid on the kernel's first number?",
            "The edge is repeated; padding is by zeros.",
            "F.pad without a mode puts zeros.",
        ),
    ),
    (
        padding_ignored,
        (
            "Which shape comes out with padding 1, which one is expected?",
            "The padding is an argument that no line uses.",
            "Before the windows are cut: padded = pad(input, kernel, stride, padding, dilation).",
        ),
    ),
    (
        odd_zero_before,
        (
            'Padding "same" with a kernel of even size needs an odd number of zeros. Where does the odd one stand?',
            "The odd zero stands before the first number; it belongs behind the last.",
            "before = total // 2, behind = total - before.",
        ),
    ),
    (
        time_stride_ignored,
        (
            "Stride 2 along the time alone: how many frames come out?",
            "The stride along time is not used; height and width are right.",
            "Three strides: the first one belongs to axis 2, the frames.",
        ),
    ),
    (
        width_stride_for_all,
        (
            "Give three strides that differ.",
            "The last stride is taken for all axes.",
            "Each axis has its own: stride[0] for t, stride[1] for h, stride[2] for w.",
        ),
    ),
    (
        stride_ignored,
        (
            "Which shape comes out with stride 2, which one is expected?",
            "The stride is an argument that no line uses.",
            "Take each stride-th window: padded.unfold(axis, reach, stride).",
        ),
    ),
    (
        last_places_kept,
        (
            "The shape is right. With 4 places and stride 2, which places are kept?",
            "The places are counted from the end; the first one is always kept.",
            "Places 0, stride, 2 stride, ...: output[::stride], or padded.unfold(axis, reach, stride).",
        ),
    ),
    (
        rounded_up,
        (
            "With stride 2 on an even number of places, how many come out?",
            "One place too many: the kernel hangs over the end of the clip.",
            "(size + 2 padding - reach) // stride + 1, rounded down.",
        ),
    ),
    (
        clip_stuffed_with_zeros,
        (
            "With dilation the result grows. Should it?",
            "Zeros are put between the numbers of the clip; dilation spreads the kernel, the clip stays.",
            "Cut windows of dilation (kernel - 1) + 1 numbers, then take every dilation-th number of each.",
        ),
    ),
    (
        dilation_ignored,
        (
            "Which shape comes out with dilation 2, which one is expected?",
            "The dilation is an argument that no line uses.",
            "Cut windows of dilation (kernel - 1) + 1 numbers, then take every dilation-th number of each.",
        ),
    ),
    (
        every_dth_frame,
        (
            "With dilation 2, does frame 1 have any influence?",
            "Every second number of the clip is thrown away; only inside a window are numbers left out.",
            "padded.unfold(axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]",
        ),
    ),
    (
        groups_interleaved,
        (
            "With one group it is right. With two groups of two channels, which channels does the first kernel read?",
            "The channels are dealt out like cards; a group is channels that stand behind one another.",
            '"b (g c) ..." and not "b (c g) ...": the group is the outer number.',
        ),
    ),
    (
        results_of_groups_interleaved,
        (
            "With one group it is right. With two groups, to which one does output channel 1 belong?",
            "The results of the groups are dealt out like cards; they stand one behind the other.",
            '"b (g o) t h w" and not "b (o g) t h w".',
        ),
    ),
    (
        same_kernels_for_every_group,
        (
            "With one group it is right. Change the last kernel: does anything change?",
            "All groups use the kernels of the first.",
            'Split the kernels as well: rearrange(weight, "(g o) c i j k -> g o (c i j k)", g=groups).',
        ),
    ),
    (
        groups_added_up,
        (
            "With one group it is right. With two, change a channel of the first group: which outputs change?",
            "Every kernel reads the channels of every group; it should read those of its own.",
            "Keep an axis for the groups in both factors of the product: b g (c i j k) n and g o (c i j k).",
        ),
    ),
    (
        bias_forgotten,
        (
            "Make the clip zero. What comes out, and what should?",
            "The bias is an argument that no line uses.",
            'output + rearrange(bias, "o -> o 1 1 1")',
        ),
    ),
    (
        bias_for_every_channel_read,
        (
            "Make the clip zero. How often is the bias in what comes out?",
            "The bias is added once for every channel that is read; it belongs to the sum, once.",
            "Sum over the channels first, add the bias behind it.",
        ),
    ),
    (
        bias_once_a_group,
        (
            "With one group it is right. Make the clip zero: how often is the bias in what comes out?",
            "The bias is added once for every group; each output channel belongs to one group only.",
            "Put the groups together first, then add the bias once.",
        ),
    ),
    (
        bias_along_the_width,
        (
            "Make the clip zero. Which axis does the bias change along?",
            "Broadcasting counts axes from the right: the bias meets the width.",
            'rearrange(bias, "o -> o 1 1 1") meets the channels.',
        ),
    ),
    (
        taps_before_channels,
        (
            "With one channel it is right, and with a kernel of 1 too. In which order do the two factors count?",
            "The columns count the kernel's numbers before the channels, the rows of the weight the other way round.",
            'The same bracket on both sides: "(c i j k)".',
        ),
    ),
    (
        width_before_height,
        (
            "The shape is right and so are the numbers, but not their places.",
            "The places are written with the width before the height and read the other way round.",
            'Name the axes when the result is folded back: "b g o (t h w) -> b (g o) t h w".',
        ),
    ),
    (
        channels_and_places_mixed,
        (
            "With one output channel it is right. With two, where do the numbers of the second stand?",
            "The channel is the last axis when the result is reshaped as if it were the second.",
            'rearrange(output, "b t h w o -> b o t h w"), not reshape.',
        ),
    ),
    (
        mean_and_not_sum,
        (
            "A clip and a kernel of ones: which number comes out?",
            "The mean is taken over the window; a convolution is the sum.",
            "Leave out the division (or use sum instead of mean).",
        ),
    ),
    (
        channels_apart,
        (
            "How many channels should come out with one kernel for two channels?",
            "Every channel is convolved alone, but the results are not added up.",
            "One kernel reads all channels: sum over c, i, j and k.",
        ),
    ),
]

# ---- frame_conv3d: all of these, and what goes wrong with a buffer


def buffer_handed_out(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    # Every frame of the result is the same buffer, which holds the last frame at the end.
    output = library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    return output[:, :, -1:].expand_as(output)


def clips_share_a_buffer(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = library.conv3d(input, weight, bias, stride, padding, dilation, groups)
    return output[-1:].expand_as(output)


def buffer_added_to(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = library.conv3d(input, weight, None, stride, padding, dilation, groups).cumsum(2)
    return output if bias is None else output + bias[:, None, None, None]


FRAME_CONV3D = [
    *CONV3D,
    (
        buffer_handed_out,
        (
            "With one frame it is right. Print two frames of the result: do they differ?",
            "Each frame of the result is the buffer itself, and the last frame overwrote the others.",
            "Copy the product out: output[clip, :, frame] = product",
        ),
    ),
    (
        clips_share_a_buffer,
        (
            "With one clip it is right. Do the results of two clips differ?",
            "All clips end up in the buffer of the last.",
            "Copy the product out: output[clip, :, frame] = product",
        ),
    ),
    (
        buffer_added_to,
        (
            "With one frame it is right. By how much is the second frame off?",
            "The product of a frame is added to what the buffer held of the frames before.",
            "torch.bmm(rows, columns, out=product) overwrites; baddbmm and += add.",
        ),
    ),
]

# ---- output_size


def size_rounded_up(size, kernel_size, *, stride=1, padding=0, dilation=1):
    return -(-(size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride) + 1


def padded_on_one_side(size, kernel_size, *, stride=1, padding=0, dilation=1):
    return (size + padding - dilation * (kernel_size - 1) - 1) // stride + 1


def one_too_few(size, kernel_size, *, stride=1, padding=0, dilation=1):
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride


def kernel_dilated_whole(size, kernel_size, *, stride=1, padding=0, dilation=1):
    return (size + 2 * padding - dilation * kernel_size) // stride + 1


def undilated(size, kernel_size, *, stride=1, padding=0, dilation=1):
    return (size + 2 * padding - kernel_size) // stride + 1


def divided_as_a_float(size, kernel_size, *, stride=1, padding=0, dilation=1):
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) / stride + 1


def added_before_dividing(size, kernel_size, *, stride=1, padding=0, dilation=1):
    return (size + 2 * padding - dilation * (kernel_size - 1)) // stride


def stride_forgotten(size, kernel_size, *, stride=1, padding=0, dilation=1):
    return size + 2 * padding - dilation * (kernel_size - 1)


OUTPUT_SIZE = [
    (
        size_rounded_up,
        (
            "6 frames, a kernel of 3, stride 2: the kernel starts at 0 and at 2. Can it start at 4?",
            "The division is rounded up: the last place hangs over the end.",
            "Python's // rounds down: (...) // stride + 1.",
        ),
    ),
    (
        padded_on_one_side,
        (
            "5 frames with padding 1: how many frames are that?",
            "Padding stands on both sides.",
            "size + 2 * padding",
        ),
    ),
    (
        one_too_few,
        (
            "3 frames and a kernel of 3: how many places?",
            "The first place is forgotten: steps are counted, not places.",
            "(...) // stride + 1",
        ),
    ),
    (
        kernel_dilated_whole,
        (
            "A kernel of 2 with dilation 3 touches frames 0 and 3. How many frames does it reach over?",
            "Between k numbers there are k - 1 gaps, not k.",
            "reach = dilation * (kernel_size - 1) + 1",
        ),
    ),
    (
        undilated,
        (
            "A kernel of 2 with dilation 3 touches frames 0 and 3. How many frames does it reach over?",
            "The dilation is not used.",
            "reach = dilation * (kernel_size - 1) + 1",
        ),
    ),
    (
        divided_as_a_float,
        (
            "How many is 2.5 places?",
            "/ divides into parts; a place is whole or is not there.",
            "// instead of /.",
        ),
    ),
    (
        added_before_dividing,
        (
            "With stride 1 it is right. 3 frames, a kernel of 3 and stride 2: how many places?",
            "The 1 for the first place is added before the division and is cut up by it.",
            "(size + 2 * padding - reach) // stride + 1",
        ),
    ),
    (
        stride_forgotten,
        (
            "With stride 1 it is right. 5 frames, a kernel of 1 and stride 2: how many places?",
            "The stride is not used.",
            "(size + 2 * padding - reach) // stride + 1",
        ),
    ),
]

# ---- receptive_field


def layers_of(kernel_sizes, strides, dilations) -> Iterator[tuple[int, int, int]]:
    ones = [1] * len(kernel_sizes)
    return zip(kernel_sizes, strides or ones, dilations or ones, strict=True)


def kernels_added(kernel_sizes, strides=None, dilations=None):
    return sum(kernel_sizes) or 1


def kernels_multiplied(kernel_sizes, strides=None, dilations=None):
    frames = 1
    for kernel_size, _, _ in layers_of(kernel_sizes, strides, dilations):
        frames *= kernel_size
    return frames


def strides_forgotten(kernel_sizes, strides=None, dilations=None):
    return 1 + sum(gap * (size - 1) for size, _, gap in layers_of(kernel_sizes, strides, dilations))


def dilations_forgotten(kernel_sizes, strides=None, dilations=None):
    return library.receptive_field(kernel_sizes, strides)


def own_stride_counted(kernel_sizes, strides=None, dilations=None):
    frames, step = 1, 1
    for size, stride, gap in layers_of(kernel_sizes, strides, dilations):
        step *= stride
        frames += gap * (size - 1) * step
    return frames


def last_layer_only(kernel_sizes, strides=None, dilations=None):
    frames = 1
    for size, _, gap in layers_of(kernel_sizes, strides, dilations):
        frames = gap * (size - 1) + 1
    return frames


def strides_added(kernel_sizes, strides=None, dilations=None):
    frames, step = 1, 1
    for size, stride, gap in layers_of(kernel_sizes, strides, dilations):
        frames += gap * (size - 1) * step
        step += stride - 1
    return frames


def dilations_piled_up(kernel_sizes, strides=None, dilations=None):
    frames, step = 1, 1
    for size, stride, gap in layers_of(kernel_sizes, strides, dilations):
        step *= gap
        frames += (size - 1) * step
        step *= stride
    return frames


RECEPTIVE_FIELD = [
    (
        kernels_added,
        (
            "Two kernels of 3: the second sees three numbers. Do they see nine different frames, six, or five?",
            "Neighbours share frames: every layer adds its kernel size less one.",
            "frames += (kernel_size - 1), starting from 1 (and strides and dilations count too).",
        ),
    ),
    (
        kernels_multiplied,
        (
            "Two kernels of 3: the second sees three numbers. Do they see nine different frames, six, or five?",
            "Neighbours share frames: sizes add up, less one each; only strides multiply.",
            "frames += (kernel_size - 1), starting from 1 (and strides and dilations count too).",
        ),
    ),
    (
        strides_forgotten,
        (
            "Two layers with kernels of 3, the first with stride 2: from which frames do neighbours start?",
            "Above a stride of 2, neighbours are 2 frames apart, so that each more of them sees 2 frames more.",
            "frames += dilation * (kernel_size - 1) * step, and behind it step *= stride.",
        ),
    ),
    (
        dilations_forgotten,
        (
            "One kernel of 2 with dilation 3 touches frames 0 and 3.",
            "The dilations are not used.",
            "frames += dilation * (kernel_size - 1) * step",
        ),
    ),
    (
        own_stride_counted,
        (
            "One layer with a kernel of 3 and stride 2: how many frames does one number see?",
            "A layer's stride is counted for the layer itself; it matters for the layers above.",
            "First frames += ..., then step *= stride.",
        ),
    ),
    (
        last_layer_only,
        (
            "One layer is right. What does the second see through the first?",
            "Only the last layer is counted.",
            "frames += ... instead of frames = ...",
        ),
    ),
    (
        strides_added,
        (
            "Strides of 3 and 3: how many frames lie between neighbours above both?",
            "Strides multiply: 3 x 3 = 9.",
            "step *= stride",
        ),
    ),
    (
        dilations_piled_up,
        (
            "Two layers with dilation 2: how far apart are the numbers that come out of the first?",
            "Dilation spreads one kernel; what comes out still lies side by side. Only strides carry on upwards.",
            "frames += dilation * (kernel_size - 1) * step, and step *= stride alone.",
        ),
    ),
]

# ---- middle_channels


def mid_rounded_up(in_channels, out_channels, kernel_size):
    k_t, k_h, k_w = triple("", kernel_size)
    return -(-k_t * k_h * k_w * in_channels * out_channels // (k_h * k_w * in_channels + k_t * out_channels))


def mid_swapped(in_channels, out_channels, kernel_size):
    return library.middle_channels(out_channels, in_channels, kernel_size)


def mid_one_less(in_channels, out_channels, kernel_size):
    return max(1, library.middle_channels(in_channels, out_channels, kernel_size) - 1)


def mid_as_the_output(in_channels, out_channels, kernel_size):
    return out_channels


def mid_of_cubes(in_channels, out_channels, kernel_size):
    k = triple("", kernel_size)[0]
    return library.middle_channels(in_channels, out_channels, k)


MIDDLE_CHANNELS = [
    (
        mid_rounded_up,
        (
            "Count the weights of both factors. Are they more than those of the full kernel?",
            "The division is rounded up; the paper rounds down.",
            "// rounds down.",
        ),
    ),
    (
        mid_swapped,
        (
            "With as many channels in as out it is right.",
            "The spatial factor reads the input channels, the temporal factor writes the output channels.",
            "k_h * k_w * in_channels + k_t * out_channels",
        ),
    ),
    (
        mid_one_less,
        (
            "Count the weights of both factors. Is there room for one channel more?",
            "One channel too few.",
            "Round the quotient down, and leave it so.",
        ),
    ),
    (
        mid_as_the_output,
        (
            "Count the weights of both factors. As many as those of the full kernel?",
            "The output channels are taken; the width in between follows from the number of weights.",
            "floor(k_t k_h k_w c_in c_out / (k_h k_w c_in + k_t c_out))",
        ),
    ),
    (
        mid_of_cubes,
        (
            "With a kernel of 3 x 3 x 3 it is right. Try 1 x 3 x 5.",
            "The kernel's time is taken for all three of its sides.",
            "k_t, k_h, k_w = triple('kernel_size', kernel_size)",
        ),
    ),
]

# ---- unfold


def windows_of(padded, kernel_size, stride=1, dilation=1) -> Tensor:
    return library.unfold(padded, kernel_size, stride, dilation)


def windows_undilated(padded, kernel_size, stride=1, dilation=1):
    return windows_of(padded, kernel_size, stride)


def windows_side_by_side(padded, kernel_size, stride=1, dilation=1):
    return windows_of(padded, kernel_size, kernel_size, dilation)


def windows_at_every_place(padded, kernel_size, stride=1, dilation=1):
    return windows_of(padded, kernel_size, 1, dilation)


def windows_flipped(padded, kernel_size, stride=1, dilation=1):
    return windows_of(padded, kernel_size, stride, dilation).flip(5, 6, 7)


def windows_before_places(padded, kernel_size, stride=1, dilation=1):
    return rearrange(windows_of(padded, kernel_size, stride, dilation), "b c t h w i j k -> b c i j k t h w")


def windows_too_wide(padded, kernel_size, stride=1, dilation=1):
    for axis, (size, step, gap) in enumerate(
        zip(triple("", kernel_size), triple("", stride), triple("", dilation), strict=True), start=2
    ):
        padded = padded.unfold(axis, gap * size, step)[..., ::gap]
    return padded


UNFOLD = [
    (
        windows_undilated,
        (
            "With dilation 2, which numbers should lie in a window?",
            "The dilation is not used.",
            "padded.unfold(axis, reach, step)[..., ::dilation] with reach = dilation * (kernel_size - 1) + 1",
        ),
    ),
    (
        windows_side_by_side,
        (
            "With stride 1, do neighbouring windows overlap?",
            "The windows are put side by side; they start a stride apart.",
            "padded.unfold(axis, reach, stride)",
        ),
    ),
    (
        windows_at_every_place,
        (
            "With stride 2, where does the second window start?",
            "The stride is not used.",
            "padded.unfold(axis, reach, stride)",
        ),
    ),
    (
        windows_flipped,
        (
            "Which number stands first in the first window?",
            "The windows are turned round; they show the clip as it is.",
            "Leave out the flip.",
        ),
    ),
    (
        windows_before_places,
        (
            "Which axes come first, the places or the numbers in a window?",
            "The places t h w come before the numbers of the window.",
            "Tensor.unfold puts the window's axis last: leave it there.",
        ),
    ),
    (
        windows_too_wide,
        (
            "A kernel of 2 with dilation 3 touches numbers 0 and 3. How many does it reach over?",
            "Between k numbers there are k - 1 gaps, not k: some last places are lost.",
            "reach = dilation * (kernel_size - 1) + 1",
        ),
    ),
]


MISTAKES: dict[str, list[Mistake]] = {
    "conv3d": [Mistake(*row) for row in CONV3D],
    "frame_conv3d": [Mistake(*row) for row in FRAME_CONV3D],
    "output_size": [Mistake(*row) for row in OUTPUT_SIZE],
    "receptive_field": [Mistake(*row) for row in RECEPTIVE_FIELD],
    "middle_channels": [Mistake(*row) for row in MIDDLE_CHANNELS],
    "unfold": [Mistake(*row) for row in UNFOLD],
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Arguments on which every two of the mistakes above differ."""
    if name in ("conv3d", "frame_conv3d"):
        input, weight, bias = normal(0, 2, 2, 6, 7, 8), normal(1, 3, 2, 2, 3, 2), normal(2, 3)
        yield (input, weight), {}
        yield (input[:, :1], weight[:1, :1]), {}
        yield (input[..., :3], weight, bias), {}
        yield (input, weight), {"stride": (2, 3, 1)}
        yield (input, weight), {"stride": (1, 2, 3)}
        yield (input, weight), {"padding": (1, 0, 2)}
        yield (input, weight), {"padding": "same"}
        yield (input, weight), {"dilation": (3, 1, 2)}
        grouped = normal(3, 1, 4, 3, 4, 5), normal(4, 6, 2, 2, 2, 2), normal(5, 6)
        yield grouped, {"groups": 2}
    elif name == "output_size":
        for size, kernel_size, settings in (
            (7, 3, {}),
            (8, 3, {"stride": 2}),
            (3, 3, {"stride": 2}),
            (7, 2, {"padding": 1, "dilation": 3}),
        ):
            yield (size, kernel_size), settings
    elif name == "receptive_field":
        for layers in (([3, 5],), ([3, 5, 2], [2, 3, 1]), ([2, 3], [1, 2], [3, 2])):
            yield layers, {}
    elif name == "middle_channels":
        for case in ((64, 128, 3), (7, 5, (1, 3, 5)), (3, 45, (3, 7, 7))):
            yield case, {}
    elif name == "unfold":
        padded = normal(6, 1, 2, 6, 7, 8)
        yield (padded, (2, 3, 2)), {}
        yield (padded, (2, 3, 2), (2, 1, 3)), {}
        yield (padded, (2, 1, 3), 1, (2, 3, 1)), {}
