"""How targets are given to the optimizer and taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from . import checks, schedules, targets
from .stateful import Stateful


class Aimed(Stateful):
    """An optimizer whose directions can be aimed."""

    def set_targets(
        self,
        policy_update: Sequence[Tensor] | Mapping[str, Tensor],
        reward_update: Sequence[Tensor | None] | Mapping[str, Tensor] | None = None,
        schedule: str | schedules.Schedule = "linear",
        steps: int | None = None,
        half_life: float = 0.1,
        storage: str = "fp32",
    ) -> None:
        """Aims the directions of the next steps: see zopro.aiming for the formulas.

        policy_update: the policy's previous update, a tensor for each trainable parameter, of its
            shape, in parameter order or by name (then build ZOPrO from named_parameters()).
        reward_update: the reward model's, likewise; where it is None, absent or 0, z is not made
            orthogonal to it. Both are copied, to the parameters' devices.
        schedule: of the previous update's weight d over `steps` steps from now: "linear",
            "cosine", "exponential" (halved every `half_life` * steps), "constant", or a callable
            (step, steps) -> d with d at most 1; below 0 counts as 0.
        storage: of the copies: "fp32", "bf16" or "int8" (with an fp32 scale for each 256 elements):
            4, 2 or 1.02 bytes an element of each, in memory and in every pass; directions are near
            those of fp32 (docs/kernels.md) and exactly orthogonal to the v that is stored.
        Raises ValueError or TypeError for wrong counts, shapes, names, an unknown schedule, numbers
        that are not finite, or a group whose policy_update is 0; nothing is changed then.
        """
        self._idle("set_targets", no_estimates=True)
        if self._capturable and callable(schedule):
            raise ValueError(
                "schedule is a callable, which runs on the host: with capturable=True give one of "
                f"{', '.join(map(repr, schedules.NAMES))}, which the device follows"
            )
        checks.choice("storage", storage, targets.STORAGES)
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
        built = targets.build(
            params, policy, reward, schedule, steps, half_life, self.step_count, storage
        )
        targets.check_groups(built, params, [g for _, _, g in members])
        self._weights.home()
        self._targets, self._plan = built, None

    @property
    def target_weight(self) -> float | None:
        """d, the previous update's weight in the last directions drawn; None without targets."""
        return None if self._targets is None else float(self._targets.used)

    def clear_targets(self) -> None:
        """Back to plain directions."""
        self._idle("clear_targets", no_estimates=True)
        self._weights.home()
        self._targets = self._plan = None
