"""What trains: which parameters of a model move, in which groups, how fast, and what pulls them back; as a table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from minivid.shapes import table
from minivid.training.optimizer import decay_groups

Pieces = Sequence[str]
"""Pieces of parameter names: "classifier" fits classifier.weight and classifier.bias, "blocks.0." all of block 0."""


@contextmanager
def partly_frozen(model: nn.Module, train_only: Pieces = (), freeze: Pieces = ()) -> Iterator[None]:
    """Let only a part of a model's parameters learn, inside the context; what did not learn before does not now.

    Args:
        model: its parameters' requires_grad is changed, and given back.
        train_only: pieces of the names that learn; none given = all learn.
        freeze: pieces of the names that do not, of those.

    Raises:
        ValueError: if a piece is in no parameter's name, or nothing is left that learns.
    """
    names = [name for name, _ in model.named_parameters()]
    for option, pieces in (("train_only", train_only), ("freeze", freeze)):
        for piece in pieces:
            if not any(piece in name for name in names):
                raise ValueError(f"{option}: no parameter has {piece!r} in its name; there are {_some(names)}")
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for name, weight in model.named_parameters():
            chosen = not train_only or any(piece in name for piece in train_only)
            if not chosen or any(piece in name for piece in freeze):
                weight.requires_grad_(False)
        if not any(weight.requires_grad for weight in model.parameters()):
            raise ValueError(f"nothing learns with train_only={tuple(train_only)} and freeze={tuple(freeze)}")
        yield
    finally:
        for weight in learned:
            weight.requires_grad_(True)


def train_mode(model: nn.Module) -> None:
    """Put a model in training mode, but for norms that are frozen: their running averages are a part of them.

    Args:
        model: dropout and the other norms train.
    """
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, _NormBase) and own and not any(weight.requires_grad for weight in own):
            module.eval()


def learning_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    rates: Mapping[str, float] | None = None,
    no_decay: Pieces = (),
) -> list[dict]:
    """Sort the parameters that learn into groups for an optimiser, each with its rate and its decay.

    Args:
        model: its parameters that require a gradient are taken.
        learning_rate: of all that `rates` does not name.
        weight_decay: of matrices. Vectors, which are biases and the scales of norms, do not decay.
        rates: learning rates by pieces of the names; the first piece that a name contains counts.
        no_decay: pieces of the names of matrices that do not decay either, such as positions.

    Returns:
        Groups with `group` (a name for people), `params`, `lr`, `initial_lr` (the same) and `weight_decay`; none empty.

    Raises:
        ValueError: if no parameter's name has a piece of `rates` as its first.
    """
    names = {weight: name for name, weight in model.named_parameters()}
    plain = decay_groups(model, weight_decay, rates)
    groups = []
    for piece, matrices, vectors in zip([None, *(rates or {})], plain[::2], plain[1::2], strict=True):
        spared = [w for w in matrices["params"] if any(part in names[w] for part in no_decay)]
        decaying = [w for w in matrices["params"] if not any(w is other for other in spared)]
        rate = learning_rate if piece is None else rates[piece]
        where = piece or ("everything else" if rates else "everything")
        for what, params, decay in (
            ("weights", decaying, weight_decay),
            ("biases, scales", vectors["params"] + spared, 0.0),
        ):
            if params:
                options = {"lr": rate, "initial_lr": rate, "weight_decay": decay}
                groups.append({"group": f"{where}: {what}", "params": params, **options})
    return groups


def what_trains(model: nn.Module, groups: Sequence[Mapping]) -> str:
    """A table of what trains: parameters, their share of the model, learning rate and decay of each group.

    Args:
        model: with all its parameters, also those that do not learn.
        groups: as learning_groups gives them.
    """
    total = _count(model.parameters())
    frozen = total - sum(_count(group["params"]) for group in groups)
    rows = [("what trains", "parameters", "share", "learning rate", "decay")]
    for group in groups:
        rate, decay = f"{group['initial_lr']:g}", f"{group['weight_decay']:g}"
        rows.append((group["group"], *_share(_count(group["params"]), total), rate, decay))
    if frozen:
        rows.append(("frozen", *_share(frozen, total), "", ""))
    rows.append(("all", *_share(total, total), "", ""))
    return table(rows, numbers=True)


def part_settings(
    names: Iterable[str],
    *,
    vision: bool = True,
    merger: bool = True,
    language: bool = True,
    merger_rate: float | None = None,
    vision_rate: float | None = None,
) -> dict[str, object]:
    """Which parts of a model that sees and writes learn, and how fast, as the published recipe has it.

    The merger turns what the eye has seen into tokens: it learns first and fastest. `vision` is all of `visual` but its
    merger, and so the DeepStack mergers too; `language` is all of `language_model`; an untied `lm_head` always learns.
    The rates go by other names: `merger_rate` is for every merger, and `vision_rate` for the rest of `visual`. Without
    the first, there is no second.

    Args:
        names: of the model's parameters.
        vision, merger, language: whether it learns.
        merger_rate, vision_rate: learning rates; None = as all else.

    Returns:
        The fields `train_only`, `freeze` and `rates` of a FinetuneConfig.

    Raises:
        ValueError: if nothing is left that learns.

    Source: set_model and create_optimizer of qwen-vl-finetune (github.com/QwenLM/Qwen3-VL).
    """
    names = list(names)
    pieces = {
        "visual.": vision,
        "visual.merger.": merger and not vision,
        "language_model.": language,
        "lm_head.": True,
    }
    learns = [piece for piece, chosen in pieces.items() if chosen and any(piece in name for name in names)]
    freeze = ("visual.merger.",) if vision and not merger else ()
    moving = [name for name in names if any(p in name for p in learns) and not any(p in name for p in freeze)]
    if not moving:
        raise ValueError(f"nothing learns with vision={vision}, merger={merger} and language={language}; choose one")
    rates = {}
    if merger_rate:
        rates = {"merger": merger_rate} | ({"visual": vision_rate} if vision_rate else {})
    firsts = {next((piece for piece in rates if piece in name), None) for name in moving}
    return {
        "train_only": () if vision and language else tuple(learns),
        "freeze": freeze,
        "rates": {piece: rate for piece, rate in rates.items() if piece in firsts},
    }


def _share(count: int, total: int) -> tuple[str, str]:
    return f"{count:,}", f"{count / total:.1%}"


def _count(weights) -> int:
    return sum(weight.numel() for weight in weights)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
