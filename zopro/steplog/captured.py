"""The step log of a capturable optimizer, whose replayed steps run no Python.

What a record needs is on the device anyway: slopes, counters, learning rates. Operations of the
step itself, captured with it, write them into a row of a ring there; the host reads the rows later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import checks
from ..devices import capturing, common_device, moved
from ..directions import Plan
from ..engine import Engine
from ..measure import Record as Taken
from ..restore import Place
from . import layout as f
from .waiting import usual_moves
from .writer import StepLog

ROWS = 4096
FIXED = 6  # columns of a row before its slopes: step, passes, of them here, estimates, apart, d


class CapturedStepLog(StepLog):
    """A StepLog for capturable=True: replays of a CUDA graph are steps like others.

        with CapturedStepLog("run/steps.zolog", optimizer) as log:
            ...  # some steps, the capture
            for batch in batches:
                graph.replay()
                ...  # now and then: log.flush()

    Make it before the capture, so that what writes the rows is captured too. The last `rows` steps
    wait on the device: call `flush` at least so often (state_dict() does, as does `close`). It
    waits for the device, nothing else does; a kill loses the steps since the last one.

    Raises as StepLog does, and RuntimeError where steps cannot be told from their rows: more than
    `rows` since the last flush, in place a pass that belongs to no step (`perturbed`,
    `eps="auto"`), other targets than at the last step before the capture.
    """

    captured = True

    def __init__(
        self, path: str | Path, optimizer: Engine, *, rows: int = ROWS,
        fsync_seconds: float | None = None, frozen: nn.Module | Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self._rows = checks.integer("rows", rows, 1)
        super().__init__(path, optimizer, fsync_seconds=fsync_seconds, frozen=frozen)
        width = FIXED + self._head.options.num_directions + 1 + 4 * self._head.groups
        device = common_device(optimizer._indices)
        # -1: no step's row; None: a step could not be told, and no later one can.
        self._ring: Tensor | None = torch.full(
            (self._rows, width), -1.0, dtype=torch.float64, device=device
        )

    def taken(self, plan: Plan, record: Taken, ahead: Plan | None) -> None:
        """The optimizer's word of a step, or of one that is captured: it waits for neither."""
        if self._ring is None:
            return
        self._check_parameters(plan.indices, plan.group_of)
        if self._opt._targets is not self._aim:
            if capturing():
                raise RuntimeError(
                    "the targets are others than at the last step in the step log: take a step "
                    "between set_targets or clear_targets and the capture"
                )
            self._read(int(record.step))
            self._write_aim()
        apart, count = self._shape(plan, record.estimates)
        groups = self._opt.param_groups
        told = [float(record.estimates), float(apart), float(count)]
        for name in ("eps", "weight_decay", "maximize"):
            told += [float(group[name]) for group in groups]
        estimates, apart, count, *options = plan.prepared.constants(told, plan.device).unbind()
        rates = [self._scalar(plan, x) for x in record.lr]
        row = [record.step, self._opt._passes, count, estimates, apart, self._scalar(plan, plan.d)]
        row = [*row, *record.slopes.unbind(), record.applied, *rates, *options]
        row = torch.stack([x.double() for x in row]).unsqueeze(0)
        self._ring.index_copy_(0, (record.step % self._rows).view(1), row)

    def flush(self) -> None:
        """Writes the steps since the last flush. Waits for the device."""
        self._read(int(self._opt._step_count))

    def mark(self) -> None:
        """Writes what is waiting and a digest of the weights, against which a replay is checked."""
        self.flush()
        if self._ring is None:
            raise RuntimeError(f"the step log ends at step {self._steps}: begin another log")
        self._opt._weights.home()
        passes = int(self._opt._passes)
        if self._head.options.restore == "inplace":
            self._check_passes(passes, 0, self._steps)
        if self._marked != (self._steps, passes):
            members, self._passes = self._opt._trainable(), passes
            self._check_parameters(members.indices, members.group_of)
            self._write_mark(members.tensors)

    def _scalar(self, plan: Plan, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return moved(value.detach(), plan.device).view(())
        return plan.prepared.constants([float(value)], plan.device).view(())

    def _shape(self, plan: Plan, estimates: int) -> tuple[bool, int]:
        """Whether each estimate went home, and the passes of the step; both 0 where it restores
        from a copy."""
        if self._head.options.restore != "inplace":
            return False, 0
        trace, two_sided = self._trace(), self._opt._estimator == "two_sided"
        moves = [self._move(plan, place) for _, place in trace[:-1]]
        for apart in (False, True):
            usual = usual_moves(len(plan.directions), two_sided, estimates, apart)
            if moves == list(usual):
                return apart, len(trace)
        self._ring = None
        raise RuntimeError(
            "a step in place took passes that its record does not tell (eps='auto', perturbed, a "
            "closure that raised): give eps as a number, or use restore='exact'"
        )

    def _move(self, plan: Plan, place: Place) -> f.Move | None:
        if not place.terms:
            return f.Move(f.HOME)
        ((direction, scale),) = place.terms
        where = {1: f.PLUS, -1: f.MINUS}.get(plan.multiples.factor(scale))
        if where is None or not any(direction is d for d in plan.directions):
            return None
        return f.Move(where, direction.stream)

    def _read(self, until: int) -> None:
        """Writes the steps before `until` that are not in the log yet."""
        waiting = until - self._steps
        if waiting == 0 or self._ring is None:
            return
        if not 0 < waiting <= self._rows:
            raise RuntimeError(
                f"the optimizer is at step {until} where its step log is at {self._steps} and "
                f"keeps {self._rows} rows: call flush() at least every so many steps, or give "
                "more rows; after load_state_dict begin another log"
            )
        index = torch.arange(self._steps, until) % self._rows
        for row in self._ring.cpu()[index].tolist():
            self._write_row(row)

    def _write_row(self, row: list[float]) -> None:
        count, groups = self._head.options.num_directions, self._head.groups
        step, passes, here, estimates, apart = map(int, row[: FIXED - 1])
        slopes, rest = row[FIXED : FIXED + count], row[FIXED + count :]
        applied, rest = bool(rest[0]), rest[1:]
        lr, eps, decay, maximize = (tuple(rest[g * groups : (g + 1) * groups]) for g in range(4))
        if step != self._steps:
            raise RuntimeError(
                f"step {self._steps} left no row in the step log: make the log before the capture"
            )
        if self._head.options.restore == "inplace":
            self._check_passes(passes, here, step)
        options = f.Groups(eps, decay, tuple(map(bool, maximize)))
        lr = lr if len(set(lr)) > 1 else lr[:1]
        self._write_records(options, None, f.Step(
            step, passes, estimates, lr, row[FIXED - 1], tuple(slopes), not applied, bool(apart)
        ))  # fmt: skip
        self._steps, self._passes = step + 1, passes

    def _check_passes(self, passes: int, here: int, step: int) -> None:
        if passes != self._passes + here:
            raise RuntimeError(
                f"{passes - self._passes - here} passes in place before the end of step {step} "
                "are no step's, so their roundings are in the weights and not in the step log: use "
                "restore='exact', or evaluate without perturbed()"
            )
