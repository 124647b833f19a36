"""The phases of a run in their order, and what each takes from those before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset

from zopro.trainer import trees

from . import policy as policy_phase
from . import reward as reward_phase
from .data import Data, chunks
from .models import assign, match_updates, policy_weights, reward_weights, snapshot
from .pairs import collect
from .training import Context, phase_seed, reported

logger = logging.getLogger(__name__)


class Run:
    """One run. `go` does what is not yet done; a phase counts as done once its files are written.

    start: the fresh adapters. supervised, reward: the optional start and the first reward model.
    Then for each iteration i, and each chunk k of its prompts where it has some: i.policy.k,
    i.pairs.k, i.refine.k; and i.updates, what both models moved over the iteration.
    """

    def __init__(self, context: Context, data: Data) -> None:
        self.context, self.data = context, data
        self.config, self.run = context.config, context.run
        self.parts = chunks(data.prompts, self.config.chunk)

    def go(self) -> None:
        self._phase("start", self._start)
        self._load_policy("start")
        fresh = policy_phase.weights_of(self.context)
        if self.context.reward is not None:
            self._load_reward("start")
        if self.config.supervised is not None:
            self._phase("supervised", self._supervised)
            self._load_policy("supervised")
            policy_phase.take_supervised(self.context, fresh)
        if self.context.reward is not None:
            self._phase("reward", self._reward)
            self._load_reward("reward")
        for i in range(self.config.iterations):
            self._iteration(i)

    def _phase(self, name: str, work: Any, *args: Any) -> None:
        """Does a phase unless it is done. What it leaves is written before it counts as done."""
        if name in self.run.done:
            return
        self.run.begin(name)
        logger.info("phase %s", name)
        if not self.run.checkpoints(name).is_dir():  # else its trainer says what it does again
            self.run.forget(name, -1)
        torch.manual_seed(phase_seed(self.config.seed, name))
        with reported(self.context, name):
            metrics = work(name, *args)
        self.run.log(name, int(metrics.pop("steps", 0)), {"event": "done", **metrics})
        self.run.finish(name)
        PartialState().wait_for_everyone()

    def _start(self, name: str) -> dict[str, float]:
        self.run.save(name, "policy.safetensors", policy_weights(self.context.policy))
        if self.context.reward is not None:
            self.run.save(name, "reward.safetensors", self.context.reward.own())
        return {}

    def _supervised(self, name: str) -> dict[str, float]:
        metrics = policy_phase.supervise(self.context, name, self.data.supervised)
        self.run.save(name, "policy.safetensors", policy_weights(self.context.policy))
        return metrics

    def _reward(self, name: str) -> dict[str, float]:
        reward, given = self.context.reward, self.context.first_reward
        if given is not None:
            assign(reward.own(), given, f"reward_model={self.config.reward_model!r}")
            metrics = {}
        else:
            metrics = reward_phase.learn(
                self.context, name, reward, self.data.reward, self.config.reward
            )
        self.run.save(name, "reward.safetensors", reward.own())
        return metrics

    def _iteration(self, i: int) -> None:
        """The chunks of iteration i, and at its end the updates over the whole of it."""
        if f"{i}.updates" in self.run.done:
            # Of a finished iteration only the last weights matter.
            self._load_policy(f"{i}.policy{self._suffix(len(self.parts) - 1)}")
            if self.context.reward is not None:
                self._load_reward(f"{i}.refine{self._suffix(len(self.parts) - 1)}")
            return
        before = policy_phase.weights_of(self.context)
        reward = self.context.reward
        reward_before = {} if reward is None else snapshot(reward_weights(reward))
        for k, prompts in enumerate(self.parts):
            end = self._suffix(k)
            self._phase(f"{i}.policy{end}", self._policy, i, k, prompts)
            self._load_policy(f"{i}.policy{end}")
            left = self._optimizers(i)
            if self.run.main and left[k].is_file():
                for former in left[:k]:
                    former.unlink(missing_ok=True)
            if reward is not None:
                self._phase(f"{i}.pairs{end}", self._pairs, prompts)
                self._phase(f"{i}.refine{end}", self._refine, f"{i}.pairs{end}")
                self._load_reward(f"{i}.refine{end}")
        self._phase(f"{i}.updates", self._updates, before, reward_before)

    def _suffix(self, k: int) -> str:
        return f".{k}" if self.config.chunk is not None else ""

    def _optimizers(self, i: int) -> list[Path]:
        """Where the chunks of iteration i leave their optimizer's state."""
        names = [f"{i}.policy{self._suffix(k)}" for k in range(len(self.parts))]
        return [self.run.file(name, policy_phase.OPTIMIZER) for name in names]

    def _policy(self, name: str, i: int, k: int, prompts: Dataset) -> dict[str, float]:
        method = self.config.first if i == 0 else self.config.method
        targets = self._targets(i) if method == "zopro" else None
        chunk, state = None, None
        if len(self.parts) > 1:
            chunk = (k, [len(part) for part in self.parts])
            left = [p for p in self._optimizers(i)[:k] if p.is_file()]
            state = trees.load(left[-1]) if left else None
        metrics = policy_phase.reinforce(self.context, name, prompts, method, targets, chunk, state)
        self.run.save(name, "policy.safetensors", policy_weights(self.context.policy))
        return metrics

    def _targets(self, i: int) -> policy_phase.Targets:
        policy_update = self.run.load(f"{i - 1}.updates", "policy.safetensors")
        reward_update = self.run.load(f"{i - 1}.updates", "reward.safetensors")
        if policy_update is None:
            raise ValueError(f"iteration {i - 1} left no policy update: start a new run")
        if not any(bool(t.any()) for t in policy_update.values()):
            raise ValueError(
                f"iteration {i - 1} moved no weight of the policy, so iteration {i} has nothing to "
                "aim at: start a new run with more steps, a larger learning rate or larger zo_eps"
            )
        if reward_update is not None and self.config.norms:
            logger.info("the reward model's update has no %s: nothing is projected out",
                        "norms")  # fmt: skip
            return policy_update, None
        if reward_update is not None:
            match_updates(policy_update, reward_update)
        return policy_update, reward_update if self.config.project else None

    def _pairs(self, name: str, prompts: Dataset) -> dict[str, float]:
        return collect(self.context, name, prompts)

    def _refine(self, name: str, pairs: str) -> dict[str, float]:
        rows, reward = self.run.read_rows(pairs, "pairs.jsonl"), self.context.reward
        metrics: dict[str, float] = {"pairs": len(rows)}
        if rows:  # none: all samples were equal, and the reward model stays as it is
            before = snapshot(reward.own())
            data = Dataset.from_list(rows)
            metrics |= reward_phase.learn(self.context, name, reward, data, self.config.refine)
            reward_phase.blend(reward, before, self.config.blend)
            if self.config.blend:
                for sketches in self.context.sketches(name, "reward", reward.own):
                    sketches.write(int(metrics["steps"]))
        self.run.save(name, "reward.safetensors", reward.own())
        return metrics

    def _updates(
        self,
        name: str,
        before: Mapping[str, torch.Tensor],
        reward_before: Mapping[str, torch.Tensor],
    ) -> dict[str, float]:
        moved = reward_phase.update(policy_weights(self.context.policy), before)
        self.run.save(name, "policy.safetensors", moved)
        metrics = {"policy_update_norm": _norm(moved)}
        if self.context.reward is not None:
            moved = reward_phase.update(reward_weights(self.context.reward), reward_before)
            self.run.save(name, "reward.safetensors", moved)
            metrics["reward_update_norm"] = _norm(moved)
        return metrics

    def _load_policy(self, phase: str) -> None:
        stored = self.run.load(phase, "policy.safetensors")
        self._assign(policy_weights(self.context.policy), stored, phase, "policy")

    def _load_reward(self, phase: str) -> None:
        stored = self.run.load(phase, "reward.safetensors")
        self._assign(self.context.reward.own(), stored, phase, "reward")

    def _assign(self, parameters: Any, stored: Any, phase: str, which: str) -> None:
        if stored is None:
            raise ValueError(
                f"phase {phase!r} is done, but its {which}.safetensors is gone from "
                f"{str(self.run.path)!r}: start a new run"
            )
        assign(parameters, stored, f"{phase}'s {which}.safetensors")


def _norm(tensors: Mapping[str, torch.Tensor]) -> float:
    return sum(t.double().square().sum().item() for t in tensors.values()) ** 0.5
