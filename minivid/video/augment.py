"""Random changes of a clip that leave its label as it is: one draw for a whole clip, so that no motion is made up.

Each change is for labels that do not depend on what it changes; the docstrings say which those are. A mirrored clip of
a ball rolling left is a clip of a ball rolling right.
"""

import math

import torch
from einops import reduce
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn import functional as F

from minivid.shapes import ShapeError

# How bright red, green and blue look; they add up to 1. Source: ITU-R BT.601, section 2.5.1.
LUMA = (0.299, 0.587, 0.114)


def crop(
    frames: Num[Tensor, "t c h w"], top: int, left: int, height: int, width: int
) -> Num[Tensor, "t c height width"]:
    """Cut the same rectangle out of every frame; a view.

    Args:
        frames: a clip.
        top, left: the rectangle's first row and column.
        height, width: its size in pixels.

    Raises:
        ShapeError: if the rectangle is not inside the frame.
    """
    h, w = frames.shape[-2:]
    for axis, first, size, most in (("h", top, height, h), ("w", left, width, w)):
        if first < 0 or size < 1 or first + size > most:
            raise ShapeError(
                f"frames: {size} pixels from {first} on do not fit into {axis}={most}; give a smaller crop"
            )
    return frames[..., top : top + height, left : left + width]


def flip(frames: Num[Tensor, "t c h w"]) -> Num[Tensor, "t c h w"]:
    """Mirror every frame, left to right."""
    return frames.flip(-1)


def reverse(frames: Num[Tensor, "t c h w"]) -> Num[Tensor, "t c h w"]:
    """Play a clip backwards."""
    return frames.flip(0)


def adjust_color(
    frames: Float[Tensor, "t 3 h w"],
    *,
    brightness: int | float = 1.0,
    contrast: int | float = 1.0,
    saturation: int | float = 1.0,
) -> Float[Tensor, "t 3 h w"]:
    """Change brightness, then contrast, then saturation, each by a factor; 1 changes nothing.

    On values from 0 to 1, cut to that range after each step: brightness b x, contrast m + c (x - m) with m the mean
    brightness of the whole clip, saturation g + s (x - g) with g the brightness of each pixel.

    Args:
        frames: red, green and blue, normalised to -1..1.
        brightness, contrast, saturation: factors, 0 or above.

    Returns:
        A new clip, in -1..1.
    """
    values = (frames + 1) / 2 * brightness
    values = values.clamp(0, 1)
    # One mean for the clip: a mean for each frame would take away the change from dark to light that the clip shows.
    values = torch.lerp(_brightness(values).mean(), values, contrast).clamp(0, 1)
    values = torch.lerp(_brightness(values), values, saturation).clamp(0, 1)
    return values * 2 - 1


def random_crop(
    frames: Num[Tensor, "t c h w"], size: tuple[int, int], *, generator: torch.Generator
) -> Num[Tensor, "t c height width"]:
    """Cut a rectangle of a given size out of a random place, the same in every frame.

    It moves everything, and what is at the rim can go: not for labels that say where something is, or that hang on
    something at the rim.

    Args:
        frames: a clip.
        size: height and width of the rectangle.
        generator: gives the place; two numbers are drawn.

    Raises:
        ShapeError: if the rectangle is larger than the frame.
    """
    height, width = size
    top, left = (
        _whole_number(max(whole - part, 0), generator) for whole, part in zip(frames.shape[-2:], size, strict=True)
    )
    return crop(frames, top, left, height, width)


def random_resized_crop(
    frames: Float[Tensor, "t c h w"],
    size: tuple[int, int],
    *,
    scale: tuple[int | float, int | float] = (0.5, 1.0),
    ratio: tuple[int | float, int | float] = (3 / 4, 4 / 3),
    generator: torch.Generator,
) -> Float[Tensor, "t c height width"]:
    """Cut a random rectangle out of every frame and resize it: the scene nearer, and a little out of proportion.

    Changes place, size and speed on the screen: not for labels that say where, how large or how fast something is. The
    area is drawn uniformly, width / height so that its logarithm is uniform; a rectangle that sticks out is cut to fit.

    Args:
        frames: a clip.
        size: height and width of the result.
        scale: least and largest share of the area.
        ratio: least and largest width / height.
        generator: gives the rectangle; four numbers are drawn.

    Source: Szegedy et al. 2015, section 6 (arXiv:1409.4842).
    """
    h, w = frames.shape[-2:]
    area = _number(*scale, generator) * h * w
    stretch = math.exp(_number(math.log(ratio[0]), math.log(ratio[1]), generator))
    height = min(h, max(1, round(math.sqrt(area / stretch))))
    width = min(w, max(1, round(math.sqrt(area * stretch))))
    part = random_crop(frames, (height, width), generator=generator)
    return F.interpolate(part, size=size, mode="bilinear", antialias=True, align_corners=False)


def random_flip(
    frames: Num[Tensor, "t c h w"], *, probability: int | float = 0.5, generator: torch.Generator
) -> Num[Tensor, "t c h w"]:
    """Mirror a clip, left to right, or leave it.

    Swaps left and right: not for labels such as "moves left" or "raises the right hand", nor where there is writing.

    Args:
        frames: a clip.
        probability: of mirroring.
        generator: decides; one number is drawn.
    """
    return flip(frames) if _number(0, 1, generator) < probability else frames


def random_reverse(
    frames: Num[Tensor, "t c h w"], *, probability: int | float = 0.5, generator: torch.Generator
) -> Num[Tensor, "t c h w"]:
    """Play a clip backwards, or leave it.

    Swaps before and after: not for labels such as "opens", "falls", "moves left" or "first red, then blue".

    Args:
        frames: a clip.
        probability: of turning it around.
        generator: decides; one number is drawn.
    """
    return reverse(frames) if _number(0, 1, generator) < probability else frames


def color_jitter(
    frames: Float[Tensor, "t 3 h w"],
    *,
    brightness: int | float = 0.2,
    contrast: int | float = 0.2,
    saturation: int | float = 0.2,
    generator: torch.Generator,
) -> Float[Tensor, "t 3 h w"]:
    """Change brightness, contrast and saturation by random factors, the same for every frame; see `adjust_color`.

    Changes how light and how colourful everything is, but no hue: not for labels such as "dark", "day or night" or
    "grey", nor with large factors for the names of colours.

    Args:
        frames: red, green and blue, normalised to -1..1.
        brightness, contrast, saturation: each factor lies between 1 - this and 1 + this, at most 1.
        generator: gives the factors; three numbers are drawn.

    Raises:
        ValueError: if one of them is not between 0 and 1.
    """
    spans = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, span in spans.items():
        if not 0 <= span <= 1:
            raise ValueError(f"{name}={span} is not between 0 and 1")
    factors = {name: _number(1 - span, 1 + span, generator) for name, span in spans.items()}
    return adjust_color(frames, **factors)


def _brightness(values: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 1 h w"]:
    weights = values.new_tensor(LUMA)[:, None, None]
    return reduce(values * weights, "t c h w -> t 1 h w", "sum")


def _number(low: int | float, high: int | float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _whole_number(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(most + 1, (), generator=generator).item())
