"""What every phase with a trainer needs: its arguments, its log, its checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)

from zopro.analysis import SketchWriter
from zopro.trainer import Resumable, ZerothOrderArguments
from zopro.trainer.backward import OFF
from zopro.trainer.resumable import steps_of
from zopro.trainer.sketching import SketchWeights

from .config import IterationConfig
from .models import RewardModel
from .store import RunFolder

# No autocast, no checkpointing unless asked for: adapters are small, and zeroth-order phases need
# the losses' low bits.
DEFAULTS = {"report_to": "none", "logging_steps": 10, "save_total_limit": 1, "bf16": False,
            "gradient_checkpointing": False}  # fmt: skip

TENSORBOARD = "TENSORBOARD_LOGGING_DIR"  # transformers reads it as a trainer is made

# What only a phase with a backward pass reads.
BACKWARD = (*OFF, "optim", "optim_args", "optim_target_modules")


@dataclass
class Context:
    """What the phases share."""

    config: IterationConfig
    run: RunFolder
    policy: PreTrainedModel
    reward: RewardModel | None
    tokenizer: PreTrainedTokenizerBase
    reward_funcs: list[Any] = field(default_factory=list)  # plain ones, where there is no network
    judge: Any = None
    extra_callbacks: list[TrainerCallback] = field(default_factory=list)
    first_reward: dict[str, Tensor] | None = None  # instead of training one

    def callbacks(self, phase: str) -> list[TrainerCallback]:
        return [LogLines(self.run, phase), *self.extra_callbacks]

    def working(self, phase: str, what: str, total: int) -> Callable[[int, int], None]:
        """A function to tell, between the trainers, of so many more (of `total`) items done and
        tokens seen; callbacks with `on_work(phase, what, done, total, tokens)` hear the sums."""
        watching = [c.on_work for c in self.extra_callbacks if hasattr(c, "on_work")]
        sums = [0, 0]

        def told(items: int, tokens: int) -> None:
            sums[0] += items
            sums[1] += tokens
            for on_work in watching:
                on_work(phase, what, sums[0], total, sums[1])

        told(0, 0)
        return told

    def sketches(
        self, phase: str, network: str, weights: Callable[[], Mapping[str, Tensor]]
    ) -> list[TrainerCallback]:
        """What sketches the network's weights while its trainer runs, if the run wants that."""
        every = self.config.sketch_every
        if every == 0:
            return []
        writer = SketchWriter(self.run.path) if self.run.main else None
        return [SketchWeights(writer, network, phase, every, weights)]


class LogLines(TrainerCallback):
    """Every log of a trainer as a line of metrics.jsonl, on the main rank."""

    def __init__(self, run: RunFolder, phase: str) -> None:
        self._run, self._phase = run, phase

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            self._run.log(self._phase, state.global_step, dict(logs))


class SaveTenTimes(TrainerCallback):
    """At least ten checkpoints over a phase without a step log, which goes on from its last one."""

    def on_step_end(self, args, state, control, **kwargs):
        if args.save_strategy == "steps" and not state.global_step % max(1, state.max_steps // 10):
            control.should_save = True


def phase_seed(seed: int, phase: str, use: str = "") -> int:
    """A seed below 2^32 of its own for each phase of a run and each use in it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{phase}:{use}".encode()).digest()[:4], "big")


def arguments(
    cls: type, context: Context, phase: str, options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> TrainingArguments:
    """The configuration of a phase's trainer: our defaults, the run's, the phase's, in this order.

    The folder, the seed and the saving are the driver's.
    """
    values = fields_for(cls, context.config, options, defaults)
    values["run_name"] = f"{values.get('run_name') or context.run.path.resolve().name}/{phase}"
    return cls(
        output_dir=str(context.run.checkpoints(phase)),
        seed=phase_seed(context.config.seed, phase),
        save_strategy="steps",
        save_steps=context.config.save_steps,
        **values,
    )


def fields_for(
    cls: type, config: IterationConfig, options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of `cls` out of our defaults, the run's `trainer` and a phase's options.

    What `trainer` holds for a backward pass (`BACKWARD`) is for the phases that have one.
    """
    common = config.trainer
    if issubclass(cls, ZerothOrderArguments):
        common = {name: value for name, value in common.items() if name not in BACKWARD}
    known = {f.name for f in dataclasses.fields(cls)}
    merged = {**DEFAULTS, **defaults, **common, **options}
    return {name: value for name, value in merged.items() if name in known}


@contextmanager
def reported(context: Context, phase: str) -> Iterator[None]:
    """Inside, TensorBoard's folder and W&B's run are the phase's own: each counts its steps from 1,
    and in one folder or run their curves would lie over each other."""
    former = os.environ.get(TENSORBOARD)
    base = Path(former) if former else context.run.path / "tensorboard"
    os.environ[TENSORBOARD] = str(base / phase)
    os.environ.setdefault("WANDB_RUN_GROUP", context.run.path.resolve().name)
    wandb = sys.modules.get("wandb")
    users = getattr(wandb, "run", None)  # one that was begun before is its caller's
    try:
        yield
    finally:
        if former is None:
            del os.environ[TENSORBOARD]
        else:
            os.environ[TENSORBOARD] = former
        wandb = sys.modules.get("wandb")
        if users is None and getattr(wandb, "run", None) is not None:
            wandb.finish()


@contextmanager
def forwards_kept(policy: PreTrainedModel) -> Iterator[None]:
    """TRL's trainers put a forward of their own on the model; on exit it has its former one.

    Without it each phase would wrap the forward of the phase before.
    """
    models = {policy, getattr(policy, "get_base_model", lambda: policy)()}
    former = {model: vars(model).get("forward") for model in models}
    try:
        yield
    finally:
        for model, forward in former.items():
            if forward is None:
                vars(model).pop("forward", None)
            else:
                model.forward = forward


def train(trainer: Resumable, context: Context, phase: str) -> dict[str, float]:
    """Trains from where the phase was, or from its start; the trainer's final metrics."""
    return go_on(trainer, lambda step: context.run.forget(phase, step))


def go_on(trainer: Resumable, forget: Callable[[int], None]) -> dict[str, float]:
    """Trains from where the run in the trainer's folder was, or from the start; the final metrics.

    forget: told the step, or -1, after which metrics will be written again.
    """
    if not isinstance(trainer.args, ZerothOrderArguments):
        trainer.add_callback(SaveTenTimes)
    checkpoint = trainer.resume_point()
    forget(-1 if checkpoint is None else steps_of(Path(checkpoint)))
    result = trainer.train(resume_from_checkpoint=checkpoint)
    # Gradients are not needed while the next phase runs; the optimizer's state goes with `trainer`.
    trainer.model.zero_grad(set_to_none=True)
    return {"steps": trainer.state.global_step, **result.metrics}
