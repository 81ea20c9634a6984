"""The numbers of a training: how long, how fast, of what, and how often it is measured and saved."""

import math
from dataclasses import dataclass, field

from minivid.training.schedule import constant_with_warmup, cosine_with_warmup, linear_with_warmup

OPTIMIZERS = ("adamw", "sgd", "muon")
SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class FinetuneConfig:
    """How a model is trained: all that decides the numbers.

    Attributes:
        steps: how often the weights move.
        batch_size: clips seen in each step, over all micro-batches and processes.
        micro_batches: parts in which a batch passes through the model, one after the other, so that less memory is
            needed. The gradient is that of the whole batch, unless a layer looks across clips (batch norm) or draws
            its dropout.
        learning_rate: the largest, at the end of the warm-up.
        rates: other learning rates, by pieces of parameter names: {"classifier": 1e-3}. The first that fits counts.
        schedule: what follows the warm-up: "cosine", "linear" or "constant".
        warmup_ratio: share of the steps in which the learning rate rises.
        optimizer: "adamw", "sgd", or "muon": Muon for the matrices, with steps of AdamW's length, AdamW for the rest.
        betas: how slowly AdamW's two averages forget.
        momentum: share of its last step that SGD or Muon keeps.
        adamw_for: pieces of the names of matrices that are AdamW's where the optimiser is "muon": tables, and heads.
        weight_decay: of the matrices; vectors (biases, scales) do not decay.
        no_decay: pieces of the names of matrices that do not decay either.
        max_grad_norm: all gradients together are never longer than this; 0 = no limit.
        label_smoothing: share of the right answer that is spread over all classes.
        train_only: pieces of the names of the parameters that learn; none = all.
        freeze: pieces of the names of those that do not.
        bfloat16: whether matrix products are computed in bfloat16; weights and sums stay in float32.
        gradient_checkpointing: whether blocks are computed twice, to need less memory.
        seed: of the order of the clips, of the augmentation and of dropout.
        evaluate_every: steps from one look at the validation clips to the next, the first before the first step;
            0 = only after the last step.
        evaluate_every_epochs: rounds through the training clips from one look to the next, instead; 0 = by steps.
        metric: what is measured in a look that tells which is best; smaller is better if it ends in loss or error.
        patience: looks in a row without a new best after which the training ends early; 0 = it never does.
        return_best: whether the model ends with the best weights instead of the last; needs a folder.
        save_every: steps from one save of the unfinished training to the next, the most that a stop can cost; a new
            best is saved too. 0 = none.
        save_total_limit: checkpoints that stay when the training is finished, the last and the best always among them;
            0 = none. Before, there are never fewer than two to go back to.

    Raises:
        ValueError: if a number is out of range, or a name unknown.
    """

    steps: int = 600
    batch_size: int = 32
    micro_batches: int = 1
    learning_rate: float = 1e-3
    rates: dict[str, float] = field(default_factory=dict)
    schedule: str = "cosine"
    warmup_ratio: float = 0.1
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    adamw_for: tuple[str, ...] = ("embed_tokens", "pos_embed", "position", "token", "head", "classifier")
    weight_decay: float = 0.05
    no_decay: tuple[str, ...] = ("position",)
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    train_only: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    bfloat16: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    evaluate_every: int = 100
    evaluate_every_epochs: int = 0
    metric: str = "validation_loss"
    patience: int = 0
    return_best: bool = False
    save_every: int = 100
    save_total_limit: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")
        not_negative = (
            "seed weight_decay momentum max_grad_norm evaluate_every evaluate_every_epochs patience save_every"
        )
        for name in (*not_negative.split(), "save_total_limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is below 0")
        for name, rate in {"learning_rate": self.learning_rate, **self.rates}.items():
            if not rate > 0:
                raise ValueError(f"{name}={rate} is not above 0")
        for name in ("warmup_ratio", "label_smoothing"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is not from 0 to 1")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(known)}")
        if not self.evaluate_every and not self.evaluate_every_epochs and (self.patience or self.return_best):
            name = "patience" if self.patience else "return_best"
            raise ValueError(
                f"{name}={getattr(self, name)} with evaluate_every=0: there is no look before the last step"
            )
        for name in ("train_only", "freeze", "no_decay", "adamw_for"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r} is one text, expected a tuple of them")

    def learning_rate_factor(self, step: int) -> float:
        """The share of the largest learning rate that a step takes.

        Args:
            step: counted from 0.
        """
        warmup_steps = math.ceil(self.warmup_ratio * self.steps)
        if self.schedule == "constant":
            return constant_with_warmup(step, warmup_steps=warmup_steps)
        curve = cosine_with_warmup if self.schedule == "cosine" else linear_with_warmup
        return curve(step, total_steps=self.steps, warmup_steps=warmup_steps)

    def looks_after(self, done: int, examples: int) -> bool:
        """Whether the validation clips are looked at when so many steps are done.

        Args:
            done: steps.
            examples: clips of one round through the training set.
        """
        if done == self.steps:
            return True
        if self.evaluate_every_epochs:
            rounds = self.evaluate_every_epochs * examples
            return done * self.batch_size // rounds > (done - 1) * self.batch_size // rounds
        return bool(self.evaluate_every) and done % self.evaluate_every == 0
