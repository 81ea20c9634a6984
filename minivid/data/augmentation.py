"""Random changes of training clips, chosen by name: only such as leave most labels true."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from minivid.data.moving_shapes import roll
from minivid.video.augment import color_jitter, random_flip, random_resized_crop


def _crop(frames: Tensor, generator: torch.Generator) -> Tensor:
    return random_resized_crop(frames, tuple(frames.shape[-2:]), generator=generator)


def _flip(frames: Tensor, generator: torch.Generator) -> Tensor:
    return random_flip(frames, generator=generator)


def _color(frames: Tensor, generator: torch.Generator) -> Tensor:
    return color_jitter(frames, generator=generator)


CHANGES = {
    "crop": (_crop, "a random rectangle, resized: not for labels of place, size or speed"),
    "flip": (_flip, "mirrored or not: not where left and right differ"),
    "color": (_color, "brightness, contrast and saturation: not for labels of light or colour"),
    "roll": (roll, "moved round joined edges: for the clips of make-clips"),
}
"""Name to function and what it does; frames of time are never reordered, because what a clip shows hangs on that."""


@dataclass(frozen=True)
class Augmentation:
    """Changes a clip in each of the named ways, one after the other, all frames alike.

    Attributes:
        names: keys of CHANGES, in the order in which they are done; none = clips stay as they are.

    Raises:
        ValueError: if there is no such change, or one is named twice.
    """

    names: tuple[str, ...]

    def __post_init__(self):
        if unknown := [name for name in self.names if name not in CHANGES]:
            raise ValueError(f"augment: there is no {unknown[0]!r}; there are {', '.join(CHANGES)}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"augment: {', '.join(self.names)} names one change twice")

    def __call__(self, frames: Float[Tensor, "t c h w"], generator: torch.Generator) -> Float[Tensor, "t c h w"]:
        """Change a clip.

        Args:
            frames: normalised pixels.
            generator: decides all that is random.
        """
        for name in self.names:
            frames = CHANGES[name][0](frames, generator)
        return frames


def parse_changes(text: str) -> Sequence[str]:
    """Read names with commas between them: crop,color; none = no change at all."""
    return () if text.strip() in ("", "none") else tuple(name.strip() for name in text.split(","))
