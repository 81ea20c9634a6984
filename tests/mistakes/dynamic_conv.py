"""Classic wrong answers about dynamic convolution, each with three hints of increasing directness."""

from collections.abc import Callable, Iterator

import torch
from einops import rearrange
from strategies import normal
from torch.nn import functional as F

from minivid.classroom.museum import Mistake, Probe
from minivid.layers import dynamic_conv as library

# ---- dynamic_conv3d


def right(input, attention, weight, bias, settings):
    return library.dynamic_conv3d(input, attention, weight, bias, *settings)


def changed(change: Callable) -> Callable:
    """dynamic_conv3d with its arguments changed first."""

    def dynamic_conv3d(input, attention, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        return right(*change(input, attention, weight, bias), (stride, padding, dilation, groups))

    return dynamic_conv3d


one_mixture_for_all = changed(lambda x, a, w, b: (x, a.mean(0, keepdim=True).expand_as(a), w, b))
first_mixture_for_all = changed(lambda x, a, w, b: (x, a[:1].expand_as(a), w, b))
mixtures_in_reverse = changed(lambda x, a, w, b: (x, a.flip(0), w, b))
softmax_again = changed(lambda x, a, w, b: (x, a.softmax(-1), w, b))
divided_by_its_sum = changed(lambda x, a, w, b: (x, a / a.sum(-1, keepdim=True), w, b))
largest_alone = changed(lambda x, a, w, b: (x, F.one_hot(a.argmax(-1), a.shape[-1]).to(a.dtype), w, b))
mean_of_kernels = changed(lambda x, a, w, b: (x, torch.full_like(a, 1 / a.shape[-1]), w, b))
sum_of_kernels = changed(lambda x, a, w, b: (x, torch.ones_like(a), w, b))
divided_by_the_number = changed(lambda x, a, w, b: (x, a / a.shape[-1], w, b))
bias_forgotten = changed(lambda x, a, w, b: (x, a, w, None))
absolute_shares = changed(lambda x, a, w, b: (x, a.abs(), w, b))


def bias_not_mixed(input, attention, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = right(input, attention, weight, None, (stride, padding, dilation, groups))
    return output if bias is None else output + bias.sum(0)[:, None, None, None]


def bias_of_the_first_kernel(input, attention, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = right(input, attention, weight, None, (stride, padding, dilation, groups))
    return output if bias is None else output + bias[0][:, None, None, None]


def mean_of_the_biases(input, attention, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = right(input, attention, weight, None, (stride, padding, dilation, groups))
    return output if bias is None else output + bias.mean(0)[:, None, None, None]


def clips_added_up(input, attention, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    # Clips are put among the channels, but not as groups: every clip meets every kernel.
    output = right(input, attention, weight, bias, (stride, padding, dilation, groups))
    return output.sum(0, keepdim=True).expand_as(output)


def clips_and_channels_exchanged(input, attention, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    output = right(input, attention, weight, bias, (stride, padding, dilation, groups))
    b = len(input)
    return rearrange(rearrange(output, "b o t h w -> (b o) t h w"), "(o b) t h w -> b o t h w", b=b)


def settings_ignored(input, attention, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return library.dynamic_conv3d(input, attention, weight, bias, groups=groups)


DYNAMIC_CONV3D = [
    (
        one_mixture_for_all,
        (
            "With one clip it is right. Which mixture does the second of two clips get?",
            "The mixtures of all clips are averaged, so that clips depend on each other.",
            'A kernel for every clip: torch.einsum("bn,nocijk->bocijk", attention, weight)',
        ),
    ),
    (
        first_mixture_for_all,
        (
            "With one clip it is right. Which mixture does the second of two clips get?",
            "All clips are convolved with the kernel of the first.",
            'A kernel for every clip: torch.einsum("bn,nocijk->bocijk", attention, weight)',
        ),
    ),
    (
        mixtures_in_reverse,
        (
            "With one clip it is right. Which mixture does the second of two clips get?",
            "The mixtures are handed out in the wrong order.",
            "Row b of attention belongs to clip b.",
        ),
    ),
    (
        softmax_again,
        (
            "Give a mixture of one 1 and zeros. Which kernel is used?",
            "The softmax is taken here, but the attention has been through one already.",
            "Use the numbers of attention as they are.",
        ),
    ),
    (
        divided_by_its_sum,
        (
            "Give twice the mixture. What should become of the result?",
            "The mixture is divided by its sum; whoever makes it sees to that.",
            "Use the numbers of attention as they are.",
        ),
    ),
    (
        largest_alone,
        (
            "Give half of one kernel and half of another. What comes out?",
            "Only the kernel with the largest share is used.",
            "Add up all the kernels, each times its share.",
        ),
    ),
    (
        mean_of_kernels,
        (
            "Give a mixture of one 1 and zeros. Which kernel is used?",
            "The kernels are averaged; attention is not used.",
            'torch.einsum("bn,nocijk->bocijk", attention, weight)',
        ),
    ),
    (
        sum_of_kernels,
        (
            "Give a mixture of one 1 and zeros. Which kernel is used?",
            "The kernels are added up; attention is not used.",
            'torch.einsum("bn,nocijk->bocijk", attention, weight)',
        ),
    ),
    (
        divided_by_the_number,
        (
            "Give a mixture of one 1 and zeros. By what factor is the result off?",
            "The mixture is a mean over the kernels; the shares say already how much of each there is.",
            "A sum, not a mean.",
        ),
    ),
    (
        bias_forgotten,
        (
            "What comes out of a black clip?",
            "The bias is not used.",
            "attention @ bias is the bias of each clip.",
        ),
    ),
    (
        absolute_shares,
        (
            "Give a share of -1. What should become of that kernel's result?",
            "The shares lose their sign.",
            "Use the numbers of attention as they are.",
        ),
    ),
    (
        bias_not_mixed,
        (
            "What comes out of a black clip, for two mixtures?",
            "The biases of all kernels are added up; they are mixed as the kernels are.",
            "attention @ bias is the bias of each clip.",
        ),
    ),
    (
        mean_of_the_biases,
        (
            "What comes out of a black clip, for two mixtures?",
            "The biases are averaged, whatever the mixture; they are mixed as the kernels are.",
            "attention @ bias is the bias of each clip.",
        ),
    ),
    (
        bias_of_the_first_kernel,
        (
            "What comes out of a black clip, for two mixtures?",
            "The bias of the first kernel is taken; biases are mixed as the kernels are.",
            "attention @ bias is the bias of each clip.",
        ),
    ),
    (
        clips_added_up,
        (
            "With one clip it is right. Does the first clip's result depend on the second?",
            "The clips stand side by side as channels, and every kernel sums over all of them.",
            "groups = b * groups: groups never meet, so each clip meets its own kernel.",
        ),
    ),
    (
        clips_and_channels_exchanged,
        (
            "With one clip, or one output channel, it is right. Whose channel comes second?",
            "Clips and channels are unpacked in the other order than they were packed.",
            'rearrange(output, "1 (b o) t h w -> b o t h w", b=b)',
        ),
    ),
    (
        settings_ignored,
        (
            "With stride 1, no padding and no dilation it is right.",
            "stride, padding and dilation are not used.",
            "Hand stride, padding and dilation on to conv3d.",
        ),
    ),
]

# ---- DynamicConv3d


class Scored(library.DynamicConv3d):
    """The scores of a clip, with steps that a mistake can change."""

    def mean(self, input):
        return input.mean((2, 3, 4))

    def hidden(self, seen):
        return self.squeeze(seen).relu()

    def shares(self, scores):
        return (scores / self.temperature).softmax(-1)

    def attention(self, input):
        return self.shares(self.score(self.hidden(self.mean(input))))


class TemperatureMultiplied(Scored):
    def shares(self, scores):
        return (scores * self.temperature).softmax(-1)


class TemperatureForgotten(Scored):
    def shares(self, scores):
        return scores.softmax(-1)


class TemperatureBehindTheSoftmax(Scored):
    def shares(self, scores):
        return scores.softmax(-1) / self.temperature


class NoSoftmax(Scored):
    def shares(self, scores):
        return scores / self.temperature


class SoftmaxOverClips(Scored):
    def shares(self, scores):
        return (scores / self.temperature).softmax(0)


class Sigmoids(Scored):
    def shares(self, scores):
        return (scores / self.temperature).sigmoid()


class NoRelu(Scored):
    def hidden(self, seen):
        return self.squeeze(seen)


class LargestInsteadOfMean(Scored):
    def mean(self, input):
        return input.amax((2, 3, 4))


class FirstFrameAlone(Scored):
    def mean(self, input):
        return input[:, :, 0].mean((2, 3))


class SumInsteadOfMean(Scored):
    def mean(self, input):
        return input.sum((2, 3, 4))


class MeanOfTheBatch(Scored):
    def mean(self, input):
        return input.mean((0, 2, 3, 4)).expand(len(input), -1)


class BiasOfTheFirstKernel(library.DynamicConv3d):
    def forward(self, input):
        output = library.dynamic_conv3d(input, self.attention(input), self.weight)
        return output + self.bias[0][:, None, None, None]


class FirstKernelAlone(library.DynamicConv3d):
    def forward(self, input):
        chosen = torch.zeros(len(input), len(self.weight))
        chosen[:, 0] = 1.0
        return library.dynamic_conv3d(input, chosen, self.weight, self.bias)


DYNAMIC_CONV3D_MODULE = [
    (
        TemperatureMultiplied,
        (
            "With a temperature of 1 it is right. What should a high one do to the shares?",
            "The scores are multiplied by the temperature; a high one should make the shares even.",
            "softmax(scores / self.temperature)",
        ),
    ),
    (
        TemperatureForgotten,
        (
            "With a temperature of 1 it is right. Try 4.",
            "The temperature is not used.",
            "softmax(scores / self.temperature)",
        ),
    ),
    (
        TemperatureBehindTheSoftmax,
        (
            "With a temperature of 1 it is right. What do the shares sum to with 4?",
            "The shares are divided instead of the scores.",
            "softmax(scores / self.temperature)",
        ),
    ),
    (
        NoSoftmax,
        (
            "What do the shares of one clip sum to?",
            "The scores are used as they are; a softmax makes shares of them.",
            "softmax(scores / self.temperature)",
        ),
    ),
    (
        SoftmaxOverClips,
        (
            "What do the shares of one clip sum to?",
            "The softmax runs over the clips; every clip shares one among the kernels.",
            "softmax over the last axis of b kernels.",
        ),
    ),
    (
        Sigmoids,
        (
            "What do the shares of one clip sum to?",
            "Each kernel is gated by itself, by a sigmoid; in the paper they share one.",
            "softmax(scores / self.temperature)",
        ),
    ),
    (
        NoRelu,
        (
            "What stands between the two small layers?",
            "Nothing: the two are one matrix. A ReLU belongs between them.",
            "self.score(self.squeeze(seen).relu())",
        ),
    ),
    (
        LargestInsteadOfMean,
        (
            "What does the small network see of a clip: print it.",
            "It sees the largest number of each channel; it should see the mean.",
            'reduce(input, "b c t h w -> b c", "mean")',
        ),
    ),
    (
        FirstFrameAlone,
        (
            "With one frame it is right. Does the last frame change the shares?",
            "The mean runs over the first frame alone.",
            'reduce(input, "b c t h w -> b c", "mean")',
        ),
    ),
    (
        SumInsteadOfMean,
        (
            "Show the clip twice, one after the other in time: do the shares change?",
            "The sum grows with the clip; the mean does not.",
            'reduce(input, "b c t h w -> b c", "mean")',
        ),
    ),
    (
        MeanOfTheBatch,
        (
            "With one clip it is right. Do the shares of the first of two depend on the second?",
            "The mean runs over the clips too, so that all get the same shares.",
            'reduce(input, "b c t h w -> b c", "mean")',
        ),
    ),
    (
        BiasOfTheFirstKernel,
        (
            "What comes out of a black clip?",
            "The bias of the first kernel is taken; biases are mixed as the kernels are.",
            "dynamic_conv3d(input, self.attention(input), self.weight, self.bias, ...)",
        ),
    ),
    (
        FirstKernelAlone,
        (
            "Do the shares change the result?",
            "Only the first kernel is used.",
            "dynamic_conv3d(input, self.attention(input), self.weight, self.bias, ...)",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "dynamic_conv3d": [Mistake(*row) for row in DYNAMIC_CONV3D],
    "DynamicConv3d": [Mistake(*row) for row in DYNAMIC_CONV3D_MODULE],
}


def probes(name: str) -> Iterator[Probe]:
    """Uses on which every two of the mistakes above differ."""
    if name == "DynamicConv3d":
        yield module_used
        return
    input, attention = normal(0, 3, 4, 4, 5, 6), normal(1, 3, 2)
    weight, bias = normal(2, 2, 6, 2, 2, 1, 3), normal(3, 2, 6)
    yield (input, attention, weight, bias, 1, 0, 1, 2), {}
    yield (input, attention, weight, None, (1, 2, 1), (1, 0, 2), (2, 1, 1), 2), {}
    yield (input[:1], attention[:1], weight, bias), {"groups": 2}


def module_used(module_of: Callable) -> list:
    """Load a module and use it."""
    module = module_of(4, 2, (1, 2, 1), kernels=3, reduction=2, temperature=0.7)
    shapes = {
        "weight": (3, 2, 4, 1, 2, 1),
        "bias": (3, 2),
        "squeeze.weight": (2, 4),
        "squeeze.bias": (2,),
        "score.weight": (3, 2),
        "score.bias": (3,),
    }
    module.load_state_dict({key: normal(seed, *shape) for seed, (key, shape) in enumerate(shapes.items())})
    clips = normal(9, 2, 4, 3, 2, 2)
    return [module.attention(clips), module(clips)]
