"""A picture network reads every frame by itself, and an LSTM walks over what it saw, frame by frame."""

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from minivid.layers.conv3d import Conv3d
from minivid.layers.linear import Linear
from minivid.layers.lstm import LSTM
from minivid.layers.norms import GroupNorm
from minivid.models.clip_classifier import ClipClassifier, ClipConfig


@dataclass(frozen=True)
class ConvLSTMConfig(ClipConfig):
    """The numbers of a frame network with an LSTM behind it.

    Attributes:
        image_size: height and width of a frame, in pixels; a multiple of 2 for each stage of the frame network.
        num_frames, num_channels, num_labels: as in ClipConfig.
        hidden_dropout_prob: share of the features set to zero while training.
        initializer_range: standard deviation of the classifier's first weights.
        conv_sizes: channels of each stage of the frame network; every stage halves height and width.
        hidden_size: width d of the LSTM.
        num_hidden_layers: layers of the LSTM.
        group_norm_eps: keeps a normalisation away from division by zero.

    Raises:
        ValueError: if the numbers do not fit together.
    """

    image_size: int = 112
    num_frames: int = 16
    conv_sizes: tuple[int, ...] = (32, 64, 128, 256)
    hidden_size: int = 512
    num_hidden_layers: int = 1
    group_norm_eps: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        self.check_at_least_one("conv_sizes", "hidden_size", "num_hidden_layers")
        if self.image_size % 2 ** len(self.conv_sizes):
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of {2 ** len(self.conv_sizes)}, which the "
                f"{len(self.conv_sizes)} stages of conv_sizes {self.conv_sizes} halve away"
            )
        if self.group_norm_eps <= 0:
            raise ValueError(f"group_norm_eps={self.group_norm_eps} is not above 0")

    @property
    def num_moments(self) -> int:
        """Moments that the model keeps apart: every frame."""
        return self.num_frames


SMALL_CONFIG = ConvLSTMConfig(
    image_size=32, num_frames=8, num_labels=4, conv_sizes=(16, 32), hidden_size=64, initializer_range=0.1
)
"""For clips of 8 frames of 32 x 32 pixels: learns the four motions of the generated clips in 200 to 400 steps."""


class ConvLSTM(ClipClassifier):
    """Convolutions turn each frame into a vector, an LSTM reads the vectors in order, and its last output answers.

    The vectors are laid out place by place, not averaged over places: where the object is in each frame is all that an
    LSTM can tell motion from. (This is the long-term recurrent network of Donahue et al. A "ConvLSTM" is elsewhere also
    an LSTM whose own steps are convolutions: Shi et al. 2015, arXiv:1506.04214.)

    Args:
        config: the numbers.

    Source: Donahue et al. 2015, section 3 (arXiv:1411.4389).
    """

    def __init__(self, config: ConvLSTMConfig):
        super().__init__(config)
        widths = (config.num_channels, *config.conv_sizes)
        self.frame_network = nn.Sequential()
        for before, after in zip(widths, config.conv_sizes, strict=False):
            self.frame_network.append(
                nn.Sequential(
                    # A kernel one frame deep: the convolution of a picture. No bias: the norm adds one.
                    Conv3d(before, after, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False),
                    GroupNorm(1, after, config.group_norm_eps),
                    nn.ReLU(),
                )
            )
        side = config.image_size // 2 ** len(config.conv_sizes)
        self.projection = Linear(config.conv_sizes[-1] * side**2, config.hidden_size)
        self.lstm = LSTM(config.hidden_size, config.hidden_size, config.num_hidden_layers, batch_first=True)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: kernels as in He et al., classifier normal, the rest as the layers have it.

        Source: He et al. 2015, equation 14 (arXiv:1502.01852).
        """
        for module in self.modules():
            if isinstance(module, Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, GroupNorm | LSTM):
                module.reset_parameters()
        self.projection.reset_parameters()
        nn.init.normal_(self.classifier.weight, std=self.config.initializer_range)
        nn.init.zeros_(self.classifier.bias)

    def frame_features(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t d"]:
        """What the LSTM reads: one vector for each frame, made of that frame alone.

        Args:
            clips: normalised pixels, of the size in the configuration.

        Raises:
            ShapeError: if the clips have another size.
        """
        self.check_clips(clips)
        frames = rearrange(clips, "b t c h w -> (b t) c 1 h w")
        maps = self.frame_network(frames)  # (b t) c 1 h w, each stage half as high and wide
        vectors = self.projection(maps.flatten(1))  # (b t) d
        return rearrange(vectors, "(b t) d -> b t d", b=len(clips))

    def moment_features(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b m d"]:
        """The LSTM's output after each frame, which knows that frame and those before it.

        Args:
            clips, Raises: as in `frame_features`.
        """
        return self.lstm(self.frame_features(clips))[0]  # b t d

    def features(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b d"]:
        """The LSTM's output after the last frame, which has seen all.

        Args:
            clips, Raises: as in `frame_features`.
        """
        return self.moment_features(clips)[:, -1]
