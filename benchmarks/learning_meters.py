"""Meters of a learning run: seconds by phase, tokens through the model, peak memory."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import zopro_kernels as zk

PHASES = ("generation", "scoring", "reward", "perturbation", "backward", "optimizer", "other")


class Meter:
    """Seconds of each phase, without those of the phases inside it, and tokens by use.

    On a CPU seconds are the process's own CPU time: with one thread this is the wall-clock of a
    core that nobody else uses, whatever else runs on the machine. On a GPU they are wall-clock,
    and the device is waited for at the borders of phases. Tokens are positions that went through
    the model, padding included; in generation with a cache each new token is one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stack: list[str] = []
        self._since = 0.0
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, int] = defaultdict(int)
        self.peak_bytes = 0
        self._base = self._resident("VmRSS")

    @property
    def total(self) -> float:
        """Seconds of all phases so far."""
        return sum(self.seconds.values())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside, time counts for `name`; afterwards again for the phase around it."""
        outermost = not self._stack
        if outermost:
            self._forget_peak()
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()
            if outermost:
                self.peak_bytes = max(self.peak_bytes, self._peak())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, neither time nor tokens nor memory count: for evaluations."""
        self._charge()
        self.peak_bytes = max(self.peak_bytes, self._peak())
        kept, self._stack = self._stack, []
        try:
            yield
        finally:
            self._stack = kept
            self._since = self._now()
            self._forget_peak()

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        """Replaces `owner.name` by itself within `phase`; where there is no such name, nothing."""
        inner = getattr(owner, name, None)
        if inner is not None:
            setattr(owner, name, self.timed(inner, phase))

    def timed(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """`function`, whose time counts for `phase`."""

        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase):
                return function(*args, **kwargs)

        return inner

    def count_tokens(self, model: torch.nn.Module) -> Any:
        """Counts what goes through `model` from now on; returns the hook's handle."""

        def hook(_module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            if self._stack and ids is not None:
                use = "generation" if "generation" in self._stack else "scoring"
                self.tokens[use] += ids.numel()
                if torch.is_grad_enabled():
                    self.tokens["backward"] += ids.numel()

        return model.register_forward_pre_hook(hook, with_kwargs=True)

    def attach(self, trainer: Any) -> None:
        """Measures a TRL trainer's phases from now on."""
        self.wrap(trainer, "_generate", "generation")
        self.wrap(trainer, "_calculate_rewards", "reward")
        self.wrap(trainer, "training_step", "scoring")
        self.wrap(trainer.accelerator, "backward", "backward")

    def _charge(self) -> None:
        now = self._now()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return time.perf_counter()
        return time.process_time()

    def _forget_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            pass  # the peak is then that of the whole process

    def _peak(self) -> int:
        """Bytes over what the process, or the device, held when the meter was made."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return self._resident("VmHWM") - self._base

    @staticmethod
    def _resident(field: str) -> int:
        try:
            with open("/proc/self/status") as file:
                line = next(line for line in file if line.startswith(field))
        except (OSError, StopIteration):
            return 0
        return int(line.split()[1]) * 1024


def measure_kernels(meter: Meter) -> None:
    """Counts the time of the noise kernels as perturbation, in this process from now on."""
    meter.wrap(zk, "add_noise_", "perturbation")
    meter.wrap(zk, "noise_dots", "perturbation")
