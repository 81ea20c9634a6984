"""What a training leaves in its folder while it runs, and where it goes on from when it was stopped."""

import json
import os
from dataclasses import asdict, is_dataclass
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from minivid.training.checkpoint import (
    TrainingState,
    find_training,
    load_training,
    optimizer_state,
    put_optimizer_state,
    put_weights,
)
from minivid.training.distributed import reader, save_together
from minivid.training.finetune_config import FinetuneConfig
from minivid.training.history import CURVES, History, HistoryFiles, Row, draw_curves
from minivid.training.objectives import Objective
from minivid.training.processes import check_alike, is_first, wait_for_all
from minivid.training.sealed_folder import discard
from minivid.whole_files import sweep

STATE = "checkpoints"

# What may differ between a training and its continuation: they change no number.
FREE = ("save_every", "save_total_limit", "return_best")


class RunFolder:
    """The history of a training and its files: history.jsonl, checkpoints/, curves.png. A context: it closes them.

    Model and optimiser are put into the state of the last save, if there is one.

    Args:
        folder: made if it does not exist; None = nothing is written, and there is nothing to go on from.
        model: is trained, in place.
        optimizer: moves its weights.
        config: how it is trained.
        objective: what is minimised.
        train: how many clips are learnt from.
        validation: how many clips are measured on.

    Attributes:
        history: what happened so far.
        done: how many steps are done.
        finished: whether that was the last, by number or because the patience is over.

    Raises:
        ValueError: if the folder holds a training of another kind, or one is asked for that needs a folder.
        CheckpointError: if there are checkpoints, but none is whole.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None,
        model: nn.Module,
        optimizer: Optimizer,
        config: FinetuneConfig,
        objective: Objective,
        train: int,
        validation: int,
    ):
        self.history, self.done, self.finished = History(), 0, False
        self._model, self._optimizer, self._config = model, optimizer, config
        self._folder = None if folder is None else Path(folder)
        self._files, self._best = None, None
        # As JSON gives it back.
        said = repr(objective) if is_dataclass(objective) else type(objective).__name__
        kind = asdict(config) | {"objective": said, "examples": train, "validation_examples": validation}
        self._kind = json.loads(json.dumps({name: value for name, value in kind.items() if name not in FREE}))
        if self._folder is None:
            if config.return_best:
                raise ValueError("return_best=True keeps the best weights in a folder; give one")
            return
        if config.return_best and not config.save_every:
            raise ValueError("return_best=True with save_every=0: nothing is saved, so the best weights are not kept")
        self._checkpoints = self._folder / STATE
        if is_first():
            self._folder.mkdir(parents=True, exist_ok=True)
            for place in (self._folder, self._checkpoints):
                sweep(place)
        wait_for_all()
        self._resume()
        check_alike("steps done", self.done)
        if is_first():
            self._files = HistoryFiles(self._folder, self.history.rows)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._files is not None:
            self._files.close()

    def add(self, row: Row) -> None:
        """Write down what happened."""
        self.history.rows.append(row)
        if self._config.metric in row:
            self._best = self.history.best(self._config.metric)
        if self._files is not None:
            self._files.add(row)

    def after_step(self, done: int) -> None:
        """Find out whether the training is over, and save it if it is time to.

        Args:
            done: how many steps are done; their rows have been added.
        """
        config, self.done = self._config, done
        best = self._best
        self.finished = done == config.steps or bool(config.patience and best and best.since >= config.patience)
        if self._folder is None or not config.save_every:
            return
        new_best = best is not None and best.step == done
        due = (done % config.save_every == 0 or new_best) and not self.finished
        if due or (self.finished and (config.save_total_limit or config.return_best)):
            if self._files is not None:
                self._files.flush()
            about = {
                "seed": config.seed,  # with the step, where the random numbers stand
                "finished": self.finished,
                "kind": self._kind,
                "best": best and best._asdict(),
                "history": self.history.rows,
            }
            state = TrainingState(done, self._model.state_dict(), optimizer_state(self._model, self._optimizer), about)
            save_together(self._checkpoints, state, best=best and best.step, keep=config.save_total_limit)

    def finish(self) -> None:
        """Draw the curves, and give the model its best weights or leave no checkpoints, as the configuration says."""
        if self._folder is None:
            return
        best = self._best
        if self._config.return_best and best.step != self.done:
            path = self._checkpoints / f"step-{best.step:08d}"
            put_weights(self._model, load_training(path, read=reader(self._model)).model, path)
        wait_for_all()  # to have read what is removed now
        if not is_first():
            return
        draw_curves(self.history, self._folder / CURVES)
        if not self._config.save_total_limit and self._checkpoints.exists():
            discard(self._checkpoints)

    def _resume(self) -> None:
        state = find_training(self._checkpoints, read=reader(self._model))
        if state is None:
            return
        now, then = self._kind, state.about["kind"]
        differ = [f"{name}={then.get(name)} (now {now[name]})" for name in now if then.get(name) != now[name]]
        if differ:
            raise ValueError(
                f"{self._checkpoints}: a training with {', '.join(differ)}; "
                "ask for the same, give another folder, or remove this one to start anew"
            )
        put_weights(self._model, state.model, self._checkpoints)
        put_optimizer_state(self._model, self._optimizer, state.optimizer)
        self.history.rows, self.done, self.finished = state.about["history"], state.step, state.about["finished"]
        self._best = self.history.best(self._config.metric)
