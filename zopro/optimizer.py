"""ZOPrO: a torch.optim.Optimizer that needs forward passes alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from . import checkpoint, checks, schedules, targets
from .engine import Engine

logger = logging.getLogger(__name__)


class ZOPrO(Engine):
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
    restore: "exact" keeps a copy of the trainable weights and returns the very bits; "inplace"
        takes no memory, and each pass leaves a rounding error of one unit in the last place or
        less. These add up to a drift: docs/kernels.md (benchmarks/inplace_drift.py) says how
        far it goes, and that rounding to nearest lets bf16 weights shrink where stochastic
        rounding does not. "auto" is exact up to 1 GiB of trainable weights; `restore_policy`
        tells.
    seed: in [0, 2^64); the same on all ranks of a distributed run.
    maximize: climb instead of descend.
    backend: of zopro_kernels ("cuda", "triton", "cpu", "reference"); None picks the fastest.

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
    ) -> None:
        self._distribution = checks.choice("distribution", distribution, checks.DISTRIBUTIONS)
        self._estimator = checks.choice("estimator", estimator, checks.ESTIMATORS)
        self._rounding = checks.choice("rounding", rounding, checks.ROUNDINGS)
        self._restore = checks.choice("restore", restore, checks.RESTORES)
        self._num_directions = checks.integer("num_directions", num_directions, 1)
        self._seed = checks.integer("seed", seed, 0, 2**64)
        self._backend = checks.backend(backend)
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
        return self._step_count

    @property
    def restore_policy(self) -> str:
        """The restore in force, "exact" or "inplace"."""
        return self._weights.policy

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group as torch does; its trainable parameters take the next indices."""
        self._idle("add_param_group", no_estimates=True)
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

    def estimate(self, closure: Callable[[], Any]) -> Tensor:
        """Measures the slope along this step's directions; returns the mean loss, 0-dim.

        closure() returns the loss (a scalar tensor or a number) of one batch, the same for both
        signs; it runs without a graph. Called again before `step`, it accumulates: the step uses
        the mean of the slopes. The weights are theta again afterwards, also when the closure
        raises, and its error goes on. Raises TypeError or ValueError for what is no scalar.
        """
        try:
            loss = self._measure(closure)
        except BaseException:
            if self._busy is None:  # else the weights belong to whoever is busy with them
                self._weights.home()
            raise
        if not self._defer_restore:
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
        finally:
            if self._busy is None:
                self._weights.home()
        return loss

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
            yield
        finally:
            self._busy = None
            self._weights.home()
            if self._pending is None:
                self._plan = None  # the step itself reads the groups' eps again

    def set_targets(
        self,
        policy_update: Sequence[Tensor] | Mapping[str, Tensor],
        reward_update: Sequence[Tensor | None] | Mapping[str, Tensor] | None = None,
        schedule: str | schedules.Schedule = "linear",
        steps: int | None = None,
        half_life: float = 0.1,
    ) -> None:
        """Aims the directions of the next steps: see zopro.targets for the formulas.

        policy_update: the policy's previous update, a tensor for each trainable parameter, of its
            shape, in parameter order or by name (then build ZOPrO from named_parameters()).
        reward_update: the reward model's, likewise; where it is None, absent or 0, z is not made
            orthogonal to it. Both are copied, as fp32 on the parameters' devices.
        schedule: of the previous update's weight d over `steps` steps from now: "linear",
            "cosine", "exponential" (halved every `half_life` * steps), "constant", or a callable
            (step, steps) -> d with d at most 1; below 0 counts as 0.
        Raises ValueError or TypeError for wrong counts, shapes, names, an unknown schedule, numbers
        that are not finite, or a group whose policy_update is 0; nothing is changed then.
        """
        self._idle("set_targets", no_estimates=True)
        function = schedules.resolve(schedule, steps, half_life)
        schedules.weight(function, 0, steps)
        members = self._members()
        params = [p for p, _, _ in members]
        names = [n for _, n, _ in members]
        named = None if None in names else names
        policy = targets.aligned("policy_update", policy_update, params, named, partial=False)
        reward = [None] * len(params)
        if reward_update is not None:
            reward = targets.aligned("reward_update", reward_update, params, named, partial=True)
        built = targets.build(params, policy, reward, schedule, steps, half_life, self._step_count)
        targets.check_groups(built, params, [g for _, _, g in members])
        self._targets, self._plan = built, None

    def clear_targets(self) -> None:
        """Back to plain directions."""
        self._idle("clear_targets", no_estimates=True)
        self._targets = self._plan = None

    def state_dict(self) -> dict[str, Any]:
        """torch's, plus "zopro": seed, counters, options, waiting estimates, targets, noise law.

        Numbers, strings, lists and tensors only: torch.load(weights_only=True) reads it.
        """
        self._idle("state_dict")
        self._weights.home()
        state = super().state_dict()
        state[checkpoint.KEY] = self._own_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the very path of the optimizer that wrote `state_dict`.

        Seed, counters, distribution, estimator, num_directions, targets and waiting estimates
        come from it, as the groups' options do; restore, rounding and backend stay. Raises
        ValueError for a state of another optimizer, model or noise law; nothing is changed then.
        """
        self._idle("load_state_dict")
        own = checkpoint.check(state_dict, self._flat())
        loaded = checkpoint.unpack_targets(own["targets"], self._flat(), self._targets)
        self._weights.home()
        super().load_state_dict(state_dict)
        self._take_state(own, loaded)
