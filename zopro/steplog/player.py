"""Weights rebuilt from a step log, to the bit, by the optimizer that made them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .. import auto_eps, checks
from ..devices import numbers
from ..digests import digest_each, joined
from ..optimizer import ZOPrO
from ..seeds import CALIBRATION, DIRECTION
from ..targets import Targets
from . import layout as f
from .aims import load_aim
from .gathered import GatheredWeights, pending
from .reader import Log, read_log
from .waiting import usual_moves

logger = logging.getLogger(__name__)


def replay(
    log: Log | str | Path,
    parameters: Mapping[str, Tensor] | Sequence[Tensor],
    until: int | None = None,
    *,
    backend: str | None = None,
) -> str:
    """Takes `parameters` from where the log begins to where it ends, or to `until` steps of the
    optimizer; returns the SHA-256 of their bits, as the log's marks have it.

    parameters: the trainable ones that training started from, or those of a mark in the log (of a
    checkpoint, say), by name or in the log's order, with their shapes and dtypes, on any device;
    written in place. backend: of zopro_kernels. One update
    a step is enough where training restored exactly; in place, every pass left its roundings in
    the weights and is made again. Many of either go in one pass over the memory. On every backend
    and device the bits are those of the training.

    Raises ValueError for a log or parameters that do not fit, before anything is written, and for
    weights that differ from a mark in the log: they are then those of that step. Warns where a
    log, given by its path, has lost its end and `until` does not ask for an earlier one.
    """
    if not isinstance(log, Log):
        log = read_log(log)
        if log.cut is not None and until is None:
            logger.warning("%s: %s; the weights are those of step %d", log.path, log.cut, log.steps)
    tensors = _matched(log.head, parameters)
    end = log.steps if until is None else checks.integer("until", until, 0)
    if not log.head.steps <= end <= log.steps:
        raise ValueError(
            f"until={end} is not in the log: it holds steps {log.head.steps} to {log.steps}"
        )
    known = _known(log, tensors, end)
    player = _Player(log, tensors, backend)
    for record in log.records[:known]:
        player.pass_over(record)
    try:
        for record in log.records[known:]:
            if until is not None and player.steps == end and isinstance(record, f.Step | f.Moves):
                break
            player.play(record)
        player.settle()
    finally:
        player.weights.flush()
    return joined(digest_each(tensors))


def _matched(head: f.Head, given: Mapping[str, Tensor] | Sequence[Tensor]) -> list[Tensor]:
    """The parameters in the log's order."""
    known = head.parameters
    if isinstance(given, Mapping):
        missing = [p.name for p in known if p.name not in given]
        if missing:
            raise ValueError(
                f"parameters has no {missing[0]!r}, which the log trains: give what the run "
                "started from"
            )
        given = [given[p.name] for p in known]
    if len(given) != len(known):
        raise ValueError(
            f"parameters has {len(given)} tensors where the log trains {len(known)}: give what the "
            "run started from"
        )
    for tensor, p in zip(given, known):
        found = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if found != (p.shape, p.dtype):
            raise ValueError(
                f"parameter {p.name!r} is {found[1]} {found[0]} where the log has {p.dtype} "
                f"{p.shape}: give what the run started from"
            )
    return list(given)


def _known(log: Log, tensors: Iterable[Tensor], end: int) -> int:
    """How many records `tensors` have behind them; ValueError where they are no weights of the log.
    They have the bits of its start, or of a mark no later than `end` steps."""
    digests = digest_each(tensors)
    whole = joined(digests)
    if whole == log.head.digest:
        return 0
    for i, record in enumerate(log.records):
        marked = isinstance(record, f.Mark | f.Resume) and record.steps <= end
        if marked and record.digest == whole:
            return i + 1
    digest, p = next((d, p) for d, p in zip(digests, log.head.parameters) if d != p.digest)
    raise ValueError(
        f"parameter {p.name!r} has other weights than the run started from (SHA-256 "
        f"{digest[:12]}, the log has {p.digest[:12]}): give the run's base"
    )


class _Player:
    """The optimizer of the log, fed with its numbers instead of losses.

    The weights never are away between steps of a run that restored exactly, so it plays in place:
    one update a step, and many of these in a pass over the memory (gathered.py).
    """

    def __init__(self, log: Log, tensors: list[Tensor], backend: str | None) -> None:
        head = log.head
        self._folder = None if log.path is None else log.path.parent
        self._params = [torch.nn.Parameter(t.detach()) for t in tensors]
        groups = [{"params": []} for _ in range(head.groups)]
        for p, known in zip(self._params, head.parameters):
            groups[known.group]["params"].append(p)
        self._opt = ZOPrO(groups, lr=0.0, restore="inplace", backend=backend)
        self._opt._weights = self.weights = GatheredWeights(self._opt._rounding_seed)
        self._opt._indices = {p: known.index for p, known in zip(self._params, head.parameters)}
        self._opt._step_count, self._opt._passes = head.steps, head.passes
        self._d = 0.0
        self._take(head.seed, head.options)

    @property
    def steps(self) -> int:
        """Steps of the optimizer so far."""
        return self._opt._step_count

    def play(self, record: f.Record) -> None:
        """Does what `record` says."""
        if isinstance(record, f.Step):
            self._step(record)
        elif isinstance(record, f.Groups):
            for g, group in enumerate(self._opt.param_groups):
                group["eps"], group["maximize"] = record.eps[g], record.maximize[g]
                group["weight_decay"] = record.weight_decay[g]
        elif isinstance(record, f.Aim):
            self._targets(record)
        elif isinstance(record, f.Moves):
            if record.d != self._d:  # else the weights may be on the plan that was made ahead
                self._opt._plan = None
            self._d, self._explicit = record.d, True
            self._pass(record.moves)
        else:
            self._mark(record)

    def settle(self) -> None:
        """Stores theta where a step with lookahead left theta + eps z."""
        self._opt._weights.home()

    def pass_over(self, record: f.Record) -> None:
        """Takes notice of `record`, whose passes the weights have behind them."""
        if isinstance(record, f.Step):
            self._opt._step_count, self._opt._passes = record.step + 1, record.passes
        elif isinstance(record, f.Mark | f.Resume):
            self._opt._passes = record.passes
            if isinstance(record, f.Resume):
                self._take(record.seed, record.options)
        elif isinstance(record, f.Groups | f.Aim):
            self.play(record)

    def _take(self, seed: int, options: f.Options) -> None:
        opt = self._opt
        opt._seed, opt._distribution, opt._estimator = seed, options.distribution, options.estimator
        opt._num_directions, opt._rounding = options.num_directions, options.rounding
        self._exact = options.restore != "inplace"
        opt._targets = opt._plan = None
        self._explicit = False

    def _targets(self, aim: f.Aim) -> None:
        self.weights.flush()
        self._opt._targets = self._opt._plan = None
        if aim.file is not None:
            prev, v, v_norm = load_aim(self._folder, aim, self._params)
            norm = dict(zip(self._params, aim.norms))
            # The log holds d itself: the schedule has done its part.
            self._opt._targets = Targets(prev, v, norm, v_norm, lambda *_: self._d, None, 1.0, 0)

    def _step(self, r: f.Step) -> None:
        opt = self._opt
        for g, group in enumerate(opt.param_groups):
            group["lr"] = r.lr[g] if len(r.lr) > 1 else r.lr[0]
        self._d = r.d
        plan = opt._current_plan()  # on which the weights may be somewhere already
        if self._exact:
            opt._passes = r.passes - 1  # of the others nothing remains
        elif not self._explicit:
            two_sided = opt._estimator == "two_sided"
            self._pass(usual_moves(len(r.slopes), two_sided, r.estimates, r.apart))
        opt._pending = pending(r, plan, opt._estimator == "two_sided")
        opt._lookahead, self._d = r.next_d is not None, r.d if r.next_d is None else r.next_d
        opt._finish_step()
        self._explicit = False
        if opt._passes != r.passes:
            raise ValueError(
                f"step {r.step} of the log took {r.passes - opt._passes:+d} passes more than its "
                "records: the log cannot be replayed beyond it"
            )

    def _pass(self, moves: Iterable[f.Move]) -> None:
        """Passes in place, each with the rounding seed that it had."""
        opt, plans = self._opt, {}
        plan = opt._current_plan()
        for move in moves:
            if move.where == f.HOME:
                opt._weights.home()
            elif move.where in (f.PLUS, f.MINUS):
                eps = plan.eps if move.where == f.PLUS else -plan.eps
                opt._weights.move(plan, plan.directions[move.stream], eps)
            else:
                if move.where not in plans:
                    calibrates = move.where == f.CALIBRATION
                    seed = opt._step_seed(CALIBRATION if calibrates else DIRECTION)
                    count = auto_eps.DIRECTIONS if calibrates else opt._num_directions
                    plans[move.where] = opt._build_plan(seed, count)
                other = plans[move.where]
                scale = numbers([move.scale[g] for g in other.group_of], other.device)
                opt._weights.move(other, other.directions[move.stream], scale)

    def _mark(self, record: f.Mark | f.Resume) -> None:
        self.weights.flush()
        digest = joined(digest_each(self._params))
        if digest != record.digest:
            raise ValueError(
                f"the weights after step {record.steps} are not those of the run (SHA-256 "
                f"{digest[:12]}, the log has {record.digest[:12]}): something else than the "
                "optimizer changed the run's weights before it"
            )
        self._opt._passes = record.passes
        if isinstance(record, f.Resume):
            self._take(record.seed, record.options)
