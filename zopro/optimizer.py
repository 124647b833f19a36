"""ZOPrO: a torch.optim.Optimizer that needs forward passes alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from . import checks
from .population.method import Populated
from .restore import choose_policy

logger = logging.getLogger(__name__)


class ZOPrO(Populated):
    """Zeroth-order preference optimisation (arXiv 2503.03460), and plain SPSA without targets.

    A step measures the loss at theta +- eps z along seeded directions z that are never stored
    (SPSA: Spall 1992; in place: MeZO, arXiv 2305.17333) and walks along them:

        g_k = (L(theta + eps z_k) - L(theta - eps z_k)) / (2 eps)
        theta <- theta - lr (mean_k g_k z_k + weight_decay theta)

    with z of root mean square 1 an element. Each z depends on (seed, step, k, index of the
    parameter) alone; no global random generator is read or moved. Put the model in eval() mode:
    dropout would show each evaluation another function, and be measured as slope.

    params: parameters, (name, parameter) pairs, or groups with their own lr, eps, weight_decay,
        maximize. fp32, bf16 or fp16, dense; written in place. Those that do not require grad are
        left alone. A parameter's index in the noise law is its place among the trainable ones.
    lr: step size, at least 0. Schedulers may change it between steps.
    eps: rms of the perturbation an element, in the weights' units, or "auto": the first estimate
        looks for the smallest that rises clear of the loss's noise (see zopro.auto_eps; 32 to 100
        more closure calls as a rule, once) and sets the groups' eps to it.
    distribution: of the noise, "rademacher" (+1 or -1) or "gaussian".
    weight_decay: decoupled, as in AdamW; at least 0.
    num_directions: K, averaged in each step: 2 K closure calls, or K + 1 one-sided.
    estimator: "two_sided" as above, or "one_sided": (L(theta + eps z_k) - L(theta)) / eps, one
        L(theta) for all k.
    rounding: of bf16 and fp16 stores: "stochastic" (unbiased, fresh random bits each pass),
        "nearest", or "auto", which is stochastic. fp32 is stored as it is.
    restore: "exact" keeps a copy of the trainable weights and returns the very bits. "layerwise"
        does so with one layer's memory: no stored weight is perturbed, each module of the model
        given to `attach` runs on a copy of its own parameters (docs/restore.md). "inplace" takes no
        memory, and each pass leaves a rounding error of one unit in the last place or less, which
        add up to a drift. "auto" is "exact" up to 1 GiB of trainable weights, above it "inplace",
        with a warning in bf16 and fp16; "exact" and "auto" are "layerwise" where `attach` says so.
    seed: in [0, 2^64); the same on all ranks of a distributed run.
    maximize: climb instead of descend.
    backend: of zopro_kernels ("cuda", "triton", "cpu", "reference"); None picks the fastest.
    lookahead: the pass that restores and updates perturbs for the next step as well: two passes a
        two-sided step of one direction instead of three. Between steps the stored weights are then
        theta + eps z: `settle()` before anything else looks at them. In place, two-sided.
    capturable: for CUDA graphs: a step captured with its closure after a few warm-up steps takes
        the next direction at each replay. Counters and seeds are then kept on the device, and lr
        may be a tensor there, written in place; all other options are fixed at the capture.
        CapturedStepLog writes the step log of the replays.

    Nothing in a step waits for the device, as long as the parameters are on one and the closure
    does not. `last` is the StepReport of the last step, `skipped_steps` counts those whose losses
    were not all finite: reading them waits. Raises ValueError or TypeError for an argument or
    parameter that does not serve.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        eps: float | str = 1e-3,
        distribution: str = "rademacher",
        weight_decay: float = 0.0,
        num_directions: int = 1,
        estimator: str = "two_sided",
        rounding: str = "auto",
        restore: str = "auto",
        seed: int = 0,
        maximize: bool = False,
        backend: str | None = None,
        capturable: bool = False,
        lookahead: bool = False,
    ) -> None:
        self._distribution = checks.choice("distribution", distribution, checks.DISTRIBUTIONS)
        self._estimator = checks.choice("estimator", estimator, checks.ESTIMATORS)
        self._rounding = checks.choice("rounding", rounding, checks.ROUNDINGS)
        self._restore = checks.choice("restore", restore, checks.RESTORES)
        self._num_directions = checks.integer("num_directions", num_directions, 1)
        self._seed = checks.integer("seed", seed, 0, 2**64)
        self._backend = checks.backend(backend)
        self._capturable, self._lookahead = bool(capturable), bool(lookahead)
        if lookahead and (restore in ("exact", "layerwise") or estimator == "one_sided"):
            raise ValueError(
                f"lookahead=True with restore={restore!r} and estimator={estimator!r}: a copy and "
                "a baseline are of theta itself; use 'inplace' (or 'auto') and 'two_sided'"
            )
        if lookahead and capturable:
            raise ValueError(
                "lookahead=True with capturable=True: a captured step would begin at the direction "
                "that lay ahead of the capture each time it replays; give one of them"
            )
        if lookahead:
            self._restore = "inplace"
        defaults = {"lr": lr, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        checks.group_options(defaults)
        super().__init__(checks.parameter_list(params), defaults)
        if not self._indices:
            raise ValueError(
                "params has no parameter that requires grad: call requires_grad_() on what is to "
                "be trained (fp32, bf16 or fp16; integer tensors cannot be)"
            )
        logger.info("ZOPrO restores its %d tensors %s", len(self._indices), self.restore_policy)

    @property
    def step_count(self) -> int:
        """Steps so far, skipped ones included: with the seed, what fixes the next direction."""
        return int(self._step_count)

    @property
    def restore_policy(self) -> str:
        """The restore in force: "exact", "layerwise" or "inplace"."""
        return self._weights.policy

    def attach(self, model: nn.Module | None, held: Iterable[Tensor] = ()) -> None:
        """Names the model whose modules own the parameters, for restore="layerwise" and, for
        "exact" and "auto", above 1 GiB of trainable weights or, where they are most of the model's
        own, 64 MiB: `restore_policy` tells, and the log. None lets go of it.

        Its modules have hooks while a closure runs, and never else. held: parameters to exchange
        for whole evaluations, at the memory of their copies: such as a head's that a fused loss
        reads without its module, or one that many modules share. Raises TypeError for what is no
        module, ValueError for a model that torch.compile or DataParallel has wrapped.
        """
        self._idle("attach", no_estimates=True)
        policy = choose_policy(self._restore, list(self._indices), model)
        if model is not None:
            checks.attachable(model, evaluated=policy == "layerwise")
        self._weights.home()
        self._model, self._held, self._plan = model, tuple(held), None
        self._prepared.forget("layers")
        self._choose_weights()
        logger.info("restore=%r with %s attached is %s", self._restore,
                    "no model" if model is None else type(model).__name__, policy)  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group as torch does; its trainable parameters take the next indices."""
        self._idle("add_param_group", no_estimates=True)
        if self._weights is not None:
            self._weights.home()
        checks.no_duplicates(param_group)
        super().add_param_group(param_group)
        known = dict(self._indices)
        try:
            checks.group_options(self.param_groups[-1])
            self._index_trainable()
        except BaseException:
            self.param_groups.pop()
            self._indices = known
            raise
        self._plan = None
        self._choose_weights()

    def estimate(self, closure: Callable[[], Any], *, restore: bool = True) -> Tensor:
        """Measures the slope along this step's directions; returns the mean loss, 0-dim.

        closure() returns the loss (a scalar tensor or a number) of one batch, the same for both
        signs; it runs without a graph. Called again before `step`, it accumulates: the step uses
        the mean of the slopes. The weights are theta again afterwards, also when the closure
        raises, and its error goes on; with `restore` False they stay perturbed until `step`, whose
        one pass restores and updates, or `settle`: for loops in which nothing looks at them before.
        Raises TypeError or ValueError for what is no scalar.
        """
        try:
            loss = self._measure(closure)
        except BaseException:
            if self._busy is None:  # else the weights belong to whoever is busy with them
                self._weights.home()
            raise
        if restore:
            self._weights.home()
        return loss

    def step(self, closure: Callable[[], Any] | None = None) -> Tensor | None:
        """Applies the update of the estimates so far; with `closure`, estimates first.

        Restore and update are one pass. Returns the mean of the closure's losses (None without a
        closure). If a loss of this step was not finite the weights stay as they were, the step is
        counted in `skipped_steps`, and the next one takes the next direction. Raises RuntimeError
        where there is no estimate.
        """
        loss = None
        try:
            if closure is not None:
                loss = self._measure(closure)
            self._finish_step()
        except BaseException:
            if self._busy is None:
                self._weights.home()
            raise
        return loss

    def settle(self) -> None:
        """Stores theta again, where a step with `lookahead` has left theta + eps z.

        Whatever reads or writes weights between steps calls it first: evaluation, saving, loading.
        The optimizer's own methods do. One pass, or none.
        """
        self._idle("settle")
        self._weights.home()

    @contextmanager
    def perturbed(self, sign: float, direction: int = 0) -> Iterator[None]:
        """Inside, the weights are theta + sign eps z of the step in progress; theta again on exit.

        `sign` is any finite number; `direction` one of the num_directions. The exit restores after
        an error too. Raises RuntimeError inside another `perturbed` or a closure.
        """
        scale = checks.number("sign", sign, -float("inf"))
        k = checks.integer("direction", direction, 0, self._num_directions)
        self._idle("perturbed")
        if any(group["eps"] == "auto" for group in self.param_groups):
            raise RuntimeError(
                "perturbed: eps='auto' is settled by the first estimate; call "
                "estimate(closure) first, or give eps as a number"
            )
        plan = self._current_plan()
        try:
            self._busy = "perturbed"
            self._weights.home()
            self._weights.move(plan, plan.directions[k], plan.eps * scale)
            with self._weights.evaluation(always=True):
                yield
        finally:
            self._busy = None
            self._weights.home()
            if self._pending is None:
                self._plan = None  # the step itself reads the groups' eps again
