"""R(2+1)D: residual blocks whose convolutions look within a frame, then across frames, with fewer and fewer places."""

from dataclasses import dataclass

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from minivid.layers.conv3d import Conv2Plus1d, Conv3d, Triple, middle_channels
from minivid.layers.linear import Linear
from minivid.layers.norms import GroupNorm
from minivid.models.clip_classifier import ClipClassifier, ClipConfig


@dataclass(frozen=True)
class Conv3dClassifierConfig(ClipConfig):
    """The numbers of an R(2+1)D network; the defaults are those of the published one with 18 layers.

    Attributes:
        image_size, num_frames, num_channels, num_labels: as in ClipConfig.
        hidden_dropout_prob: share of the features set to zero while training.
        initializer_range: standard deviation of the classifier's first weights; the kernels have He et al.'s.
        hidden_sizes: channels of each stage; every stage but the first halves time, height and width.
        depths: residual blocks of each stage.
        stem_size: side of the first kernel, in pixels, odd; it takes every second row and column, and three frames.
        group_norm_eps: keeps a normalisation away from division by zero.

    Raises:
        ValueError: if the numbers do not fit together.
    """

    image_size: int = 112
    num_frames: int = 16
    hidden_sizes: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    stem_size: int = 7
    group_norm_eps: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        self.check_at_least_one("hidden_sizes", "depths", "stem_size")
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(
                f"hidden_sizes {self.hidden_sizes} has {len(self.hidden_sizes)} stages and depths {self.depths} has "
                f"{len(self.depths)}; give one number of each for every stage"
            )
        if self.stem_size % 2 == 0:
            raise ValueError(f"stem_size={self.stem_size} is not odd: only then has the kernel a middle")
        if self.group_norm_eps <= 0:
            raise ValueError(f"group_norm_eps={self.group_norm_eps} is not above 0")

    @property
    def num_moments(self) -> int:
        """Moments that the last stage keeps apart: frames, halved by every stage but the first, rounded up."""
        return -(-self.num_frames // 2 ** (len(self.depths) - 1))


SMALL_CONFIG = Conv3dClassifierConfig(
    image_size=32,
    num_frames=8,
    num_labels=4,
    hidden_sizes=(8, 16, 32),
    depths=(1, 1, 1),
    stem_size=3,
    initializer_range=0.1,
)
"""For clips of 8 frames of 32 x 32 pixels: learns the four motions of the generated clips in 150 steps."""


class Factorised(nn.Sequential):
    """A (2+1)D convolution as published: within the frame, norm, ReLU, across frames, norm.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as in Conv2Plus1d.
        eps: of both norms.

    Source: Tran et al. 2018, section 3.5 (arXiv:1711.11248).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = 1,
        padding: Triple = 0,
        *,
        eps: float = 1e-5,
    ):
        between = nn.Sequential(GroupNorm(1, middle_channels(in_channels, out_channels, kernel_size), eps), nn.ReLU())
        # No bias: the norms behind add one.
        super().__init__(
            Conv2Plus1d(in_channels, out_channels, kernel_size, stride, padding, activation=between, bias=False),
            GroupNorm(1, out_channels, eps),
        )


class ResidualBlock(nn.Module):
    """Two (2+1)D convolutions, added to what was there.

        output = relu(shortcut(x) + second(relu(first(x))))

    Where the size changes, the shortcut is a convolution of one number a channel, else nothing.

    Args:
        in_channels, out_channels: channels of the input and the result.
        stride: 2 halves time, height and width.
        eps: of the norms.

    Source: He et al. 2016, section 3.3, option B (arXiv:1512.03385); Tran et al. 2018, section 3.5 (arXiv:1711.11248).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, eps: float = 1e-5):
        super().__init__()
        self.first = Factorised(in_channels, out_channels, 3, stride, 1, eps=eps)
        self.second = Factorised(out_channels, out_channels, 3, 1, 1, eps=eps)
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                Conv3d(in_channels, out_channels, 1, stride, bias=False), GroupNorm(1, out_channels, eps)
            )

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c_out t_out h_out w_out"]:
        """Change the clip a little; with stride 2, to half its size, rounded up.

        Args:
            x: the clip, with c = in_channels.

        Raises:
            ShapeError: if it has other channels.
        """
        return torch.relu(self.shortcut(x) + self.second(torch.relu(self.first(x))))


class Conv3dClassifier(ClipClassifier):
    """A residual network of (2+1)D convolutions; the mean over all places of its last stage is what tells the class.

    Group norm with one group stands where the published network has batch norm: an answer then depends on no other clip
    of the batch, so that small batches, accumulated batches and batches spread over processes train alike.

    Args:
        config: the numbers.

    Source: Tran et al. 2018, table 1 and section 3.5 (arXiv:1711.11248); the norm: Wu and He 2018 (arXiv:1803.08494).
    """

    def __init__(self, config: Conv3dClassifierConfig):
        super().__init__(config)
        width, eps = config.hidden_sizes[0], config.group_norm_eps
        side = config.stem_size
        self.stem = Factorised(
            config.num_channels, width, (3, side, side), (1, 2, 2), (1, side // 2, side // 2), eps=eps
        )
        self.stages = nn.ModuleList()
        for number, (size, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
            stage = nn.Sequential()
            for block in range(depth):
                stage.append(ResidualBlock(width, size, 2 if number > 0 and block == 0 else 1, eps=eps))
                width = size
            self.stages.append(stage)
        self.classifier = Linear(width, config.num_labels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: kernels as in He et al., the classifier normal; biases zero, scales one.

        Source: He et al. 2015, equation 14 (arXiv:1502.01852).
        """
        for module in self.modules():
            if isinstance(module, Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, GroupNorm):
                module.reset_parameters()
        nn.init.normal_(self.classifier.weight, std=self.config.initializer_range)
        nn.init.zeros_(self.classifier.bias)

    def moment_features(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b m d"]:
        """One vector for each moment of the last stage: the mean over its rows and columns.

        Args:
            clips: normalised pixels, of the size in the configuration.

        Raises:
            ShapeError: if the clips have another size.
        """
        self.check_clips(clips)
        x = torch.relu(self.stem(clips.transpose(1, 2)))  # b c t h/2 w/2
        for stage in self.stages:
            x = stage(x)  # b c t h w, from the second on half as long, high and wide
        return reduce(x, "b c t h w -> b t c", "mean")
