"""After a kill between two checkpoints: a zeroth-order run goes on from its last step.

`steps.zolog` has the weights of every step in a few bytes; what else a step leaves (counters,
learning rate, sums between two logs, rollouts that serve again) is small and replaces the file
`progress.safetensors` after each. From the two `recovered` makes a checkpoint like any other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from zopro.files import append, locked, sync_folder, told, write_beside
from zopro.steplog import read_log, replay

from . import trees
from .logs import NAME, START, LogSteps
from .resumable import OPTIMIZER, Resumable, last_checkpoint, steps_of

logger = logging.getLogger(__name__)

FILE, LINES, FOLDER = "progress.safetensors", "log_history.jsonl", "recovered"

# Of the optimizer's state, what a step changes; the rest is the same in every process of the run.
COUNTERS = ("law", "seed", "step", "passes", "skipped_steps")


class Recoverable(Resumable):
    """A zeroth-order trainer that loses no step but the one in hand, while it writes a step log.

    `train(resume_from_checkpoint=True)` goes on with what the output folder holds, or begins.
    """

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        """The parent's, in a folder that is locked meanwhile (RuntimeError)."""
        folder = Path(self.args.output_dir)
        with contextlib.ExitStack() as stack:
            if self.is_world_process_zero():
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder))
            if resume_from_checkpoint is True:
                resume_from_checkpoint = self.resume_point()
            if resume_from_checkpoint != str(folder / FOLDER) and self.is_world_process_zero():
                clear(folder)  # of another moment or run
            self._lines = None
            stack.callback(self._close_log)  # where an error leaves it open
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _sync(self, checkpoint: Path) -> None:
        """Also the step log, which the checkpoint is no further than."""
        super()._sync(checkpoint)
        if self.zopro._step_log is not None:
            self.zopro._step_log.sync()

    def _close_log(self) -> None:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, LogSteps):
                callback.close()

    def _resume_point(self) -> str | None:
        return recovered(self)

    def _take_optimizer(self, state: dict[str, Any]) -> None:
        if "counters" not in state:
            return super()._take_optimizer(state)
        # Targets are those that are set, as they were when the run began.
        whole = self.zopro.state_dict()
        for group, saved in zip(whole["param_groups"], state["groups"], strict=True):
            group.update(saved)
        whole["zopro"] = {**whole["zopro"], **state["counters"]}
        self.zopro.load_state_dict(whole)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """After the parent's, which the loop calls after each step and at the end of an epoch."""
        super()._maybe_log_save_evaluate(*args, **kwargs)
        ends = self.state.epoch == int(self.state.epoch)
        ends = ends or self.state.global_step >= self.state.max_steps
        called, self._called = getattr(self, "_called", None), self.state.global_step
        if called == self._called or not ends:  # logs of an epoch are of its last step
            self._write_progress()

    def _write_progress(self) -> None:
        log = self.zopro._step_log
        if log is None or self.args.world_size > 1 or self.args.zo_lookahead:
            return  # with lookahead a step ends on the way of the next, as no checkpoint does
        if self.zopro.restore_policy == "inplace" and log._passes != self.zopro._passes:
            return  # a pass of somebody else's, which the log tells with the next step
        folder, history = Path(self.args.output_dir), self.state.log_history
        if self._lines is None:
            write_beside(folder / LINES, _lines(history), sync=False)
        else:
            append(folder / LINES, _lines(history[self._lines :]))
        self._lines = len(history)
        own = self.zopro._own_state()
        state = dataclasses.replace(self.state, log_history=[])
        trees.save(folder / FILE, {
            "state": dataclasses.asdict(state),
            "counters": {name: own[name] for name in COUNTERS},
            "groups": [{n: v for n, v in group.items() if n not in ("params", "param_names")}
                       for group in self.zopro.param_groups],
            "scheduler": self.lr_scheduler.state_dict(),
            "loop": self._loop_state(),
        }, sync=False)  # fmt: skip


def clear(folder: Path) -> None:
    """Removes what a run left for its going on between checkpoints."""
    (folder / FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def recovered(trainer: Any) -> str | None:
    """The folder of a checkpoint at the run's last whole step: the newest that was saved, or one
    that is made of it (or of the start), the step log and the progress.

    Writes the trainer's trainable weights. Raises ValueError where there is no checkpoint and the
    weights are not those that the run in the folder started from.
    """
    folder = Path(trainer.args.output_dir)
    known = last_checkpoint(folder)
    made = folder / FOLDER
    if (steps_of(made) or -1) > (-1 if known is None else steps_of(Path(known))):
        known = str(made)
    try:
        progress = trees.load(folder / FILE)
        log = read_log(folder / NAME)
    except FileNotFoundError:
        return known
    except ValueError as error:
        logger.warning("%s: the run goes on from its last checkpoint", error)
        return known
    step = progress["state"]["global_step"]
    if known is not None and step <= steps_of(Path(known)):
        return known
    if log.steps < progress["counters"]["step"]:
        logger.warning("%s does not reach step %d: the run goes on from its last checkpoint",
                       folder / NAME, step)  # fmt: skip
        return known
    start = known or (str(folder / START) if (folder / START).is_dir() else None)
    if start is not None:
        trainer._load_from_checkpoint(start)
    try:
        replay(log, dict(trainer.model.named_parameters()), progress["counters"]["step"])
    except ValueError as error:
        if known is None:
            raise ValueError(
                f"output_dir={str(folder)!r} holds a run that cannot go on: {error}; or name a new "
                "folder"
            ) from error
        logger.warning("%s; the run goes on from its last checkpoint", error)
        return known
    logger.info("%s: %d steps of the step log", folder, step)
    return _write(trainer, made, progress)


def _write(trainer: Any, made: Path, progress: dict[str, Any]) -> str:
    beside = made.with_name(made.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    with told(beside):
        trainer.save_model(str(beside))
    trees.save(beside / OPTIMIZER, {"optimizer": {n: progress[n] for n in ("counters", "groups")},
                                    "scheduler": progress["scheduler"]})  # fmt: skip
    trees.save(beside / trainer._loop_name(), progress["loop"])
    state = {**progress["state"], "log_history": _history(made.parent, progress)}
    write_beside(beside / TRAINER_STATE_NAME, json.dumps(state, indent=2, sort_keys=True) + "\n")
    sync_folder(beside)
    shutil.rmtree(made, ignore_errors=True)
    os.replace(beside, made)
    return str(made)


def _lines(entries: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def _history(folder: Path, progress: dict[str, Any]) -> list[dict[str, Any]]:
    """The logs up to the step; a line that was not finished is of a later one."""
    found = []
    for line in (folder / LINES).read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if entry["step"] <= progress["state"]["global_step"]:
            found.append(entry)
    return found
