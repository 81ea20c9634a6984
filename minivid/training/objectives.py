"""Objectives: what a training minimises and how it is measured, for labels of three kinds and for unlabelled clips."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor, nn

from minivid.data.batches import Examples, Inputs, runs, stack
from minivid.layers.linear import Linear
from minivid.layers.norms import LayerNorm
from minivid.layers.patch_embed import box_grid, tubelets
from minivid.layers.transformer import EncoderBlock
from minivid.models.vivit import ViViT
from minivid.shapes import Grid, ShapeError
from minivid.training.cross_entropy import binary_cross_entropy_with_logits, cross_entropy
from minivid.training.metrics import accuracy
from minivid.training.processes import done_in_turns, rows_of_all, share

Generators = Sequence[torch.Generator] | None


@runtime_checkable
class Objective(Protocol):
    """What a training minimises, and what is measured of it on clips that are held back.

    Attributes:
        figures: the names of what `measure` gives.
    """

    figures: ClassVar[tuple[str, ...]]

    def loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        labels: Num[Tensor, "b ..."],
        generators: Generators,
    ) -> tuple[Float[Tensor, ""], Tensor | int]:
        """The loss, summed over all that counts, and how much counts.

        Their quotient is the mean that a training minimises. Both are given, and not the quotient, because the mean of
        a large batch is the sum of its parts' sums, divided once by the sum of their counts, but not the mean of its
        parts' means.

        Args:
            model: called as a whole, so that it may be wrapped for many processes.
            inputs: normalised pixels b t c h w, or what else the model is called with.
            labels: one a clip: a class number, or numbers.
            generators: one a clip, for all that is random about that clip; None where nothing is.
        """
        ...

    def measure(self, model: nn.Module, data: Examples, *, batch_size: int = 64) -> dict[str, float]:
        """Figures about held-back clips, by names that begin with `validation_`; `validation_loss` is always there.

        Where processes train together, every one of them makes this call, answers for some of the clips, and gets the
        figures of all.

        Args:
            model: comes back in the mode, training or evaluation, that it came in.
            data: labelled clips.
            batch_size: how many clips are put at once; of no influence on the figures.
        """
        ...


@torch.no_grad()
def respond(
    model: nn.Module,
    data: Examples,
    *,
    batch_size: int = 64,
    on_batch: Callable[[int], object] | None = None,
    together: bool = False,
) -> tuple[Float[Tensor, "b ..."], Num[Tensor, "b ..."]]:
    """Put every clip to a model and keep what it puts out.

    Args:
        model: from clips b t c h w to one row of numbers a clip.
        data: labelled clips.
        batch_size: how many clips are put at once; of no influence on the outputs.
        on_batch: called after each batch with the number of its clips, for a progress bar.
        together: whether all processes that train together make this call, so that each puts only its share.

    Returns:
        Outputs and labels, in the order of the data. The model is in the mode, training or evaluation, that it came in.

    Raises:
        ValueError: if there is no clip.
    """
    if len(data) == 0:
        raise ValueError("data: 0 clips, expected at least 1 to evaluate on")
    mode, device = model.training, _device(model)

    def put(places: range) -> tuple[Tensor, Tensor]:
        clips, labels = stack([data[i] for i in places])
        outputs = model(clips.to(device)).cpu()
        if on_batch is not None:
            on_batch(len(labels))
        return outputs, labels

    model.eval()
    try:
        if together:
            processes = share().processes
            turns = math.ceil(len(data) / (batch_size * processes))
            parts = done_in_turns(runs(len(data), math.ceil(len(data) / (turns * processes))), put)
        else:
            parts = [put(places) for places in runs(len(data), batch_size)]
    finally:
        model.train(mode)
    outputs, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return outputs, labels


# ---- clips with labels


@dataclass(frozen=True)
class Classification:
    """One class is right: cross-entropy of the logits. A label is a class number, or -100 where it is not known.

    Attributes:
        label_smoothing: share of the right answer that is spread over all classes; not where it is measured.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.3.
    """

    figures: ClassVar = ("validation_loss", "validation_accuracy")
    label_smoothing: float = 0.0

    def loss(self, model, clips, labels, generators=None):
        """Minus the logarithm of the right class's probability, summed over the labels; their number."""
        logits = model(clips)  # b v
        summed = cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="sum")
        return summed, (labels != -100).sum()

    def measure(self, model, data, *, batch_size=64):
        """validation_loss in nats and validation_accuracy."""
        logits, labels = respond(model, data, batch_size=batch_size, together=True)
        known = labels != -100
        return {
            "validation_loss": cross_entropy(logits, labels).item(),
            "validation_accuracy": accuracy(logits.argmax(-1)[known], labels[known]),
        }


@dataclass(frozen=True)
class MultiLabel:
    """Any number of classes is right: one yes-or-no question a class. A label is v numbers, each 0 or 1.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.2.
    """

    figures: ClassVar = ("validation_loss", "validation_accuracy", "validation_exact_match")

    def loss(self, model, clips, labels, generators=None):
        """Binary cross-entropy, summed over clips and classes; the number of questions."""
        logits = model(clips)  # b v
        return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum"), labels.numel()

    def measure(self, model, data, *, batch_size=64):
        """validation_loss; the share of questions, validation_accuracy, and of whole clips, validation_exact_match,
        that is answered right; yes = a probability above one half.
        """
        logits, labels = respond(model, data, batch_size=batch_size, together=True)
        right = (logits > 0) == (labels > 0.5)
        return {
            "validation_loss": binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)).item(),
            "validation_accuracy": right.double().mean().item(),
            "validation_exact_match": right.all(-1).double().mean().item(),
        }


@dataclass(frozen=True)
class Regression:
    """Numbers are to be told: their squared error. A label is v numbers, or one number for a head of one.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.1.
    """

    figures: ClassVar = ("validation_loss", "validation_absolute_error")

    def loss(self, model, clips, labels, generators=None):
        """The squared error, summed over clips and numbers; how many numbers."""
        outputs = model(clips).float()  # b v
        return (outputs - _like(labels, outputs)).square().sum(), outputs.numel()

    def measure(self, model, data, *, batch_size=64):
        """validation_loss, the mean squared error, and validation_absolute_error, the mean distance."""
        outputs, labels = respond(model, data, batch_size=batch_size, together=True)
        error = outputs.float() - _like(labels, outputs)
        return {
            "validation_loss": error.square().mean().item(),
            "validation_absolute_error": error.abs().mean().item(),
        }


TASKS = {"classification": Classification, "multi-label": MultiLabel, "regression": Regression}
"""Task to objective."""


def objective_of(task: str, **options: object) -> Objective:
    """The objective of a task.

    Args:
        task: one of TASKS.
        options: of that objective, such as label_smoothing of "classification".

    Raises:
        ValueError: for another task, or an option that the task does not have.
    """
    if task not in TASKS:
        raise ValueError(f"task: {task!r} is none of {', '.join(map(repr, TASKS))}")
    try:
        return TASKS[task](**options)
    except TypeError as error:
        raise ValueError(f"task {task!r} does not take {', '.join(options)}") from error


def replace_head(model: nn.Module, num_labels: int) -> nn.Linear:
    """Give a model a new last layer, in place, for another number of answers; all other weights stay.

    The new weights are normal with the model's initializer_range as standard deviation, the biases zero, so that every
    answer is about as likely at first.

    Args:
        model: its last layer is the nn.Linear `model.classifier`; `model.config`, where there is one, is told.
        num_labels: answers v of the new layer.

    Returns:
        The new layer.

    Raises:
        ValueError: if the model has no such layer, or num_labels is below 1.

    Source: Devlin et al. 2019, section 3.2 (arXiv:1810.04805).
    """
    old = getattr(model, "classifier", None)
    if not isinstance(old, nn.Linear):
        what = "no `classifier`" if old is None else f"a `classifier` of kind {type(old).__name__}"
        raise ValueError(f"{type(model).__name__}: {what}, expected an nn.Linear to replace")
    if num_labels < 1:
        raise ValueError(f"{num_labels=} is not at least 1")
    config = getattr(model, "config", None)
    head = nn.Linear(
        old.in_features, num_labels, bias=old.bias is not None, device=old.weight.device, dtype=old.weight.dtype
    )
    nn.init.normal_(head.weight, std=getattr(config, "initializer_range", 0.02))
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    model.classifier = head.train(old.training)
    if config is not None:
        model.config = replace(config, num_labels=num_labels)
    return head


# ---- clips without labels


@dataclass(frozen=True)
class MaskedTubelets:
    """What stands in the boxes that are hidden? Their pixels are to be told from the boxes that are seen.

    The same places are hidden in every moment, else a hidden box could be copied from the moment before. To fill a
    place that is never seen, a model must know what moves there.

        loss = sum over hidden boxes i and their numbers j of (predicted_ij - (pixel_ij - mean_i) / deviation_i)^2

    Attributes:
        tubelet_size: frames, rows and columns of one box (tau p p), those of the model.
        share: of the places that are hidden; rounded to whole places, at least one hidden and one seen.
        decoder_layers: blocks of the decoder, which is thrown away afterwards.

    Raises:
        ValueError: if the share is not between 0 and 1, or there is no block.

    Source: Tong et al. 2022, section 3, VideoMAE (arXiv:2203.12602); targets normalised box by box: He et al. 2022,
    section 3, MAE (arXiv:2111.06377).
    """

    figures: ClassVar = ("validation_loss",)
    tubelet_size: tuple[int, int, int] = (2, 16, 16)
    share: float = 0.75
    decoder_layers: int = 1

    def __post_init__(self):
        if not 0.0 < self.share < 1.0 or self.decoder_layers < 1:
            raise ValueError(
                f"share={self.share} and decoder_layers={self.decoder_layers}: expected a share between 0 and 1 and "
                "at least 1 block"
            )

    def pretrainer(self, model: ViViT) -> "MaskedAutoencoder":
        """The model as the encoder of a masked autoencoder; what is learnt of it stays when the rest is thrown away.

        Raises:
            ValueError: if the boxes of the model have another size.
        """
        if tuple(model.config.tubelet_size) != tuple(self.tubelet_size):
            raise ValueError(f"tubelet_size {self.tubelet_size} is not the model's, {model.config.tubelet_size}")
        return MaskedAutoencoder(model, self.decoder_layers)

    def targets(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b n box"]:
        """The pixels of every box, with mean 0 and deviation 1 in each box."""
        tau, p, _ = self.tubelet_size
        boxes = tubelets(clips, patch_size=p, temporal_patch_size=tau).float()  # b n box
        deviation, mean = torch.std_mean(boxes, dim=-1, keepdim=True)
        return (boxes - mean) / (deviation + 1e-3)  # an even box has deviation 0; 1e-3 is a quarter of a grey level

    def loss(self, model, clips, labels, generators):
        """Squared error, summed over the numbers in hidden boxes; how many they are."""
        tau, p, _ = self.tubelet_size
        grid = box_grid(clips, patch_size=p, temporal_patch_size=tau)
        masked = tube_mask(grid, self.share, generators).to(clips.device)  # b n
        predicted = model(clips, masked).float()  # b m box
        wanted = self.targets(clips)[masked].view_as(predicted)
        return (predicted - wanted).square().sum(), predicted.numel()

    def measure(self, model, data, *, batch_size=64):
        """validation_loss: the mean squared error, 1 for who knows no more than the mean of a box."""
        return _measure_unlabelled(self.loss, model, data, batch_size)


class MaskedAutoencoder(nn.Module):
    """An encoder reads the boxes that are seen, and a small decoder draws those that are not.

    The encoder never sees a hidden box, nor a token in its place. So the work is less, by the hidden share, and what it
    learns fits the whole clips that it will read later.

    Args:
        model: the encoder: its `embed` and `encode` are used, the task head is not.
        decoder_layers: blocks of the decoder, half as wide as the encoder.

    Source: He et al. 2022, section 3 (arXiv:2111.06377); for clips: Tong et al. 2022, section 3 (arXiv:2203.12602).
    """

    def __init__(self, model: ViViT, decoder_layers: int = 1):
        super().__init__()
        c = model.config
        tau, p, _ = c.tubelet_size
        heads = max(1, c.num_attention_heads // 2)
        d = max(heads, c.hidden_size // 2 // heads * heads)
        gt, gh, gw = c.grid
        self.model = model
        self.narrow = Linear(c.hidden_size, d)
        self.mask_token = nn.Parameter(torch.zeros(d))
        self.positions = nn.Parameter(torch.zeros(1, 1 + gt * gh * gw, d))
        self.blocks = nn.ModuleList(EncoderBlock(d, heads, 2 * d) for _ in range(decoder_layers))
        self.norm = LayerNorm(d)
        self.pixels = Linear(d, c.num_channels * tau * p * p)
        for weight in (self.mask_token, self.positions, self.narrow.weight, self.pixels.weight):
            nn.init.normal_(weight, std=c.initializer_range)

    def forward(self, clips: Float[Tensor, "b t c h w"], masked: Bool[Tensor, "b n"]) -> Float[Tensor, "b m box"]:
        """Draw the hidden boxes.

        Args:
            clips: normalised pixels, of the size in the encoder's configuration.
            masked: which boxes are hidden; m of them in every clip.

        Returns:
            Their pixels, normalised box by box, in the order of the boxes.
        """
        b, hidden = len(clips), torch.cat([masked.new_zeros(len(masked), 1), masked], dim=1)  # the class token is seen
        seen = self.model.embed(clips)[~hidden].view(b, -1, self.model.config.hidden_size)  # b 1+n-m d
        seen = self.narrow(self.model.encode(seen))
        tokens = torch.where(hidden[..., None], self.mask_token.to(seen.dtype), seen.new_zeros(()))  # b 1+n d
        tokens = tokens.masked_scatter(~hidden[..., None], seen) + self.positions
        for block in self.blocks:
            tokens = block(tokens)  # b 1+n d
        return self.pixels(self.norm(tokens)[hidden]).view(b, -1, self.pixels.out_features)  # b m box


def tube_mask(grid: Grid, share: float, generators: Sequence[torch.Generator]) -> Bool[Tensor, "b n"]:
    """Choose places at random and hide them in every moment, one choice a clip.

    Args:
        grid: boxes along time, height and width.
        share: of the places that are hidden; rounded to whole places, at least one hidden and one seen.
        generators: one a clip.

    Returns:
        True where a box is hidden, n = gt gh gw in raster order.

    Raises:
        ValueError: if there are fewer than two places.

    Source: Tong et al. 2022, section 3 (arXiv:2203.12602).
    """
    gt, gh, gw = grid
    places = gh * gw
    if places < 2:
        raise ValueError(f"{gh} x {gw} places, expected at least 2: one to hide and one to see")
    hidden = min(max(1, round(share * places)), places - 1)
    chosen = torch.stack([torch.randperm(places, generator=one) for one in generators])  # b places
    return (chosen < hidden).repeat(1, gt)  # the places that drew the smallest numbers


@dataclass(frozen=True)
class FrameOrder:
    """In what order do the parts of a clip belong? It is cut into segments, they are shuffled, the order is to be told.

    Frames inside a segment keep their order, so that each shows a motion; which segment follows which is then seen from
    where that motion leads. So the order can be told, also where a film played backwards looks as likely as forwards,
    and only from motion: every order shows the same frames.

    Attributes:
        segments: parts of a clip; they have segments! orders.

    Raises:
        ValueError: if there are fewer than 2 or more than 5 segments (120 orders).

    Source: Xu et al. 2019, Self-supervised spatiotemporal learning via video clip order prediction (CVPR); the first of
    its kind: Misra et al. 2016, Shuffle and learn (arXiv:1603.08561).
    """

    figures: ClassVar = ("validation_loss", "validation_accuracy")
    segments: int = 4

    def __post_init__(self):
        if not 2 <= self.segments <= 5:
            raise ValueError(f"segments={self.segments} is not from 2 to 5")

    def pretrainer(self, model: nn.Module) -> "WithHead":
        """The model with one more head, that answers with an order, beside its task head."""
        return WithHead(model, math.factorial(self.segments))

    def shuffle(
        self, clips: Float[Tensor, "b t c h w"], generators: Sequence[torch.Generator]
    ) -> tuple[Float[Tensor, "b t c h w"], Int64[Tensor, " b"]]:
        """Put the segments of every clip into an order drawn at random, all orders being equally likely.

        Args:
            clips: t a multiple of segments.
            generators: one a clip.

        Returns:
            The shuffled clips, and the number of each one's order in the list of all orders, from 0 1 2 ... (nothing
            moved) to ... 2 1 0.

        Raises:
            ShapeError: if t is not a multiple of segments.
        """
        b, t = clips.shape[:2]
        if t % self.segments:
            raise ShapeError(f"clips: t={t} is not a multiple of segments={self.segments}; sample other frames")
        orders = torch.tensor(list(permutations(range(self.segments))))  # segments! segments
        drawn = torch.cat([torch.randint(len(orders), (1,), generator=one) for one in generators])  # b
        length = t // self.segments
        frames = (orders[drawn][..., None] * length + torch.arange(length)).view(b, t).to(clips.device)
        return clips[torch.arange(b, device=clips.device)[:, None], frames], drawn.to(clips.device)

    def loss(self, model, clips, labels, generators):
        """Cross-entropy of the orders, summed over the clips; how many clips."""
        shuffled, orders = self.shuffle(clips, generators)
        return cross_entropy(model(shuffled), orders, reduction="sum"), len(orders)

    def measure(self, model, data, *, batch_size=64):
        """validation_loss, log(segments!) for who knows nothing, and validation_accuracy, by chance 1 / segments!."""

        def right(clips: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
            shuffled, orders = self.shuffle(clips, generators)
            return (model(shuffled).argmax(-1) == orders).sum()

        return _measure_unlabelled(self.loss, model, data, batch_size, validation_accuracy=right)


@dataclass(frozen=True)
class FrameSimilarity:
    """Which two belong together? Of every clip two views are made; each is to find its other among those of all clips.

        loss = -log( exp(u_i . v_i / temperature) / sum_j exp(u_i . v_j / temperature) ),   |u| = |v| = 1

    and the same with u and v exchanged. The sum runs over the clips that are shown at once, to all processes:
    this is the one objective in which clips see each other, so that many small batches are not one large batch.

    With reversals, every clip takes part a second time, played backwards, as another clip. The two show the same
    frames: what a view looks like no longer suffices, how it moves must be known.

    Attributes:
        view: makes a view of a clip, by the generator given; what differs between two views is what the model learns to
            overlook. It must not change what is to be learnt.
        temperature: the smaller, the more the most similar clips count.
        width: of the vectors that are compared.
        reversals: whether every clip takes part played backwards, too.

    Raises:
        ValueError: if the temperature is not above 0, or the width below 1.

    Source: van den Oord et al. 2018, equation 4, InfoNCE (arXiv:1807.03748); two views, symmetric: Chen et al. 2020,
    section 2.1, SimCLR (arXiv:2002.05709).
    """

    figures: ClassVar = ("validation_loss",)
    view: Callable[[Tensor, torch.Generator], Tensor] = field(repr=False)  # a function is shown by where it lies
    temperature: float = 0.1
    width: int = 32
    reversals: bool = False

    def __post_init__(self):
        if self.temperature <= 0 or self.width < 1:
            raise ValueError(f"temperature={self.temperature} and width={self.width}: expected above 0 and at least 1")

    def pretrainer(self, model: nn.Module) -> "WithHead":
        """The model with one more head, whose outputs are compared, beside its task head."""
        return WithHead(model, self.width)

    def views(
        self, clips: Float[Tensor, "b t c h w"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "both t c h w"]:
        """A first view of every clip, then a second of every clip; with reversals, the first half of each is forwards.

        Args:
            clips: normalised pixels.
            generators: one a clip.
        """
        sides = []
        for _ in ("first", "second"):
            side = torch.stack([self.view(clip, one) for clip, one in zip(clips, generators, strict=True)])
            sides += [side, side.flip(1)] if self.reversals else [side]
        return torch.cat(sides)

    def loss(self, model, clips, labels, generators):
        """The loss, summed over all views; how many views."""
        first, second = self._vectors(model, clips, generators)
        everyone, place = rows_of_all(torch.cat([first, second], dim=1))  # all 2 width
        return similarity_loss(first, second, self.temperature, *everyone.chunk(2, dim=1), place=place), 2 * len(first)

    def measure(self, model, data, *, batch_size=64):
        """validation_loss; it depends on batch_size, the number of clips to choose from."""

        def loss(model, clips, labels, generators):  # a batch is measured by one process, without the others
            first, second = self._vectors(model, clips, generators)
            return similarity_loss(first, second, self.temperature), 2 * len(first)

        return _measure_unlabelled(loss, model, data, batch_size)

    def _vectors(self, model, clips, generators) -> tuple[Tensor, Tensor]:
        return model(self.views(clips, generators)).float().chunk(2)  # b width each


def similarity_loss(
    first: Float[Tensor, "b d"],
    second: Float[Tensor, "b d"],
    temperature: int | float,
    all_first: Float[Tensor, "all d"] | None = None,
    all_second: Float[Tensor, "all d"] | None = None,
    *,
    place: int = 0,
) -> Float[Tensor, ""]:
    """Ask every vector for its partner among all vectors of the other side.

        loss = sum_i -log softmax_j(u_i . v_j / temperature)_i, and the same with u and v exchanged

    Args:
        first, second: row i of one belongs to row i of the other; u and v are the rows, scaled to length one.
        temperature: above 0.
        all_first, all_second: among which the partner is looked for, where there are others; None = no others.
        place: of first's and second's own rows among these.

    Returns:
        The sum over all 2 b vectors.

    Source: van den Oord et al. 2018, equation 4 (arXiv:1807.03748); in both directions: Radford et al. 2021, figure 3
    (arXiv:2103.00020).
    """
    u, v = _unit(first), _unit(second)
    all_u = u if all_first is None else _unit(all_first)
    all_v = v if all_second is None else _unit(all_second)
    partner = place + torch.arange(len(u), device=u.device)
    both = [cross_entropy(x @ y.T / temperature, partner, reduction="sum") for x, y in ((u, all_v), (v, all_u))]
    return both[0] + both[1]


class WithHead(nn.Module):
    """A model with one more head: a layer that reads the features which the task head reads.

    Args:
        model: with `features` from clips to b d, and the task head `classifier` on them.
        outputs: of the new head.
    """

    def __init__(self, model: nn.Module, outputs: int):
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.classifier.in_features, outputs)

    def forward(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b outputs"]:
        """What the new head says of every clip."""
        return self.head(self.model.features(clips))


def _device(model: nn.Module) -> torch.device:
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def _unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()


@torch.no_grad()
def _measure_unlabelled(
    loss: Callable[[nn.Module, Tensor, Tensor, Generators], tuple[Tensor, Tensor | int]],
    model: nn.Module,
    data: Examples,
    batch_size: int,
    **counts: Callable[[Tensor, Sequence[torch.Generator]], Tensor],
) -> dict[str, float]:
    """The mean loss and the shares of what is counted, each clip with its own random numbers, the same every time."""
    if len(data) == 0:
        raise ValueError("data: 0 clips, expected at least 1 to evaluate on")
    mode, device = model.training, _device(model)

    def put(places: range) -> list[int | float]:
        clips, labels = stack([data[i] for i in places])
        clips = clips.to(device)
        summed, count = loss(model, clips, labels, _generators(places))
        return [summed.item(), int(count), *(counted(clips, _generators(places)).item() for counted in counts.values())]

    model.eval()
    try:
        rows = done_in_turns(runs(len(data), batch_size), put)
        summed, total, *found = (sum(column) for column in zip(*rows, strict=True))
    finally:
        model.train(mode)
    return {"validation_loss": summed / total, **{n: value / total for n, value in zip(counts, found, strict=True)}}


def _generators(places: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(place) for place in places]


def _like(labels: Tensor, outputs: Tensor) -> Tensor:
    if labels.ndim == 1:
        labels = labels[:, None]  # b alone would be subtracted from every row: b b differences, and no error
    if labels.shape != outputs.shape:
        raise ShapeError(
            f"labels: shape {tuple(labels.shape)}, expected {tuple(outputs.shape)}, one number for each output; "
            f"replace_head(model, {labels[0].numel()}) gives the model as many"
        )
    return labels.to(outputs.dtype)
