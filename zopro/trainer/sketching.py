"""Sketches of the weights while a trainer runs: kilobytes a snapshot, for `zopro.analysis`."""

import logging
from collections.abc import Callable, Mapping

from torch import Tensor
from transformers import TrainerCallback

from zopro.analysis import SketchWriter

from .settling import settle

logger = logging.getLogger(__name__)

PER_PHASE = 20  # snapshots of one `train()` where their distance is left open
POLICY, PHASE = "policy", "train"  # of a trainer that runs alone


class SketchWeights(TrainerCallback):
    """Writes a snapshot of `weights()` when training starts, each `every` steps, and at the end.

    writer: None on a rank that writes nothing. network, phase: as the snapshots tell them. every:
    optimizer steps, >= 1; None: a twentieth of the run. Weights are theta: an optimizer that keeps
    them perturbed is settled on every rank. Weights that are not finite, or of a dtype without
    kernels, are left out with a warning: a look at a run does not end it.
    """

    def __init__(
        self,
        writer: SketchWriter | None,
        network: str,
        phase: str,
        every: int | None,
        weights: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        self._writer, self._network, self._phase = writer, network, phase
        self._every, self._weights = every, weights
        self._last: int | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._last = None
        if state.global_step == 0:  # else the run goes on, and has its beginning
            self.write(0)

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        every = self._every or max(1, state.max_steps // PER_PHASE)
        if state.global_step % every == 0:
            settle(optimizer)
            self.write(state.global_step)

    def on_train_end(self, args, state, control, optimizer=None, **kwargs):
        settle(optimizer)
        if self._last != state.global_step:
            self.write(state.global_step)

    def write(self, step: int) -> None:
        """A snapshot now, after `step` steps."""
        self._last = step
        if self._writer is None:
            return
        try:
            self._writer.add(self._network, self._weights(), self._phase, step)
        except (ValueError, TypeError) as error:
            logger.warning("no sketch of step %d: %s", step, error)


class SketchSteps(TrainerCallback):
    """`SketchWeights` of the trained weights, as `args.zo_sketch_every` says, to its folder."""

    def __init__(self) -> None:
        self._inner: SketchWeights | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._inner = None
        if args.zo_sketch_every == 0:
            return
        writer = SketchWriter(args.output_dir) if state.is_world_process_zero else None
        self._inner = SketchWeights(
            writer, POLICY, PHASE, args.zo_sketch_every,
            lambda: {n: p for n, p in model.named_parameters() if p.requires_grad},
        )  # fmt: skip
        self._inner.on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        if self._inner is not None:
            self._inner.on_step_end(args, state, control, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        if self._inner is not None:
            self._inner.on_train_end(args, state, control, **kwargs)
