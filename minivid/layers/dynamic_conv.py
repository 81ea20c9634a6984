"""Dynamic convolution: every clip chooses its own mixture of several kernels."""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from minivid.layers.attention import softmax
from minivid.layers.conv3d import Conv3d, Triple, conv3d
from minivid.layers.linear import Linear
from minivid.shapes import ShapeError


def dynamic_conv3d(
    input: Float[Tensor, "b c t h w"],
    attention: Float[Tensor, "b kernels"],
    weight: Float[Tensor, "kernels c_out c_group k_t k_h k_w"],
    bias: Float[Tensor, "kernels c_out"] | None = None,
    stride: Triple = 1,
    padding: Triple | str = 0,
    dilation: Triple = 1,
    groups: int = 1,
) -> Float[Tensor, "b c_out t_out h_out w_out"]:
    """Convolve each clip with its own weighted sum of kernels.

        output_b = conv3d(input_b, sum_k attention_bk weight_k, sum_k attention_bk bias_k)

    A convolution is linear in its kernel, so this equals the weighted sum of all the convolutions; but the clip is
    gone over once, not once a kernel.

    Args:
        input: the clips.
        attention: how much of each kernel each clip takes; usually rows that sum to one.
        weight: the kernels, each as in `conv3d`.
        bias: the biases, mixed as the kernels are; None = nothing.
        stride, padding, dilation, groups: as in `conv3d`.

    Returns:
        As `conv3d`.

    Raises:
        ShapeError: if attention does not give a number for every clip and kernel, or as for `conv3d`.
        ValueError: as for `conv3d`.

    Source: Chen et al. 2020, equation 2 (arXiv:1912.03458).
    """
    b = input.shape[0]
    if attention.shape != (b, weight.shape[0]):
        raise ShapeError(
            f"attention: shape {tuple(attention.shape)}, expected b kernels = {(b, weight.shape[0])}; "
            "every clip has one number for every kernel"
        )
    mixed = torch.einsum("bn,nocijk->bocijk", attention, weight)
    added = None if bias is None else rearrange(attention @ bias, "b o -> (b o)")
    # Clips side by side as groups of channels: groups never meet, so each clip meets its own kernel in one call.
    side_by_side = rearrange(input, "b c t h w -> 1 (b c) t h w")
    kernels = rearrange(mixed, "b o c i j k -> (b o) c i j k")
    output = conv3d(side_by_side, kernels, added, stride, padding, dilation, b * groups)
    return rearrange(output, "1 (b o) t h w -> b o t h w", b=b)


class DynamicConv3d(nn.Module):
    """Several kernels, and a small network that looks at the whole clip and says how to mix them.

        attention = softmax(W_2 relu(W_1 mean(input)) / temperature),   output = dynamic_conv3d(input, attention, ...)

    The mean is over time, height and width, so that the mixture does not depend on where something happens.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as in `Conv3d`.
        kernels: how many kernels are mixed.
        reduction: the hidden layer is in_channels / reduction wide, at least 1.
        temperature: scores are divided by it; large = nearly the plain mean of the kernels, so that all of them learn
            at first. The paper starts at 30 and lowers it to 1 over ten epochs: set the attribute.

    Raises:
        ValueError: if kernels or reduction is below 1, temperature not above 0 or infinite, or as for `Conv3d`.

    Source: Chen et al. 2020, section 3 (arXiv:1912.03458).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = 1,
        padding: Triple | str = 0,
        dilation: Triple = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        kernels: int = 4,
        reduction: int = 4,
        temperature: float = 30.0,
    ):
        super().__init__()
        if kernels < 1 or reduction < 1:
            raise ValueError(f"kernels is {kernels} and reduction {reduction}, expected both at least 1")
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}, expected a finite number above 0")
        # Each drawn as one convolution of its own: they start different, or they would stay alike for ever.
        drawn = [
            Conv3d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
            for _ in range(kernels)
        ]
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.in_channels = in_channels
        self.temperature = temperature
        self.weight = nn.Parameter(torch.stack([each.weight.detach() for each in drawn]))
        self.bias = nn.Parameter(torch.stack([each.bias.detach() for each in drawn])) if bias else None
        hidden = max(1, in_channels // reduction)
        self.squeeze = Linear(in_channels, hidden)
        self.score = Linear(hidden, kernels)

    def attention(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b kernels"]:
        """How much of each kernel each clip takes: rows that sum to one.

        Args:
            input: the clips.

        Raises:
            ShapeError: if the clips have other channels than the constructor says.
        """
        if input.ndim != 5 or input.shape[1] != self.in_channels:
            raise ShapeError(f"input: shape {tuple(input.shape)}, expected b c t h w with c={self.in_channels}")
        seen = reduce(input, "b c t h w -> b c", "mean")
        return softmax(self.score(self.squeeze(seen).relu()) / self.temperature)

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c_out t_out h_out w_out"]:
        """Convolve each clip with the mixture of kernels that it asks for.

        Args:
            input: the clips, with c = in_channels.

        Raises:
            ShapeError: as for `Conv3d`.
        """
        return dynamic_conv3d(
            input,
            self.attention(input),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )
