"""The block in which each sequence of a batch runs with its own direction's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..directions import Plan
from ..engine import Engine
from . import layers as kinds
from .choices import layers_of, walk_of
from .estimators import Tally, Together
from .family import Family
from .members import Members, rule_of
from .refusals import check_model, guard_caches
from .sharing import Sharing


class Population:
    """What `ZOPrO.population` gives: the directions' losses are collected here."""

    def __init__(self, plan: Plan, size: int, two_sided: bool, family: Family | None) -> None:
        self.size, self.two_sided = size, two_sided
        self.tally = Tally(size)
        self._plan, self._family, self._rule, self._named = plan, family, None, None
        self._members: Members | None = None
        self._layers: list[kinds.Layer] = []
        self._sharing: Sharing | None = None
        self._part: range | None = None

    @property
    def blocks(self) -> int:
        """How often `copies` repeats a batch: the evaluations of the mapping that has a name."""
        if self._named == "":
            raise RuntimeError("copies: the mapping was given, so the batch is as it says already")
        if self._named == "per_response":
            return 2
        return 2 * self.size if self.two_sided else self.size + 1

    def map(self, mapping: Any = "all", signs: Any = 1) -> None:
        """The mapping of the forwards from now on, as in `population`."""
        self._untold("map")
        self._rule = rule_of(mapping, signs, self.size, self.two_sided)
        self._named = mapping if isinstance(mapping, str) or mapping is None else ""
        self._part = None
        self._renew()

    def part(self, first: int, count: int) -> None:
        """The forwards from now on are of blocks first .. first + count - 1 of the mapping that has
        a name, which `copies` makes then: a large population in several forwards. Layers below the
        first perturbed one run in the first of them only, and their outputs are kept meanwhile."""
        self._untold("part")
        if first < 0 or count < 1 or first + count > self.blocks:
            raise ValueError(
                f"part of blocks {first} to {first + count - 1}: there are {self.blocks}, from 0"
            )
        self._part = range(first, first + count)
        self._renew(keep=count < self.blocks)

    def _untold(self, what: str) -> None:
        if any(layer.ran for layer in self._layers):
            raise RuntimeError(
                f"{what}: a forward has run whose losses are missing: call losses first"
            )

    def _renew(self, keep: bool = False) -> None:
        self._members = None
        if self._sharing is not None:
            self._sharing.blocks, self._sharing.keep = 0, keep

    def copies(self, batch: Any) -> Any:
        """`batch` (a tensor [B, ...], or a mapping of such; other values stay) as often as the
        mapping "all" or "per_response" needs it, whole batch after whole batch: [n B, ...].

        As long as the copies of a response are equal when the model gets them, what runs before the
        first perturbed layer runs once for all (sharing.py)."""
        blocks = self.blocks if self._part is None else len(self._part)
        given = batch if isinstance(batch, Mapping) else {"": batch}
        sizes = {len(x) for x in given.values() if isinstance(x, Tensor)}
        if self._sharing is not None and len(sizes) == 1:
            self._sharing.blocks, (self._sharing.rows,) = blocks, sizes
        made = {
            key: x.repeat(blocks, *[1] * (x.dim() - 1)) if isinstance(x, Tensor) else x
            for key, x in given.items()
        }
        return made if isinstance(batch, Mapping) else made[""]

    @property
    def shared_sequences(self) -> int:
        """How many sequences the submodules below the first perturbed layer ran, counted at each of
        them: without sharing as many as the batches had."""
        return self._sharing.seen

    def losses(self, values: Tensor) -> None:
        """Takes the losses of the sequences of the last forward: [S], real, one a sequence.

        May be called for several forwards, of other sequences each (shards, or micro-batches); each
        direction's losses are averaged. Raises ValueError for another count, and where a layer
        whose parameters train did not run.
        """
        if not isinstance(values, Tensor) or values.dim() != 1 or values.is_complex():
            what = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"losses got {what}: give a real tensor [S], one loss a sequence")
        if self._members is None:
            raise ValueError("losses before a forward: run the model inside the population's block")
        if len(values) != self._members.sequences:
            raise ValueError(
                f"losses has {len(values)} entries where the batch had {self._members.sequences} "
                "sequences: give one for each"
            )
        still = [layer.name for layer in self._layers if not layer.ran]
        if still:
            raise ValueError(
                f"{still[0]} holds trainable parameters but did not run by its own forward: what "
                "reads its weights elsewhere (a fused layer, say) cannot be perturbed by sequence"
            )
        self.tally.add(values, self._members)
        for layer in self._layers:
            layer.ran = False

    def members(self, name: str, x: Tensor) -> Members:
        """Of the batch that layer `name` sees, x [S, ...]; made at the first layer that runs."""
        sequences = len(x) if x.dim() > 1 else 0
        known = self._members
        if known is not None and known.sequences == sequences:
            return known
        if known is not None and any(layer.ran for layer in self._layers):
            raise ValueError(
                f"{name} gets a batch of {sequences} where the forward's has {known.sequences} "
                "sequences: layers that reshape or route the batch cannot be perturbed by sequence"
            )
        streams, signs = self._keys(sequences)
        self._members = Members.of(self._plan, streams, signs, self._family)
        return self._members

    def _keys(self, sequences: int) -> tuple[list[int], list[int]]:
        part = self._part
        if part is None:
            return self._rule(sequences)
        rows, rest = divmod(sequences, len(part))
        if rest:
            raise ValueError(
                f"the batch has {sequences} sequences for a part of {len(part)} blocks: give each "
                "response once for each of them (`copies`)"
            )
        cut = slice(part.start * rows, part.stop * rows)
        streams, signs = self._rule(rows * self.blocks)
        return streams[cut], signs[cut]


@contextmanager
def opened(
    opt: Engine, plan: Plan, size: int, mapping: Any, signs: Any, options: dict[str, Any]
) -> Iterator[Population]:
    """The block itself: forwards replaced, then as they were; on success `opt` has its estimate,
    the mean of this and those that wait already."""
    two_sided, family = options["estimator"] == "two_sided", options["family"]
    pop = Population(plan, size, two_sided, family)
    pop.map(mapping, signs)
    model = check_model(options["model"])
    found = layers_of(model, plan, options["rank"], pop.members, family)
    walk = walk_of(opt, plan, found, options)
    pop._layers = found
    pop._sharing = sharing = Sharing(model, [layer.module for layer in found])
    hooks: list[Any] = []
    opt._busy = "a population"
    try:
        hooks = guard_caches(model)
        sharing.install()
        for layer in found:
            layer.replace()
        with torch.no_grad():
            yield pop
    finally:
        opt._busy = None
        for layer in reversed(found):
            if layer.original is not None:
                layer.restore()
        sharing.remove()
        for hook in hooks:
            hook.remove()
    if pop.tally.sums is not None:
        eps = opt.param_groups[plan.group_of[0]]["eps"]
        scaled = options["scale"] == "std"
        made = Together.gathered(pop.tally, plan, two_sided, scaled, eps, walk)
        opt._pending = made if opt._pending is None else opt._pending.plus(made)
        opt._plan = plan
