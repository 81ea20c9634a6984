"""What size a frame gets inside a budget of pixels, the resizing itself, and the range of a pixel's value."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float32, Num, UInt8
from torch import Tensor
from torch.nn import functional as F

from minivid.shapes import ShapeError

# Limits of the published models, in tokens; a token covers factor x factor pixels.
IMAGE_TOKENS_MIN, IMAGE_TOKENS_MAX = 4, 16384
FRAME_TOKENS_MIN, FRAME_TOKENS_MAX = 128, 768
# 90 % of a context of 128 000 tokens: the rest is for words.
CLIP_TOKENS = 128_000 * 0.9
ASPECT_RATIO_MAX = 200
# A byte's middle and half its range: 0..255 becomes -1..1.
MIDDLE = 127.5


class SizeDecision(NamedTuple):
    """The size of a frame, which bound decided it, and the rule in words with numbers.

    `bound` is one of "none" (only rounded to multiples of the factor), "floor" (min_pixels), "max_pixels",
    "per-frame cap", "total budget", and "exact" (asked for by height and width).
    """

    height: int
    width: int
    bound: str
    rule: str


def smart_resize(
    height: int,
    width: int,
    *,
    factor: int = 32,
    min_pixels: int | float | None = None,
    max_pixels: int | float | None = None,
) -> tuple[int, int]:
    """Find a size near a picture's own that is made of whole tokens and stays between two areas.

    Both sides go to the nearest multiple of factor, at least one. If that area is above max_pixels, both sides are
    divided by sqrt(height width / max_pixels) and rounded down to multiples; if it is below min_pixels, multiplied
    by sqrt(min_pixels / (height width)) and rounded up. The proportions stay, up to the rounding.

    Args:
        height, width: the picture's size, in pixels.
        factor: side of one merged token in pixels, patch_size times spatial_merge_size.
        min_pixels: smallest area; by default 4 tokens.
        max_pixels: largest area; by default 16384 tokens.

    Returns:
        Height and width. A long thin picture under a small max_pixels can come out with a side of 0.

    Raises:
        ValueError: if max_pixels is below min_pixels, a side is below 1, or one side is over 200 times the other.

    Source: qwen-vl-utils 0.0.14.
    """
    floor = IMAGE_TOKENS_MIN * factor**2 if min_pixels is None else min_pixels
    cap = IMAGE_TOKENS_MAX * factor**2 if max_pixels is None else max_pixels
    if cap < floor:
        raise ValueError(f"max_pixels={cap:g} is below min_pixels={floor:g}; raise the one or lower the other")
    if min(height, width) < 1:
        raise ValueError(f"height={height}, width={width}: a picture has at least one pixel")
    if max(height, width) / min(height, width) > ASPECT_RATIO_MAX:
        raise ValueError(
            f"height={height}, width={width}: the longer side is {max(height, width) / min(height, width):.6g} times "
            f"the shorter, more than {ASPECT_RATIO_MAX}; cut the picture into pieces"
        )
    # round() and the order of the divisions are the published ones: another order can land on another multiple.
    near = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if near[0] * near[1] > cap:
        shrink = math.sqrt(height * width / cap)
        near = [math.floor(side / shrink / factor) * factor for side in (height, width)]
    elif near[0] * near[1] < floor:
        grow = math.sqrt(floor / (height * width))
        near = [math.ceil(side * grow / factor) * factor for side in (height, width)]
    return near[0], near[1]


def decide_size(
    height: int,
    width: int,
    frames: int,
    *,
    factor: int = 32,
    min_pixels: int | float | None = None,
    max_pixels: int | float | None = None,
    total_pixels: int | float | None = None,
) -> SizeDecision:
    """Say what size the frames of a clip get, and which bound decided it.

    The arguments, the rule and the errors are those of `frame_size`.
    """
    if frames < 1:
        raise ValueError(f"frames={frames}: a clip has at least one frame")
    token = factor**2
    if frames == 1:
        floor = IMAGE_TOKENS_MIN * token if min_pixels is None else min_pixels
        caps = [(IMAGE_TOKENS_MAX * token, "per-frame cap", f"{IMAGE_TOKENS_MAX} tokens of {factor} x {factor} pixels")]
        if max_pixels is not None:
            caps = [(max_pixels, "max_pixels", f"max_pixels={max_pixels:.10g}")]
        if total_pixels is not None:
            caps.append((total_pixels, "total budget", f"total_pixels={total_pixels:.10g}"))
        cap, bound, reason = min(caps)
    else:
        floor = FRAME_TOKENS_MIN * token if min_pixels is None else min_pixels
        total = CLIP_TOKENS * token if total_pixels is None else total_pixels
        # A pair of frames becomes one layer of tokens, so the budget counts pairs.
        budget = total / frames * 2, "total budget", f"total_pixels={total:.10g} over {frames / 2:g} pairs of frames"
        tokens = FRAME_TOKENS_MAX * token, "per-frame cap", f"{FRAME_TOKENS_MAX} tokens of {factor} x {factor} pixels"
        cap, bound, reason = min(tokens, budget)
        # The floor may break the budget: by five percent more than itself, so that there is room between the two.
        if int(floor * 1.05) > cap:
            cap, bound, reason = (
                int(floor * 1.05),
                "floor",
                f"1.05 min_pixels={floor * 1.05:.10g} wins over the {bound}",
            )
        if max_pixels is not None and max_pixels < cap:
            cap, bound, reason = max_pixels, "max_pixels", f"max_pixels={max_pixels:.10g}"
    size = smart_resize(height, width, factor=factor, min_pixels=floor, max_pixels=cap)
    if 0 in size:
        raise ShapeError(
            f"height={height}, width={width}: inside {cap:.10g} pixels ({bound}: {reason}) the shorter side is below "
            f"one token of {factor} pixels; allow more pixels or cut the picture into pieces"
        )
    near = smart_resize(height, width, factor=factor, min_pixels=0, max_pixels=math.inf)
    area = near[0] * near[1]
    if area > cap:
        rule = f"{near[0]} x {near[1]} is above {cap:.10g} pixels ({reason})"
    elif area < floor:
        bound, rule = "floor", f"{near[0]} x {near[1]} is below min_pixels={floor:.10g}"
    else:
        bound, rule = "none", f"nearest multiples of {factor}: {area} pixels lie between {floor:.10g} and {cap:.10g}"
    return SizeDecision(*size, bound, rule)


def frame_size(
    height: int,
    width: int,
    frames: int,
    *,
    factor: int = 32,
    min_pixels: int | float | None = None,
    max_pixels: int | float | None = None,
    total_pixels: int | float | None = None,
) -> tuple[int, int]:
    """Find the size that the frames of a clip get inside the budgets of a frame and of the clip.

    `smart_resize` between min_pixels and cap = max(min(768 factor^2, 2 total_pixels / frames), 1.05 min_pixels), or
    max_pixels where that is smaller. So the total counts each pair of frames once, and the floor wins over it.
    A clip of one frame is a picture: between 4 and 16384 tokens, and total_pixels where it is given.

    Args:
        height, width: size of the clip, in pixels.
        frames: how many frames are chosen.
        factor: side of one merged token in pixels, patch_size times spatial_merge_size.
        min_pixels: smallest area of a frame; by default 128 tokens.
        max_pixels: largest area of a frame; it can lower the cap but not raise it.
        total_pixels: budget of the clip, in pixels of frame pairs; by default 115200 tokens.

    Returns:
        Height and width, multiples of factor.

    Raises:
        ValueError: if max_pixels is below min_pixels, a side or frames is below 1, or one side is over 200 times the
            other.
        ShapeError: if the area is too small for one token along the shorter side.

    Source: qwen-vl-utils 0.0.14.
    """
    return decide_size(
        height,
        width,
        frames,
        factor=factor,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        total_pixels=total_pixels,
    )[:2]


def resize(
    pixels: UInt8[Tensor, "t c h w"], size: tuple[int, int], *, out: UInt8[Tensor, "t c height width"] | None = None
) -> UInt8[Tensor, "t c height width"]:
    """Resize frames by bicubic interpolation that looks at every pixel it covers (antialias), in 8 bits.

    These are the bytes of torchvision's `resize(..., BICUBIC, antialias=True)`, which calls the same kernel. Frames
    whose channels lie side by side in memory (`h w c`), as a decoder gives them, are not copied first.

    Args:
        pixels: frames of any size.
        size: height and width wanted.
        out: where to write them. With its channels side by side in memory, the kernel needs no room of its own there.

    Returns:
        The frames in that size.

    Raises:
        ShapeError: if a side of the size is below 1, or `out` has another shape.
    """
    if min(size) < 1:
        raise ShapeError(f"size: height={size[0]}, width={size[1]} has a side below 1; give at least one pixel")
    wanted = (*pixels.shape[:2], *size)
    if out is not None and tuple(out.shape) != wanted:
        raise ShapeError(f"out: shape {tuple(out.shape)}, expected {wanted}")
    if tuple(pixels.shape) == wanted:
        return pixels if out is None else out.copy_(pixels)
    # Channels side by side is the kernel's fast path, and the one that can make a frame of a single pixel (torch 2.13).
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    if out is None:
        return F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
    # The operator behind the line above, which itself cannot be told where to write.
    return torch.ops.aten._upsample_bicubic2d_aa.out(pixels, size, False, None, None, out=out)


def normalize(pixels: Num[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Bring the values of pixels from 0..255 to -1..1: (x - 127.5) / 127.5.

    Subtracting first and dividing once is the published order; (x / 255 - 0.5) / 0.5 differs in the last bit.

    Args:
        pixels: values from 0 to 255, whole numbers or not.

    Returns:
        float32 of the same shape; a new tensor.

    Source: the processors of the published Qwen3-VL checkpoints (rescale 1/255, mean 0.5, standard deviation 0.5).
    """
    return normalize_(pixels.to(torch.float32, copy=True))


def normalize_(pixels: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Bring the values of pixels from 0..255 to -1..1 in place, and return them: `normalize` without a copy."""
    return pixels.sub_(MIDDLE).div_(MIDDLE)
