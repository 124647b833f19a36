"""Writing a step log: every step of an optimizer as a few bytes, without slowing it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import zopro_kernels as zk

from ..digests import digest_each, joined
from ..directions import Plan
from ..engine import Engine
from ..measure import Record as Taken
from . import layout as f
from .aims import save_aim
from .file import LogFile
from .frozen import frozen_of
from .waiting import Waiting, first_of_groups, free_moves

logger = logging.getLogger(__name__)


class StepLog:
    """Writes `path` beside the training of a ZOPrO, until `close()` (or the end of a `with`):

        with StepLog("run/steps.zolog", optimizer):
            ...  # train
        # later: zopro replay BASE run/steps.zolog --out DIR

    Make it when the weights are those that training starts from: their digests go into its head,
    and `close` notes those of the weights that it leaves. A file at `path` of the same run goes on
    where the optimizer is, and what it holds beyond that is cut, with a notice; another run's, and
    one of steps that this begins anew, is kept as `path`.old (.old.1, ...). Targets go beside it as
    safetensors, named by their digest.

    No step waits: slopes are copied to the host behind it, and step n is written when step n + 1
    has been queued. A killed process leaves all but the step before the one in hand, or with
    `every_step` all that were finished, in the file (a record is one write). `fsync_seconds`: also
    ask the disk, at most so often, so that a loss of power costs no more; None never asks.
    The optimizer's state_dict() writes what is waiting and a mark of the weights, so a checkpoint
    never is ahead of the log.

    frozen: the model (or tensors by name) of which the optimizer trains a part: the head then has
    digests of the rest too, which `zopro replay` compares with its BASE. It is read once, now.

    Raises RuntimeError where steps cannot be replayed: other parameters than at the start, a state
    loaded meanwhile; where another StepLog writes the file; OSError where it
    cannot be written, or was removed.
    """

    captured = False  # whether it is for capturable optimizers

    def __init__(
        self,
        path: str | Path,
        optimizer: Engine,
        *,
        every_step: bool = False,
        fsync_seconds: float | None = None,
        frozen: nn.Module | Mapping[str, Tensor] | None = None,
    ) -> None:
        optimizer._idle("StepLog", no_estimates=True)
        if optimizer._capturable is not self.captured:
            raise ValueError(
                f"capturable={optimizer._capturable} with {type(self).__name__}: a captured step "
                "runs no Python that could write it, so CapturedStepLog reads what it leaves on "
                "the device; StepLog is for all other optimizers"
            )
        if optimizer._step_log is not None:
            raise RuntimeError("the optimizer writes a step log already: close() that one first")
        self.path = Path(path)
        self._opt, self._every = optimizer, every_step
        self._head = head_of(optimizer, frozen)
        self._indices = [p.index for p in self._head.parameters]
        self._group_of = [p.group for p in self._head.parameters]
        self._first = first_of_groups(self._group_of)
        self._steps, self._passes = self._head.steps, self._head.passes
        self._waiting: Waiting | None = None
        self._groups: f.Groups | None = None
        self._aim: Any = None  # the Targets of the last record
        self._whole = True  # no pass since the last step is in the log yet
        self._marked: tuple[int, int] | None = None
        self._file = LogFile(self.path, fsync_seconds, self._head)
        self._trace()
        optimizer._step_log = self
        self._hook = optimizer.register_state_dict_pre_hook(lambda _: self.mark())

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self.close(mark=kind is None)

    def close(self, mark: bool = True) -> None:
        """Writes what is waiting and, with `mark`, the digest of the weights; then lets go."""
        if self._opt._step_log is not self:
            return
        try:
            self.mark() if mark else self.flush()
        finally:
            self._opt._step_log = None
            self._opt._weights.trace = None
            self._hook.remove()
            self._file.close()

    def flush(self) -> None:
        """Writes the step that is waiting. Waits for the device."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._write_step(waiting)

    def sync(self) -> None:
        """`flush`, and waits until the disk has it, against a loss of power."""
        self.flush()
        self._file.sync()

    def mark(self) -> None:
        """Writes what is waiting and a digest of the weights, against which a replay is checked."""
        self.flush()
        self._opt._weights.home()
        if self._marked == (self._opt._step_count, self._opt._passes):
            return
        self._check_counters(0)
        members = self._opt._members()
        self._check_parameters([self._opt._indices[p] for p, _, _ in members],
                               [g for _, _, g in members])  # fmt: skip
        trace = self._trace()
        if trace:
            self._write_aim()
            self._file.write(free_moves(self._opt, self._first, trace))
            self._whole = False
        self._steps, self._passes = self._opt._step_count, self._opt._passes
        self._write_mark(p for p, _, _ in members)

    def _write_mark(self, tensors: Iterable[Tensor]) -> None:
        self._file.write(f.Mark(self._steps, self._passes, joined(digest_each(tensors))))
        self._marked = self._steps, self._passes

    def taken(self, plan: Plan, record: Taken, ahead: Plan | None) -> None:
        """The optimizer's word of a step; `record` has its numbers on the device, `ahead` is the
        plan of the next where the weights are at its first perturbation."""
        self._check_counters(1)
        self._check_parameters(plan.indices, plan.group_of)
        self.flush()
        self._write_aim()
        self._waiting = Waiting(
            self._opt, plan, record, self._first, self._trace(), self._whole, ahead
        )
        self._whole = True
        self._steps, self._passes = self._opt._step_count, self._opt._passes
        if self._every:
            self.flush()

    def _check_parameters(self, indices: list[int], group_of: list[int]) -> None:
        if indices != self._indices or group_of != self._group_of:
            raise RuntimeError(
                "the parameters that require grad are others than when the step log began: "
                "close() it and begin another"
            )

    def _check_counters(self, steps: int) -> None:
        """A step that this log has not seen can only come from a loaded state."""
        if (
            self._opt._step_count != self._steps + steps
            or self._opt._passes < self._passes + steps
            or len(self._opt.param_groups) != self._head.groups
        ):
            raise RuntimeError(
                f"the optimizer is at step {self._opt._step_count} where its step log is at "
                f"{self._steps}: after load_state_dict or add_param_group begin another log"
            )
        trace = getattr(self._opt._weights, "trace", None)
        if self._opt.restore_policy == "inplace" and (
            trace is None or len(trace) != self._opt._passes - self._passes
        ):
            raise RuntimeError(
                "a pass over the weights failed, or the optimizer was rebuilt: its roundings are "
                "in the weights and not in the step log; begin another log"
            )

    def _trace(self) -> list:
        """Passes in place since the last call, whose roundings stay in the weights."""
        weights = self._opt._weights
        if weights.policy != "inplace":
            return []
        trace, weights.trace = weights.trace or [], []
        return trace

    def _write_aim(self) -> None:
        targets = self._opt._targets
        if targets is not self._aim:
            self._file.write(save_aim(self.path.parent, targets, self._opt._members()))
            self._aim = targets

    def _write_step(self, waiting: Waiting) -> None:
        self._write_records(*waiting.records())

    def _write_records(self, groups: f.Groups, moves: f.Moves | None, step: f.Step) -> None:
        if groups != self._groups:
            self._file.write(groups)
            self._groups = groups
        if moves is not None:
            self._file.write(moves)
        self._file.write(step)


def head_of(optimizer: Engine, frozen: nn.Module | Mapping[str, Tensor] | None = None) -> f.Head:
    """What a log that begins now says of `optimizer`, its weights and the rest of the model,
    `frozen`. Reads all of them."""
    members = optimizer._members()
    digests = digest_each(p for p, _, _ in members)
    options = f.Options(
        optimizer._distribution,
        optimizer._num_directions,
        optimizer._estimator,
        optimizer._rounding,
        optimizer.restore_policy,
    )
    return f.Head(
        law=zk.LAW,
        seed=optimizer._seed,
        steps=optimizer.step_count,
        passes=int(optimizer._passes),
        groups=len(optimizer.param_groups),
        options=options,
        parameters=tuple(
            f.Parameter(
                str(i) if name is None else name,
                tuple(p.shape),
                str(p.dtype).removeprefix("torch."),
                optimizer._indices[p],
                group,
                digest,
            )
            for i, ((p, name, group), digest) in enumerate(zip(members, digests))
        ),
        digest=joined(digests),
        frozen=None if frozen is None else frozen_of(frozen, (p for p, _, _ in members)),
    )
