"""The directions of one step, and the pass that adds them to the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

import zopro_kernels as zk

from .devices import capturing
from .prepared import Multiples, Part, Placed, Prepared, tensor_set
from .trainable import Members


@dataclass(eq=False)
class Direction:
    """z = noise[t] n(seed, stream) + prev[t] prev_t + v[t] v_t for each tensor t; fp64 [T],
    on the plan's device.

    `known`: floats of passes along it, by the multiple of eps that they add.
    """

    seed: int | Tensor  # int64, 0-dim, its bits
    stream: int
    noise: Tensor
    prev: Tensor | None = None
    v: Tensor | None = None
    sound: Tensor | None = None  # bool, 0-dim: False where z had to be 0, as n met no finite v.n
    reach: Tensor | None = None  # fp64, 0-dim: the largest of the coefficients; None: 1
    known: dict[int, Tensor] = field(default_factory=dict)


Term = tuple[Direction, Tensor]  # a direction and its scale in each tensor, fp64 [T]


@dataclass(eq=False)
class Plan:
    """What one step works on, fixed at its first estimate: T tensors and K directions.

    `members` are the trainable parameters (written in place by `write`), placed where they lie;
    `group_eps` is a number a group, `eps` the same a tensor, fp64 [T] on `device`, as all that is
    computed a tensor. `prev` and `v` are the targets' tensors, or None; `d` is the weight of
    `prev`.
    """

    members: Members
    placed: Placed
    group_eps: tuple[float, ...]
    distribution: str
    rounding: str
    backend: str | None
    prepared: Prepared
    prev: list | None = None
    v: list | None = None
    d: float | Tensor = 0.0
    directions: list[Direction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.eps = self.of_group(self.group_eps)
        self.multiples: Multiples = self.prepared.multiples(self.eps)

    @property
    def tensors(self) -> list[Tensor]:
        return self.members.tensors

    @property
    def indices(self) -> list[int]:
        """Of the tensors in the noise law."""
        return self.members.indices

    @property
    def group_of(self) -> list[int]:
        """The position of each tensor's group."""
        return self.members.group_of

    @cached_property
    def groups(self) -> set[int]:
        """The groups that have tensors."""
        return set(self.group_of)

    @property
    def device(self) -> torch.device:
        return self.eps.device

    @property
    def parts(self) -> list[Part]:
        """One for each dtype and device."""
        return self.placed.parts

    def of_group(self, values: tuple[float, ...]) -> Tensor:
        """One number a group as one a tensor: fp64 [T], read only."""
        return self.prepared.spread(values, self.group_of, self.placed.device)

    def draw(self, seed: int | Tensor, count: int) -> None:
        """`count` plain directions z = n: one seed, the stream is the direction's number."""
        plain = self.multiples.plain
        self.directions = [Direction(seed, k, self.ones, known=plain) for k in range(count)]

    def set_of(self, rows: list[int], copies: list[Tensor]) -> zk.TensorSet:
        """`copies` prepared for the passes of the plan's tensors at `rows`."""
        return tensor_set(self.members, rows, self.prev, self.v, copies)

    def write(
        self, part: Part, terms: list[Term], decay: Tensor | None, rounding_seed: int | Tensor
    ) -> None:
        """theta[t] <- decay[t] theta[t] + sum over terms of scale[t] z[t], in place, for the
        tensors of `part`: one launch, for which the host does not wait. Where a coefficient is not
        finite, nothing is written. Autograd is not told (`TensorSet.mark_written`).

        Tensors that this leaves as they are keep their bits, -0.0 included.
        """
        integers, floats = self.scalars(terms, decay, rounding_seed)
        part.tensors.add_noise_(
            integers,
            part.of_rows(floats),
            distribution=self.distribution,
            stochastic=self.rounding == "stochastic",
            backend=self.backend,
        )

    def scalars(
        self, terms: list[Term], decay: Tensor | None, rounding_seed: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """The scalars of that pass, as TensorSet.add_noise_ takes them, for all tensors."""
        floats = self._floats(terms, decay)
        seeds, streams = [d.seed for d, _ in terms], [d.stream for d, _ in terms]
        if not isinstance(rounding_seed, Tensor):
            return zk.integers([rounding_seed, *seeds, *streams], self.device), floats
        constant = self.prepared.constants(streams, self.device, torch.int64)
        return torch.cat([torch.stack([rounding_seed, *seeds]), constant]), floats

    def _floats(self, terms: list[Term], decay: Tensor | None) -> Tensor:
        """fp32 [T, 4 + K]; a pass by a multiple of eps along one direction is known again."""
        multiple = None
        if decay is None and len(terms) == 1:
            multiple = self.multiples.factor(terms[0][1])
            if multiple is not None and (found := terms[0][0].known.get(multiple)) is not None:
                return found
        columns = [
            self.ones if decay is None else decay,
            _sum([(d.prev, s) for d, s in terms], self.zeros),
            _sum([(d.v, s) for d, s in terms], self.zeros),
            self.zeros,
            *(scale if d.noise is self.ones else d.noise * scale for d, scale in terms),
        ]
        floats = zk.with_live(torch.stack(columns, dim=1).float())
        if multiple is not None and not capturing():  # what a capture makes is a replay's
            terms[0][0].known[multiple] = floats
        return floats

    def stream(self, direction: Direction) -> int | Tensor:
        """The direction's stream, beside its seed."""
        if not isinstance(direction.seed, Tensor):
            return direction.stream
        return self.prepared.constants([direction.stream], self.device, torch.int64)

    def mark_written(self) -> None:
        """Tells autograd that the weights have changed: a graph that has saved one refuses."""
        for part in self.parts:
            part.tensors.mark_written()

    @cached_property
    def ones(self) -> Tensor:
        return self.of_group((1.0,) * len(self.group_eps))

    @cached_property
    def zeros(self) -> Tensor:
        return self.of_group((0.0,) * len(self.group_eps))


def _sum(pairs: list[tuple[Tensor | None, Tensor]], none: Tensor) -> Tensor:
    products = [coefficients * scale for coefficients, scale in pairs if coefficients is not None]
    if len(products) < 2:
        return products[0] if products else none
    return torch.stack(products).sum(dim=0)
