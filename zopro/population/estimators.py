"""From the losses of a population to slopes along its directions.

With l_j the loss of sequence j, L the mean of l over the responses, z_k the directions and eps the
perturbation, every estimator is

    g = sum_k w_k s_k z_k / eps,   w_k = n_k / sum n,

where n_k counts the sequences of direction k and s_k is the change of their mean loss per eps z_k:

- two-sided, s_k = (mean l(theta + eps z_k) - mean l(theta - eps z_k)) / 2. Unbiased for the
  gradient of L smoothed at scale eps (SPSA, Spall 1992), whose bias against the gradient of L is
  O(eps^2), as soon as each response meets as many directions as any other: all on all, or
  one direction each ("per_response", where w_k s_k z_k is an estimate of response k's own share).
- one-sided, s_k = mean l(theta + eps z_k) - baseline: unbiased for the same (n is symmetric and
  the baseline does not depend on it), with a second-order term of the loss in its variance.
- one-sided with scale="std": s_k times eps / std_k(L_k) (FZOO's step): a step of fixed length.
  Biased in length and, as the standard deviation depends on the directions, slightly in direction;
  it follows the direction of the gradient, and no unit of the loss matters to lr.
- a family: no noise in it; sum_k (g . q_k) q_k, the part of the gradient in the span, to O(eps^2).

d trainable numbers, B responses: the cosine with the gradient is about sqrt(K / d) for K directions
on all responses (K << d), and rho / sqrt(d), rho = ||sum g_b|| / sqrt(sum ||g_b||^2), with a
direction a response.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..devices import moved
from ..directions import Plan
from ..measure import Pending
from .members import COMMON, Members
from .walk import FamilyWalk

SCALES = ("none", "std")
ROWS = {1: 0, -1: 1, 0: 2}  # of sums and counts, by sign


@dataclass(eq=False)
class Tally:
    """Sums and counts of losses, by direction: fp64 [3, K + 1] at +, - and theta; the last column
    is the baseline that serves all."""

    size: int
    sums: Tensor | None = None
    counts: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [[0] * (self.size + 1) for _ in range(3)]

    def add(self, losses: Tensor, members: Members) -> None:
        """Adds a batch's losses; waits for no device."""
        width = self.size + 1
        places = []
        for k, s in zip(members.streams, members.signs):
            row, column = ROWS[s], self.size if k == COMMON else k
            self.counts[row][column] += 1
            places.append(row * width + column)
        if self.sums is None:
            self.sums = torch.zeros(3 * width, dtype=torch.float64, device=losses.device)
        losses = moved(losses.detach().double(), self.sums.device)
        self.sums.index_add_(0, moved(torch.tensor(places), self.sums.device), losses)

    def check(self, two_sided: bool) -> None:
        """ValueError where a direction lacks what its estimate needs."""
        if self.sums is None:
            raise ValueError("the population has no losses: call losses(values) in its block")
        plus, minus, base = self.counts
        for k in range(self.size):
            if not plus[k]:
                raise ValueError(f"direction {k} has no losses at +: map a sequence to it")
            if two_sided and plus[k] != minus[k]:
                raise ValueError(
                    f"direction {k} has {plus[k]} losses at + and {minus[k]} at -: a two-sided "
                    "estimate needs the same sequences at both signs"
                )
            if not two_sided and base[k] not in (0, plus[k]):
                raise ValueError(
                    f"direction {k} has {plus[k]} losses at + and {base[k]} of its own at theta: "
                    "give the same sequences at sign 0, or a baseline for all (mapping -1)"
                )
            if not two_sided and not base[k] and not base[self.size]:
                raise ValueError(
                    f"direction {k} has no baseline: map sequences with sign 0 to it, or to -1"
                )

    def means(self, two_sided: bool) -> Tensor:
        """Mean losses of each direction, and of what they are compared with: fp64 [2, K]."""
        counts = torch.tensor(self.counts, dtype=torch.float64).clamp(min=1.0)
        means = self.sums.view(3, -1) / moved(counts, self.sums.device)
        plus, other = means[0, :-1], means[1, :-1]
        if not two_sided:
            own = moved(torch.tensor([n > 0 for n in self.counts[2][:-1]]), means.device)
            other = torch.where(own, means[2, :-1], means[2, -1])
        return torch.stack([plus, other])


@dataclass
class Together(Pending):
    """A population's losses on their way into the step.

    sums: as Pending's, of mean losses; `weight`: K w_k; `scaled`: by the standard
    deviation of the losses, where the first tensor's eps is `eps`.
    """

    two_sided: bool = True
    weight: tuple[float, ...] = ()
    scaled: bool = False
    eps: float = 1.0
    accumulates: ClassVar[bool] = False

    @classmethod
    def gathered(
        cls, tally: Tally, plan: Plan, two_sided: bool, scaled: bool, eps: float, walk: Any
    ) -> Together:
        """walk: the update, or None for the usual one."""
        tally.check(two_sided)
        means = tally.means(two_sided)
        sums = torch.cat([means.view(-1), tally.sums.sum().view(1)])
        counts = tally.counts[0][:-1]
        weight = tuple(n * len(counts) / sum(counts) for n in counts)
        number = sum(map(sum, tally.counts))
        return cls(moved(sums, plan.device), number, 1, walk, two_sided, weight, scaled, eps)

    def serves(self, size: int, options: dict[str, Any]) -> bool:
        """Whether another population with these options is along the same directions."""
        family = None if not isinstance(self.walk, FamilyWalk) else self.walk.family
        asked = (size, options["estimator"] == "two_sided", options["scale"] == "std")
        return asked == (len(self.weight), self.two_sided, self.scaled) and (
            options["family"] is family
        )

    def plus(self, other: Together) -> Together:
        """Both estimates along the same directions, each with the same weight, as `estimate` adds
        them up. ValueError where their sequences are shared out among the directions otherwise."""
        if self.weight != other.weight:
            raise ValueError(
                "populations that wait for one step have other numbers of sequences a direction: "
                "give each the same mapping, or call step() between them"
            )
        return replace(
            self, sums=self.sums + moved(other.sums, self.sums.device),
            loss_count=self.loss_count + other.loss_count,
            estimates=self.estimates + other.estimates,
        )  # fmt: skip

    def slopes(self, two_sided: bool) -> Tensor:
        """K w_k s_k, [K]: their mean along the directions is the estimate. `two_sided`, the
        optimizer's own, does not matter."""
        raw = super().slopes(self.two_sided)
        if self.scaled:
            raw = raw * (self.eps / (self.sums[: len(raw)] / self.estimates).std())
        return raw * moved(torch.tensor(self.weight, dtype=torch.float64), raw.device)

    def state(self) -> dict[str, Any]:
        raise RuntimeError("state_dict: a population waits for a step; call step() first")
