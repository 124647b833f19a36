"""A replay's numbers in place of losses; its passes gathered: as many as come between two looks at
the weights go in one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..devices import numbers
from ..directions import Plan, Term
from ..measure import Pending
from ..prepared import Part
from ..restore import InplaceWeights
from . import layout as f

MOST = 64  # passes in one: their scalars take R T (4 + K) fp32


class GatheredWeights(InplaceWeights):
    """As InplaceWeights, but a pass is only noted: `flush` makes those that wait, in one pass over
    the memory (zk.add_noise_sequence_), and leaves the bits of the passes made one by one. Until
    then the stored weights are those of an earlier step. Nothing that a replay computes reads them.
    """

    def __init__(self, next_rounding_seed: Callable[[], int]) -> None:
        super().__init__(next_rounding_seed)
        self._parts: list[Part] = []
        self._options: dict[str, object] = {}
        self._waiting: list[list[tuple[Tensor, Tensor]]] = []  # records of each part

    def flush(self) -> None:
        """Stores what the passes so far lead to."""
        for part, records in zip(self._parts, self._waiting):
            part.tensors.add_noise_sequence_(records, **self._options)
            part.tensors.mark_written()
        self._parts, self._waiting = [], []

    def _write(
        self, plan: Plan, part: Part, terms: list[Term], decay: Tensor | None, seed: int | Tensor
    ) -> None:
        integers, floats = plan.scalars(terms, decay, seed)
        place = next(i for i, known in enumerate(plan.parts) if known is part)
        self._records(plan)[place].append((integers, part.of_rows(floats)))

    def _records(self, plan: Plan) -> list[list[tuple[Tensor, Tensor]]]:
        """Where the records of the plan's parts are noted: those of other tensors, targets or
        options are made first."""
        options = {"distribution": plan.distribution, "stochastic": plan.rounding == "stochastic",
                   "backend": plan.backend}  # fmt: skip
        same = self._parts is plan.parts and self._options == options
        if not same or any(len(records) >= MOST for records in self._waiting):
            self.flush()
            self._parts, self._options = plan.parts, options
            self._waiting = [[] for _ in plan.parts]
        return self._waiting


def pending(r: f.Step, plan: Plan, two_sided: bool) -> Pending:
    """One estimate whose slopes are the record's, exactly: (2 s - 0) / 2, or s - 0."""
    k, width = len(r.slopes), 2.0 if two_sided else 1.0
    losses = float("nan") if r.skipped else 0.0
    sums = [*(width * s for s in r.slopes), *[0.0] * k, losses]
    return Pending(numbers(sums, plan.device), loss_count=1, estimates=1)
