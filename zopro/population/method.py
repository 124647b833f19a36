"""`population` as the optimizer has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from .. import checks, targets
from ..aimed import Aimed
from ..seeds import DIRECTION
from .context import Population, opened
from .estimators import SCALES, Together
from .family import Family


class Populated(Aimed):
    """An optimizer that scores many directions in one forward."""

    def population(
        self,
        size: int | None = None,
        mapping: Any = "all",
        *,
        signs: Any = 1,
        estimator: str | None = None,
        scale: str = "none",
        rank: int | None = 1,
        family: Family | None = None,
        model: nn.Module | None = None,
    ) -> AbstractContextManager[Population]:
        """A block in which each sequence of a batch runs along its own direction:

            with opt.population(16) as pop:
                logits = model(**pop.copies(inputs)).logits  # 2 x 16 times the batch
                pop.losses(loss_of_each_sequence(logits))
            opt.step()

        No weight is changed and no copy of the model made: a layer that owns trainable parameters
        makes theta + r z for some sequences at a time as its own forward runs (the bits that
        `zk.add_noise_` leaves), whatever their order, padding or neighbours; the base weights'
        products are shared. After the block `step()` takes the update along all directions, in one
        pass, and its lr, eps and weight decay mean what they always do. Another block before it
        adds an estimate along the same directions, as `estimate` does: the step takes the mean.

        size: K, the number of directions. mapping: "all" (each response once for each direction and
        sign, as `pop.copies` makes it), "per_response" (response b has direction b; K is the number
        of responses), or the direction of each sequence of the batch ([S] integers), or a function
        from S to it; with `signs`, 1, -1 or [S] of 1, -1 and 0 (theta itself; of direction -1: a
        baseline for all). `pop.map` changes both between forwards.
        estimator: "two_sided" or "one_sided"; None: the optimizer's. scale: "none", or "std", one
        step for all losses' units (zopro.population.estimators says what is unbiased for what).
        rank: large weights that are no adapters go along a b^T / sqrt(rank) instead of full noise
        (walk.py); None: full noise, of which copies of whole weights are made.
        family: of `family()`; the directions then are its own, and the step is along the
        gradient's part in their span.
        model: which owns the parameters; default: the one given to `attach`.

        Raises ValueError or TypeError for a model, layer or mapping that does not serve, named.
        """
        self._idle("population", no_estimates=not isinstance(self._pending, Together))
        options = {
            "estimator": checks.choice(
                "estimator", estimator or self._estimator, checks.ESTIMATORS
            ),
            "scale": checks.choice("scale", scale, SCALES),
            "rank": None if rank is None else checks.integer("rank", rank, 1),
            "model": self._model if model is None else model,
            "family": family,
        }
        if family is not None:
            size = family.size if size is None else size
        if size is None:
            raise ValueError("population: give size, the number of directions")
        size = checks.integer("size", size, 1, 2**31)
        self._check_population(size, options, family)
        if self._pending is None:
            self._weights.home()
            self._plan = None
            plan = self._build_plan(self._step_seed(DIRECTION), size)
            return opened(self, plan, size, mapping, signs, options)
        if not self._pending.serves(size, options):
            raise RuntimeError(
                "population of other directions than the one that waits for a step: call step() "
                "first, or give the same size, estimator, scale and family"
            )
        return opened(self, self._plan, size, mapping, signs, options)

    def family(self, updates: Sequence[Sequence[Tensor] | Mapping[str, Tensor]]) -> Family:
        """Orthonormal directions that span `updates`: m of the policy's earlier updates, each as
        `set_targets` takes one. Raises ValueError or TypeError for what does not fit."""
        members = self._members()
        params, names = [p for p, _, _ in members], [n for _, n, _ in members]
        named = None if None in names else names
        updates = list(updates)
        if not updates:
            raise ValueError("family: updates is empty: give at least one earlier update")
        rows = [
            targets.aligned(f"updates[{i}]", update, params, named, partial=False)
            for i, update in enumerate(updates)
        ]
        return Family.of(rows, params)

    def _check_population(self, size: int, options: dict[str, Any], family: Family | None) -> None:
        eps = {group["eps"] for group in self.param_groups}
        if "auto" in eps:
            raise RuntimeError(
                "population: eps='auto' is settled by the first estimate; call "
                "estimate(closure) and step() first, or give eps as a number"
            )
        if self._capturable:
            raise ValueError("population with capturable=True: its mapping lives on the host")
        if options["scale"] == "std" and (options["estimator"] != "one_sided" or size < 2):
            raise ValueError(
                f"scale='std' with estimator={options['estimator']!r} and size={size}: it scales "
                "one-sided estimates of at least two directions"
            )
        if self._step_log is not None and (size != self._num_directions or family is not None):
            raise ValueError(
                f"population of {size} with a step log, which replays num_directions="
                f"{self._num_directions} plain or targeted ones a step: make both equal, or "
                "close() the log"
            )
        if family is None:
            return
        params = [p for p, _, _ in self._members()]
        if self._targets is not None or len(eps) > 1 or size != family.size:
            raise ValueError(
                f"family of {family.size} directions with size={size}, eps={sorted(eps)}, targets="
                f"{self._targets is not None}: it needs its own size, one eps and no targets"
            )
        if [q.shape[1:] for q in family.basis] != [p.shape for p in params]:
            raise ValueError("family is of other parameters than those that train: make it anew")
