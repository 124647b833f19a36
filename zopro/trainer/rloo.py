"""Reinforcement learning from preferences, RLOO, by forward passes alone."""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

from trl import RLOOTrainer

from .config import ZOPrOConfig, require_zeroth_order
from .mixin import ZerothOrderMixin


class ZOPrOTrainer(ZerothOrderMixin, RLOOTrainer):
    """TRL's `RLOOTrainer`, trained by ZOPrO: constructor, data and rewards are TRL's.

        trainer = ZOPrOTrainer(
            model="...",                      # name, folder, model or PEFT model
            reward_funcs=[reward],            # f(prompts, completions, **columns) -> list[float]
            args=ZOPrOConfig(...),
            train_dataset=dataset,            # with a column `prompt`, plain or conversational
            processing_class=None,
            peft_config=None,
        )
        trainer.set_targets(previous_policy_update, previous_reward_update)   # optional
        trainer.train()

    The objective is RLOO (arXiv 2402.14740): the leave-one-out advantage of each of
    `num_generations` samples of a prompt, with a KL penalty `beta` in the reward. All
    `zo_num_directions` of a step are scored on its one batch of rollouts; `steps_per_generation`
    and `num_iterations` keep a batch for several steps, each of which draws fresh directions.

    Raises ValueError for no reward function, a dataset that is empty, without the column
    `prompt`, or with too few prompts for one batch; TypeError for a reward that is not callable.
    In training, a reward function that raises, or that returns NaN or infinity, stops it with a
    RuntimeError or ValueError that names it. (None says that a reward does not apply to a sample.)
    """

    def __init__(self, model, reward_funcs, args=None, train_dataset=None, *rest, **kwargs):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = ZOPrOConfig(f"{name.rstrip('/').split('/')[-1] or 'model'}-ZOPrO")
        require_zeroth_order(args)  # before a large model is loaded
        reward_funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        if not reward_funcs:
            raise ValueError("reward_funcs is empty: pass at least one reward function or model.")
        if train_dataset is not None:
            _check_dataset(train_dataset, args)
        reward_funcs = [_checked(f) if _is_plain(f) else f for f in reward_funcs]
        super().__init__(model, reward_funcs, args, train_dataset, *rest, **kwargs)


def _check_dataset(dataset, args) -> None:
    columns = getattr(dataset, "column_names", None)
    if columns is not None and len(columns) and "prompt" not in columns:
        raise ValueError(
            f"train_dataset has no column 'prompt', only {sorted(columns)}: rename one to it."
        )
    if not hasattr(dataset, "__len__"):
        return
    needed = args.generation_batch_size // args.num_generations
    if len(dataset) < needed:
        raise ValueError(
            f"train_dataset has {len(dataset)} prompts, and one batch of rollouts takes {needed}"
            " (generation_batch_size / num_generations): add prompts or lower the batch size."
        )


def _is_plain(reward) -> bool:
    """Whether `reward` is a function of ours to check, no model and no model's name."""
    if isinstance(reward, str) or hasattr(reward, "forward"):
        return False
    if not callable(reward):
        raise TypeError(
            f"reward_funcs holds a {type(reward).__name__}: pass functions, models or their names."
        )
    return True


def _checked(reward: Callable[..., Any]) -> Callable[..., Any]:
    """`reward` under its own name, with its errors and bad values told in one sentence each."""
    inner = reward
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__name__", type(inner).__name__)

    @contextlib.contextmanager
    def told():
        try:
            yield
        except Exception as error:
            raise RuntimeError(
                f"Reward function {name!r} raised {type(error).__name__}: {error}"
            ) from error

    async def checked_async(completions, **kwargs):
        with told():
            rewards = await reward(completions=completions, **kwargs)
        return _finite(name, rewards, len(completions))

    def checked(completions, **kwargs):
        with told():
            rewards = reward(completions=completions, **kwargs)
        return _finite(name, rewards, len(completions))

    if inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__):
        checked = checked_async  # TRL runs these together
    checked.__name__, checked.__wrapped__ = name, reward
    return checked


def _finite(name: str, rewards: Any, count: int) -> list[float | None]:
    if not isinstance(rewards, Iterable) or isinstance(rewards, str):
        raise ValueError(
            f"Reward function {name!r} returned a {type(rewards).__name__}: return a list of"
            " numbers, one for each completion."
        )
    rewards = list(rewards)
    if len(rewards) != count:
        raise ValueError(
            f"Reward function {name!r} returned {len(rewards)} rewards for {count} completions:"
            " return one for each."
        )
    for i, value in enumerate(rewards):
        try:
            finite = value is None or math.isfinite(value)
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise ValueError(
                f"Reward function {name!r} returned {value!r} for completion {i}: return a"
                " finite number, or None where the reward does not apply."
            )
    return rewards
