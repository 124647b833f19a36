"""Saving, loading and copying the optimizer."""

from __future__ import annotations

from typing import Any

import zopro_kernels as zk

from . import checkpoint, targets
from .engine import Engine
from .measure import Pending
from .prepared import Prepared


class Stateful(Engine):
    """An engine with a state_dict."""

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

    def __getstate__(self) -> dict[str, Any]:
        """For copy.deepcopy and pickle: as torch's, without hooks, with everything of ours."""
        self._idle("copying the optimizer")
        self._weights.home()
        own = {
            key: value
            for key, value in self.__dict__.items()
            if not key.startswith("_optimizer_") and not callable(value)
        }
        fresh = {"_weights": None, "_plan": None, "_prepared": Prepared(), "_step_log": None,
                 "_held": (), "_found": None}  # fmt: skip
        return {**own, **super().__getstate__(), **fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.__dict__.get("_weights") is None:
            self._choose_weights()

    def _own_state(self) -> dict[str, Any]:
        position = {p: i for i, p in enumerate(self._flat())}
        return {
            "law": zk.LAW,
            "seed": self._seed,
            "step": int(self._step_count),
            "passes": int(self._passes),
            "skipped_steps": self.skipped_steps,
            "distribution": self._distribution,
            "estimator": self._estimator,
            "num_directions": self._num_directions,
            "trainable": [position[p] for p in self._indices],
            "shapes": [list(p.shape) for p in self._indices],
            "pending": None if self._pending is None else self._pending.state(),
            "targets": checkpoint.pack_targets(self._targets, position),
        }

    def _take_state(self, own: dict[str, Any], loaded: targets.Targets | None) -> None:
        flat = self._flat()
        self._seed, self._step_count, self._passes = own["seed"], own["step"], own["passes"]
        self._skipped = own["skipped_steps"]
        self._distribution, self._estimator = own["distribution"], own["estimator"]
        self._num_directions = own["num_directions"]
        self._indices = {flat[i]: n for n, i in enumerate(own["trainable"])}
        self._pending = None if own["pending"] is None else Pending.from_state(own["pending"])
        self._targets, self._plan = loaded, None
        self._prepared = Prepared()  # an index of the law may be another's now
