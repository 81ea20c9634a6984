"""What every video classifier here has in common: a clip becomes features, and one linear layer reads a class off."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.shapes import ShapeError


@dataclass(frozen=True)
class ClipConfig:
    """The numbers that every video classifier has.

    Attributes:
        image_size: height and width of a frame, in pixels.
        num_frames: frames t of a clip.
        num_channels: channels c of a frame.
        num_labels: classes v.
        hidden_dropout_prob: share of numbers set to zero while training.
        initializer_range: standard deviation of the first weights.

    Raises:
        ValueError: if a number is out of range.
    """

    image_size: int
    num_frames: int
    num_channels: int = 3
    num_labels: int = 2
    hidden_dropout_prob: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self):
        self.check_at_least_one("image_size", "num_frames", "num_channels", "num_labels")
        if not 0.0 <= self.hidden_dropout_prob < 1.0:
            raise ValueError(f"hidden_dropout_prob={self.hidden_dropout_prob} is not in 0 <= p < 1")
        if self.initializer_range <= 0:
            raise ValueError(f"initializer_range={self.initializer_range} is not above 0")

    def check_at_least_one(self, *names: str) -> None:
        """Refuse numbers below 1, or lists that hold one or are empty.

        Args:
            names: of the fields.

        Raises:
            ValueError: if there is one.
        """
        for name in names:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or min(numbers) < 1:
                raise ValueError(f"{name}={value} is not at least 1")


class ClipClassifier(nn.Module):
    """A network that gives features of a clip, and a linear layer `classifier` that scores every class.

        logits = W features(clips) + b

    A class below this one has the layer `classifier`, gives `moment_features` and, where they are not simply averaged,
    `features`.

    Args:
        config: the numbers.
    """

    classifier: nn.Linear

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config = config

    def forward(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b v"]:
        """Score every class for every clip.

        Args:
            clips: normalised pixels, of the size in the configuration.

        Returns:
            Logits; softmax makes probabilities of them.

        Raises:
            ShapeError: if the clips have another size.
        """
        features = F.dropout(self.features(clips), self.config.hidden_dropout_prob, self.training)  # b d
        return self.classifier(features)  # b v

    def features(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b d"]:
        """What the classifier reads: one vector for each clip, here the mean of its moments.

        Args:
            clips: as in `forward`.

        Raises:
            ShapeError: as in `forward`.
        """
        return self.moment_features(clips).mean(1)

    def moment_features(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b m d"]:
        """One vector for each of the m moments that the model keeps apart along time.

        Args:
            clips: as in `forward`.

        Raises:
            ShapeError: as in `forward`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no moment_features")

    def example_inputs(self, batch: int = 1) -> tuple[Float[Tensor, "b t c h w"]]:
        """Clips of zeros of the size that `forward` takes.

        Args:
            batch: how many clips.
        """
        return (torch.zeros(batch, *self._clip_shape()),)

    def check_clips(self, clips: Float[Tensor, "..."]) -> None:
        """Refuse clips of another size than the configuration's.

        Args:
            clips: as in `forward`.

        Raises:
            ShapeError: if they have another size.
        """
        if clips.ndim != 5 or tuple(clips.shape[1:]) != self._clip_shape():
            raise ShapeError(
                f"clips: shape {tuple(clips.shape)}, expected b t c h w with t c h w = {self._clip_shape()}; "
                "sample and resize the clip to the size the model was made for"
            )

    def _clip_shape(self) -> tuple[int, int, int, int]:
        c = self.config
        return c.num_frames, c.num_channels, c.image_size, c.image_size
