"""After a kill between two checkpoints: a zeroth-order run goes on from its last step.

`steps.zolog` has the weights of every step in a few bytes; what else a step leaves (counters,
learning rate, sums between two logs, rollouts that serve again) is small and replaces the file
`progress.safetensors` after each. From the two `recovered` makes a checkpoint like any other.

Of several ranks each leaves its own, `progress-<rank>.safetensors`, and keeps the former one: they
do not end a step at one instant, but none is more than a step ahead of another, whose losses it
waits for. They go on from the last step that all of them, and the log, have.
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
from zopro.steplog import Log, read_log, replay

from . import targeted, trees
from .logs import NAME, START, LogSteps
from .resumable import OPTIMIZER, Resumable, last_checkpoint, loop_name, steps_of

logger = logging.getLogger(__name__)

FILE, LINES, FOLDER = "progress.safetensors", "log_history.jsonl", "recovered"
OF_RANK, FORMER = "progress-{}.safetensors", "progress-{}.former.safetensors"

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

    def _optimizer_state(self, checkpoint: Path) -> dict[str, Any]:
        state = super()._optimizer_state(checkpoint)
        if self.zopro._step_log is None:
            return state
        named = self.__dict__.setdefault("_named_targets", targeted.NamedTargets())
        return named.put(state, self.zopro, checkpoint.parent)

    def _take_optimizer(self, state: dict[str, Any]) -> None:
        if "counters" not in state:
            state = targeted.taken(state, self.zopro, Path(self._checkpoint))
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
        log, options = self.zopro._step_log, self.args
        if not options.zo_log_steps or self.zopro._capturable or options.zo_lookahead:
            return  # with lookahead a step ends on the way of the next, as no checkpoint does
        main = self.is_world_process_zero()  # who writes the log
        inplace = self.zopro.restore_policy == "inplace"
        if main and (log is None or (inplace and log._passes != self.zopro._passes)):
            return  # a pass of somebody else's, which the log tells with the next step
        folder, history = Path(options.output_dir), self.state.log_history
        if main and self._lines is None:
            write_beside(folder / LINES, _lines(history), sync=False)
        elif main:
            append(folder / LINES, _lines(history[self._lines :]))
        self._lines = len(history)
        path, own = folder / FILE, self.zopro._own_state()
        if options.world_size > 1:
            path = folder / OF_RANK.format(options.process_index)
            if path.is_file():
                os.replace(path, folder / FORMER.format(options.process_index))
        state = dataclasses.replace(self.state, log_history=[])
        trees.save(path, {
            "ranks": options.world_size,
            "state": dataclasses.asdict(state),
            "counters": {name: own[name] for name in COUNTERS},
            "groups": [{n: v for n, v in group.items() if n not in ("params", "param_names")}
                       for group in self.zopro.param_groups],
            "scheduler": self.lr_scheduler.state_dict(),
            "loop": self._loop_state(),
        }, sync=False)  # fmt: skip


def clear(folder: Path) -> None:
    """Removes what a run left for its going on between checkpoints."""
    for path in (folder / FILE, *folder.glob(OF_RANK.format("*"))):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def left(folder: Path, ranks: int, log: Log) -> list[dict[str, Any]]:
    """What each of the `ranks` left of the last step that all of them and `log` have.

    Raises FileNotFoundError where one left nothing, ValueError where there is no such step, a file
    is damaged or of a run on another number of ranks.
    """
    if ranks == 1:
        found = [[trees.load(folder / FILE)]]
    else:
        found = [_of_rank(folder, rank) for rank in range(ranks)]
    steps = [{p["state"]["global_step"]: p for p in of if p.get("ranks", 1) == ranks
              and p["counters"]["step"] <= log.steps} for of in found]  # fmt: skip
    if common := set.intersection(*map(set, steps)):
        return [of[max(common)] for of in steps]
    raise ValueError(f"{folder / NAME} and what the ranks left beside it have no step in common")


def _of_rank(folder: Path, rank: int) -> list[dict[str, Any]]:
    paths = [folder / name.format(rank) for name in (OF_RANK, FORMER)]
    found = [trees.load(path) for path in paths if path.is_file()]
    if not found:
        raise FileNotFoundError(paths[0])
    return found


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
        log = read_log(folder / NAME)
        of_ranks = left(folder, trainer.args.world_size, log)
    except FileNotFoundError:
        return known
    except ValueError as error:
        logger.warning("%s: the run goes on from its last checkpoint", error)
        return known
    progress = of_ranks[0]
    step = progress["state"]["global_step"]
    if known is not None and step <= steps_of(Path(known)):
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
    return _write(trainer, made, of_ranks)


def _write(trainer: Any, made: Path, of_ranks: list[dict[str, Any]]) -> str:
    progress = of_ranks[0]
    beside = made.with_name(made.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    with told(beside):
        trainer.save_model(str(beside), _internal_call=True)
    trees.save(beside / OPTIMIZER, {"optimizer": {n: progress[n] for n in ("counters", "groups")},
                                    "scheduler": progress["scheduler"]})  # fmt: skip
    for rank, own in enumerate(of_ranks):
        trees.save(beside / loop_name(rank, len(of_ranks)), own["loop"])
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
