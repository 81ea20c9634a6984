"""What trains: which parameters of a model move, in which groups, how fast, and what pulls them back; as a table."""

from collections.abc import Iterator, Mapping, Sequence
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


def _share(count: int, total: int) -> tuple[str, str]:
    return f"{count:,}", f"{count / total:.1%}"


def _count(weights) -> int:
    return sum(weight.numel() for weight in weights)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
