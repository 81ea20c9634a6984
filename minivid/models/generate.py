"""Generation: the model says how well each token would fit next, one is chosen and read in turn, until a stop token."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minivid.layers.attention import softmax
from minivid.shapes import ShapeError

# ---- what changes the logits before a token is chosen


def seen_ids(
    ids: Int[Tensor, "b n"], v: int, mask: Int[Tensor, "b n"] | Bool[Tensor, "b n"] | None = None
) -> Bool[Tensor, "b v"]:
    """Which entries of the vocabulary stand in each row of ids, once or several times.

    Args:
        ids: tokens, from 0 to v - 1.
        v: entries of the vocabulary.
        mask: 0 or False on padding, which does not count; None = no padding.

    Raises:
        ShapeError: if the mask is not of the shape of the ids.
    """
    mask = torch.ones_like(ids) if mask is None else mask
    if mask.shape != ids.shape:
        raise ShapeError(f"mask: shape {tuple(mask.shape)}, expected that of ids, {tuple(ids.shape)}")
    # Padding marks one entry too many, v, which is cut off: an id may be a token in one place and padding in another.
    marks = ids.new_zeros(len(ids), v + 1, dtype=torch.bool).scatter(1, ids.masked_fill(mask == 0, v), True)
    return marks[:, :v]


def repetition_penalty(logits: Float[Tensor, "b v"], seen: Bool[Tensor, "b v"], penalty: float) -> Float[Tensor, "b v"]:
    """Make what was seen before less likely: its logit is divided by the penalty, or multiplied if it is negative.

        logit / penalty   if logit >= 0,        logit * penalty   if logit < 0

    Both lower a logit where the penalty is above 1. Logits are scores: a smaller number, however negative, is worse.

    Args:
        logits: how well each entry of the vocabulary would fit next.
        seen: what stands in the prompt or came out since; of `seen_ids`.
        penalty: above 0; 1 changes nothing.

    Raises:
        ValueError: if the penalty is not above 0.

    Source: Keskar et al. 2019, section 4.1 (arXiv:1909.05858), where negative logits, too, are divided.
    """
    if not 0 < penalty < math.inf:
        raise ValueError(f"repetition_penalty is {penalty}, expected a number above 0; 1 changes nothing")
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def presence_penalty(
    logits: Float[Tensor, "b v"], generated: Bool[Tensor, "b v"], penalty: float
) -> Float[Tensor, "b v"]:
    """Make what came out before less likely: its logit is lowered by the penalty, once, however often it came.

    Args:
        logits: how well each entry of the vocabulary would fit next.
        generated: what came out so far; the prompt does not count.
        penalty: any number; 0 changes nothing, and less than 0 asks for repetition.

    Raises:
        ValueError: if the penalty is not a finite number.

    Source: OpenAI API, `presence_penalty`; the makers of Qwen3-VL recommend 1.5.
    """
    if not math.isfinite(penalty):
        raise ValueError(f"presence_penalty is {penalty}, expected a finite number; 0 changes nothing")
    return torch.where(generated, logits - penalty, logits)


def top_k(logits: Float[Tensor, "b v"], k: int) -> Float[Tensor, "b v"]:
    """Keep the k best entries of each row, and those as good as the k-th; the others get -inf.

    Args:
        logits: how well each entry of the vocabulary would fit next.
        k: at least 1; as many as there are, or more, changes nothing.

    Raises:
        ValueError: if k is below 1.

    Source: Fan, Lewis and Dauphin 2018, section 5.4 (arXiv:1805.04833).
    """
    if k < 1:
        raise ValueError(f"top_k is {k}, expected at least 1; None keeps everything")
    worst = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < worst, -math.inf)


def top_p(logits: Float[Tensor, "b v"], p: float) -> Float[Tensor, "b v"]:
    """Keep the fewest entries, from the most probable on, that together have the probability p; the others get -inf.

    Sorted from the least probable on, those go of which the sum so far is at most 1 - p; the last one always stays.
    Of equal entries at the border, those of lower number go first.

    Args:
        logits: how well each entry of the vocabulary would fit next; -inf = out of question.
        p: above 0, up to 1; 1 changes nothing.

    Raises:
        ValueError: if p is not in that range.

    Source: Holtzman et al. 2020, section 3.1, nucleus sampling (arXiv:1904.09751).
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p is {p}, expected above 0 and up to 1; 1 keeps everything")
    if p == 1:
        return logits
    weights = softmax(logits)
    # What is below (1 - p) / v has at most 1 - p together and goes in any order: of 150 000 entries, some are sorted.
    most = int((weights >= (1 - p) / logits.shape[-1]).sum(-1).max().clamp_min(1))
    ids = weights.topk(most, sorted=False).indices.sort().values
    rising, order = weights.gather(1, ids).sort(stable=True)
    stays = weights.scatter(1, ids, 0.0).sum(-1, keepdim=True) + rising.cumsum(-1) > 1 - p
    stays[:, -1] = True
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids.gather(1, order), stays)
    return logits.masked_fill(~kept, -math.inf)


def min_p(logits: Float[Tensor, "b v"], p: float) -> Float[Tensor, "b v"]:
    """Keep the entries that are at least p times as probable as the most probable one; the others get -inf.

    The ratio of two probabilities needs no softmax: its sum is the same in both.

        exp(logit) / exp(max logit) = exp(logit - max logit) >= p

    Args:
        logits: how well each entry of the vocabulary would fit next.
        p: from 0, which changes nothing, to below 1.

    Raises:
        ValueError: if p is not in that range.

    Source: Nguyen et al. 2024, section 3 (arXiv:2407.01082).
    """
    if not 0 <= p < 1:
        raise ValueError(f"min_p is {p}, expected from 0 to below 1; 0 keeps everything")
    return logits.masked_fill((logits - logits.amax(-1, keepdim=True)).exp() < p, -math.inf)


# ---- the choice


def draw(weights: Float[Tensor, "b v"], dice: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The entry that a mark falls on when all of a row lie side by side, each as long as its weight.

        draw = the first i with w_0 + ... + w_i >= dice (w_0 + ... + w_last)

    Dice spread evenly over (0, 1] draw every entry in proportion to its weight, and none of weight 0.

    Args:
        weights: at least 0, and at least one of a row above 0; they need not sum to one.
        dice: the mark of each row, above 0 and up to 1.

    Returns:
        One entry a row.

    Source: Devroye 1986, section III.2, inversion.
    """
    # In float32, the sum of 150 000 weights would swallow the small ones.
    ends = weights.double().cumsum(-1)
    return torch.searchsorted(ends, dice[:, None] * ends[:, -1:]).squeeze(1)


def emit(
    chosen: Int[Tensor, " b"], finished: Bool[Tensor, " b"], stop_ids: Int[Tensor, " stops"], pad_token_id: int
) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
    """What each row gives out when a token was chosen for it, and which rows are finished now.

    A row gives out its stop token, and padding ever after.

    Args:
        chosen: a token for every row.
        finished: the rows whose stop token came in an earlier step.
        stop_ids: tokens that finish a row, any number of them.
        pad_token_id: what finished rows give out.

    Returns:
        The ids, and the rows that are finished with them.
    """
    ids = torch.where(finished, pad_token_id, chosen)
    return ids, finished | (chosen[:, None] == stop_ids).any(-1)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: which logits are changed, and whether the best is taken or one is drawn.

    The order is that of the fields: what was said before is made less likely, the rest is made sharper or flatter,
    and of that the best are kept.

        logits -> repetition -> presence -> / temperature -> top_k -> top_p -> min_p -> softmax -> draw

    Args:
        repetition_penalty: above 1 makes what stands in the prompt or came out less likely; 1 = off.
        presence_penalty: is subtracted from the logits of what came out; 0 = off.
        temperature: the logits are divided by it: below 1 sharpens, above 1 flattens; 0 = take the best.
        top_k: how many entries are kept; None = all.
        top_p: which share of the probability is kept; None or 1 = all.
        min_p: how probable what is kept is at least, as a share of the best; None or 0 = all.

    Raises:
        ValueError: if a number is outside its range.

    Source: transformers' generate() has this order, without the presence penalty, which stands where vLLM has it.
    """

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}, expected at least 0; 0 takes the best token")
        # Each function knows the range of its number: it is asked once, before a model has done any work.
        logits = torch.zeros(1, 1)
        self.scores(logits, logits > 0, logits > 0)

    def scores(
        self, logits: Float[Tensor, "b v"], seen: Bool[Tensor, "b v"], generated: Bool[Tensor, "b v"]
    ) -> Float[Tensor, "b v"]:
        """The logits after all steps; the softmax of them are the probabilities that a token is drawn with.

        Args:
            logits: what the model says, in any floating-point format.
            seen: what stands in the prompt or came out; of `seen_ids`.
            generated: what came out.

        Returns:
            In float32 at least, with -inf for what is out of question.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.repetition_penalty != 1:
            logits = repetition_penalty(logits, seen, self.repetition_penalty)
        if self.presence_penalty != 0:
            logits = presence_penalty(logits, generated, self.presence_penalty)
        if self.temperature != 0:
            logits = logits / self.temperature
        if self.top_k is not None:
            logits = top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = min_p(logits, self.min_p)
        return logits

    def choose(
        self,
        logits: Float[Tensor, "b v"],
        seen: Bool[Tensor, "b v"],
        generated: Bool[Tensor, "b v"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, " b"]:
        """The next token of every row: the best of `scores` if the temperature is 0, else one drawn by them.

        Args:
            logits, seen, generated: as in `scores`.
            generator: where chance comes from, one number a row; None = torch's own.
        """
        scores = self.scores(logits, seen, generated)
        if self.temperature == 0:
            return scores.argmax(-1)
        device = scores.device if generator is None else generator.device
        dice = torch.rand(len(scores), dtype=torch.float64, generator=generator, device=device)
        return draw(softmax(scores), 1 - dice.to(scores.device))  # rand gives 0 and not 1, the mark needs 1 and not 0


# ---- the loop


def column_major(model: nn.Module) -> nn.Module:
    """Lay every matrix column by column in memory, for the products of single tokens.

    A step with the cache multiplies each matrix with one vector, and so is as fast as memory can be read. Of a matrix
    that is stored row by row each row gives one dot product, and the shorter a row is, the more of its time goes into
    beginning and ending it; stored column by column, the columns are added up as they come. On a processor with AVX-512
    a token then takes 0.65 to 0.8 of its time. No name, shape or number changes, and no more memory is needed
    afterwards; but what asks for contiguous weights (FSDP, safetensors' `save_file`) has to be given
    `weight.contiguous()`. `save_pretrained` sees to it by itself. Matrices in 16 bits are left as they are: see
    `vector_products`.

    Args:
        model: changed in place; training and saving work as before.

    Returns:
        The same model.
    """
    for weight in model.parameters():
        if weight.ndim == 2 and weight.dtype == torch.float32:
            with torch.inference_mode(weight.is_inference()):  # what is made in that mode can never be trained
                weight.data = weight.data.t().contiguous().t()
    return model


@contextmanager
def vector_products(model: nn.Module, *, rows: int = 1) -> Iterator[None]:
    """Multiply matrices of bfloat16 with a single vector without oneDNN, on processors.

    That library, which makes products of many rows fast, sets up each product anew; with one row this takes about as
    long as the product.

    Args:
        model: what is to be computed with it; for another dtype or device than bfloat16 and "cpu" nothing changes.
        rows: of the batch, each of one token; for more than one nothing changes.
    """
    weight = next(model.parameters(), None)
    alone = rows == 1 and weight is not None and weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    if not (alone and torch.backends.mkldnn.is_available()):
        yield
        return
    before = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)[0]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before, _fp32_precision=None)


def generate(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    max_new_tokens: int,
    eos_token_id: int | Iterable[int] | None = None,
    pad_token_id: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    generator: torch.Generator | None = None,
    on_token: Callable[[Int[Tensor, " b"]], object] | None = None,
) -> Int[Tensor, "b n"]:
    """Continue prompts token by token, until every row has met a stop token or has as many new tokens as allowed.

    The prompt is read once, with all that belongs to it, and fills the cache. From then on the model reads one token a
    row and step, the one that was chosen last.

    Any model will do that has `make_cache(capacity)` and gives logits b n v for
    `model(input_ids, ..., cache=cache, keep=1)`: of the last token only, with the cache's tokens before the given ones.
    It is used as in evaluation, without dropout, and left in the mode in which it came. On a processor, a model in
    float32 takes its steps faster after `column_major(model)`: `minivid describe` does that first.

    Args:
        model: says how well each entry of the vocabulary would fit next.
        inputs: what the model takes: input_ids b n and, where there are any, attention_mask (0 on padding, which stands
            on the left), pixel values and grids.
        max_new_tokens: at most so many; at least 1.
        eos_token_id: a token that finishes a row, or several; None = go on to max_new_tokens.
        pad_token_id: what a finished row gives out while others go on; needed for several rows with a stop token.
        temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty: see `Sampling`. By default the best
            token is taken. Padding counts as neither seen nor generated.
        generator: where chance comes from: one number for each row in each step; None = torch's own.
        on_token: is called in each step with its b new ids, as soon as they are known.

    Returns:
        The new ids, stop tokens with them; as many columns as there were steps.

    Raises:
        ValueError: if a number is out of its range, or pad_token_id is missing.
        ShapeError: if the prompt is empty, or does not stand at the right of its padding.

    Source: Radford et al. 2019 (the model continues a prompt); the cache: Shazeer 2019, section 2.3 (arXiv:1911.02150).
    """
    sampling = Sampling(repetition_penalty, presence_penalty, temperature, top_k, top_p, min_p)
    _check_prompt(inputs)
    prompt, mask = inputs["input_ids"], inputs.get("attention_mask")
    stops = _checked_stops(eos_token_id, pad_token_id, len(prompt))
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, expected at least 1")

    stop_ids, pad = prompt.new_tensor(stops), 0 if pad_token_id is None else pad_token_id
    finished = torch.zeros_like(prompt[:, 0], dtype=torch.bool)  # b
    steps: list[Tensor] = []  # b each
    with torch.no_grad(), _evaluating(model):
        cache = model.make_cache(prompt.shape[1] + max_new_tokens - 1)  # the last token is chosen, but not read
        logits = model(**inputs, cache=cache, keep=1)[:, -1]  # b v
        _check_vocabulary(logits.shape[-1], {"eos_token_id": stops, "pad_token_id": (pad,)})
        seen = seen_ids(prompt, logits.shape[-1], mask).to(logits.device)  # b v
        generated = torch.zeros_like(seen)
        while True:
            chosen = sampling.choose(logits, seen, generated, generator)
            ids, finished = emit(chosen.to(prompt.device), finished, stop_ids, pad)
            steps.append(ids)
            if on_token is not None:
                on_token(ids)
            if len(steps) >= max_new_tokens or finished.all():
                return torch.stack(steps, 1)
            seen.scatter_(1, chosen[:, None], True)
            generated.scatter_(1, chosen[:, None], True)
            with vector_products(model, rows=len(ids)):
                logits = model(ids[:, None], cache=cache, keep=1)[:, -1]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every part of the model in evaluation mode, and afterwards in the mode in which it was."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _check_prompt(inputs: Mapping[str, Tensor]) -> None:
    """At least one token in every row, and none of them left of padding."""
    if "input_ids" not in inputs:
        raise ValueError(f"inputs: input_ids is missing (there are {', '.join(sorted(inputs)) or 'none'})")
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if ids.ndim != 2 or ids.numel() == 0:
        raise ShapeError(f"input_ids: shape {tuple(ids.shape)}, expected b n with at least one row and one token")
    if mask is None:
        return
    if mask.shape != ids.shape:
        raise ShapeError(f"attention_mask: shape {tuple(mask.shape)}, expected that of input_ids, {tuple(ids.shape)}")
    followed = (mask[:, :-1] != 0) & (mask[:, 1:] == 0)  # a token, and padding behind it
    for row, place in followed.nonzero()[:1].tolist():
        raise ShapeError(
            f"attention_mask: row {row} has padding behind the token at place {place} of {ids.shape[1]}; new tokens "
            "come behind the last place, so pad on the left"
        )
    for row in (mask[:, -1] == 0).nonzero()[:1, 0].tolist():
        raise ShapeError(f"attention_mask: row {row} is padding alone, expected at least one token of {ids.shape[1]}")


def _checked_stops(eos_token_id: int | Iterable[int] | None, pad_token_id: int | None, rows: int) -> tuple[int, ...]:
    """The stop tokens as a tuple; several rows need a token for what comes behind them."""
    if eos_token_id is None:
        return ()
    stops = (eos_token_id,) if isinstance(eos_token_id, int) else tuple(eos_token_id)
    if stops and rows > 1 and pad_token_id is None:
        raise ValueError(
            f"pad_token_id is missing: of {rows} rows some may be finished by {', '.join(map(str, stops))} "
            "while others go on; give what a finished row is filled with"
        )
    return stops


def _check_vocabulary(v: int, wanted: Mapping[str, Iterable[int]]) -> None:
    """No stop token or padding outside of what the model can say and read."""
    for name, ids in wanted.items():
        for token in ids:
            if not 0 <= token < v:
                raise ValueError(f"{name} {token}: expected 0 to {v - 1}, the model's vocabulary; is it another's?")
