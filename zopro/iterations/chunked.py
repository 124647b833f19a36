"""An iteration's policy phase in parts: one learning rate, one budget and one optimizer state."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zopro import schedules

from .config import IterationConfig


@dataclass(frozen=True)
class Part:
    """One chunk's share of an iteration's steps.

    done, steps, whole: optimizer steps before it, its own, and of all chunks. state: the state_dict
    of the optimizer at the end of the chunk before, or None.
    """

    done: int
    steps: int
    whole: int
    state: dict[str, Any] | None = None

    def schedule(self, config: IterationConfig) -> Callable[[int, int | None], float]:
        """d over the whole iteration, as this chunk's steps see it."""
        function = schedules.resolve(config.schedule, self.whole, config.half_life)
        return lambda step, steps: function(step + self.done, self.whole)


def shares(sizes: list[int], max_steps: int, steps_of: Callable[[int], int]) -> list[int]:
    """Steps of each chunk: of a budget `max_steps` > 0 by the chunks' sizes, which differ by one
    at most; else what its own rows come to (`steps_of`, from a size)."""
    if max_steps <= 0:
        return [steps_of(size) for size in sizes]
    total, edges = sum(sizes), [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    at = [max_steps * edge // total for edge in edges]
    return [b - a for a, b in itertools.pairwise(at)]


class InParts:
    """Before a trainer: with `part` set, its learning rate is that of the whole iteration, and its
    optimizer goes on from the chunk before.

    ZOPrO keeps no moments: of it nothing is carried over but the rate; each chunk has a seed of
    its own.
    """

    part: Part | None = None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The parent's over the whole iteration, moved on to this chunk's first step."""
        if self.part is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.part.state is not None:  # a checkpoint of this chunk is read after it
            held = self.optimizer if optimizer is None else optimizer
            groups = held.state_dict()["param_groups"]
            held.load_state_dict({"state": self.part.state["state"], "param_groups": groups})
        scheduler = super().create_scheduler(self.part.whole, optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: no optimizer step came before; they did
            for _ in range(self.part.done):
                scheduler.step()
        return scheduler
