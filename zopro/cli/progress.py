"""What a run shows while it works, and how it stops: progress bars, and Ctrl-C at a whole step."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import transformers.trainer
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_callback import ProgressCallback

from .errors import CommandError

SHOWN = {"loss": "loss", "reward": "reward", "kl": "kl"}


class Progress(ProgressCallback):
    """Hugging Face's bar with the phase, the remaining time, reward, KL and tokens a second.

    Where stderr is no terminal it is a line a log, so that a file of it can be read.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step, self._first = state.global_step, state.global_step
        self._began, self._tokens = time.monotonic(), None
        self._phase = Path(args.output_dir).name
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self._phase, unit="step",
                dynamic_ncols=True, disable=not sys.stderr.isatty(), file=sys.stderr,
            )  # fmt: skip

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None or not logs or not set(SHOWN) & set(logs):
            return
        shown = {short: f"{logs[n]:.4g}" for n, short in SHOWN.items() if _number(logs.get(n))}
        shown |= self._rate(logs.get("num_tokens"))
        self.training_bar.set_postfix(shown)
        if self.training_bar.disable:
            left = self._left(state)
            values = ", ".join(f"{name} {value}" for name, value in shown.items())
            print(f"{self._phase}: step {state.global_step}/{state.max_steps}, {left} left, "
                  f"{values}", file=sys.stderr, flush=True)  # fmt: skip

    def _rate(self, tokens: Any) -> dict[str, str]:
        """Tokens a second since the log before; the count is the trainer's, of all ranks."""
        if not _number(tokens):
            return {}
        now, before = (time.monotonic(), tokens), self._tokens or (self._began, 0)
        if tokens < before[1] or (self._tokens is None and self._first):
            before = now  # resumed: the count goes on from the checkpoint's
        self._tokens = now
        return rated(tokens - before[1], now[0] - before[0])

    def _left(self, state) -> str:
        done = max(1, state.global_step - self._first)
        left = (time.monotonic() - self._began) / done * (state.max_steps - state.global_step)
        return tqdm.format_interval(max(0, left))


class Between(TrainerCallback):
    """The same of what no trainer does: sampling, scoring and judging between the phases of
    training. A line each 10 seconds and at the end, or, on a terminal, a bar."""

    EVERY = 10.0  # seconds

    def __init__(self) -> None:
        self._began = self._said = 0.0
        self._bar: tqdm | None = None

    def on_work(self, phase: str, what: str, done: int, total: int, tokens: int) -> None:
        """`done` of `total` items, with so many tokens in all; 0 items: it begins."""
        now = time.monotonic()
        if done == 0:
            self._began = self._said = now
            self._bar = tqdm(total=total, desc=f"{phase}: {what}", dynamic_ncols=True,
                             disable=not sys.stderr.isatty(), file=sys.stderr)  # fmt: skip
            return
        rate = rated(tokens, now - self._began) if tokens else {}
        self._bar.set_postfix(rate)
        self._bar.update(done - self._bar.n)
        if self._bar.disable and (done >= total or now - self._said >= self.EVERY):
            self._said = now
            left = tqdm.format_interval((now - self._began) / done * (total - done))
            told = [f"{phase}: {what} {done}/{total}", f"{left} left",
                    *(f"{name} {value}" for name, value in rate.items())]  # fmt: skip
            print(", ".join(told), file=sys.stderr, flush=True)
        if done >= total:
            self._bar.close()


def rated(tokens: float, seconds: float) -> dict[str, str]:
    """Tokens a second to three digits, so that a slow rate is no 0; nothing of no time."""
    if seconds <= 0:
        return {}
    rate = tokens / seconds
    return {"tok/s": f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop; `code` is the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StopAtStep(TrainerCallback):
    """On SIGINT or SIGTERM the step in hand is finished and saved, then Interrupted is raised.

    Outside of training, and at the second signal, it is raised at once.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self._training, self._asked = folder, False, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._training = True

    def on_train_end(self, args, state, control, **kwargs):
        self._training = False

    def on_step_end(self, args, state, control, **kwargs):
        if self._asked:
            control.should_save = True
        return control

    def on_save(self, args, state, control, **kwargs):
        if self._asked:
            self._stop(f" at step {state.global_step} of {Path(args.output_dir).name}, saved")

    def _stop(self, where: str = "") -> None:
        word = "interrupted" if self._asked == signal.SIGINT else "terminated"
        raise Interrupted(
            f"{word}{where}; the same command goes on with {self._folder}", 128 + self._asked
        )

    def _handle(self, number: int, frame: Any) -> None:
        again, self._asked = self._asked, number
        if again or not self._training:
            self._stop()
        print("\nfinishing this step and saving; once more to stop at once", file=sys.stderr)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the signals are this object's."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may take signals
            return
        former = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def check_reports(names: Sequence[str]) -> None:
    """CommandError for a name of `report_to` whose package is not installed, or that is none."""
    available = get_available_reporting_integrations()
    for name in names:
        if name not in available:
            has = f"here there are {', '.join(available)}" if available else "here there is none"
            raise CommandError(f"report_to={name!r} is not available: install its package ({has})")


@contextmanager
def shown() -> Iterator[None]:
    """Inside, trainers show `Progress`, and the driver's phases are announced on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("zopro")
    level, former = logger.level, transformers.trainer.DEFAULT_PROGRESS_CALLBACK
    if os.environ.get("RANK", "0") == "0":  # one rank's word is enough
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    bars = datasets.utils.logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    if bars:
        datasets.disable_progress_bars()
    # The one name that transformers itself replaces, in notebooks: a callback beside its own bar
    # would make two.
    transformers.trainer.DEFAULT_PROGRESS_CALLBACK = Progress
    try:
        with warnings.catch_warnings():
            # Of transformers about TRL's fields, of torch about machines without a GPU, at each
            # phase anew: nothing that the user could change.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", message=".*pin_memory.*")
            yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        transformers.trainer.DEFAULT_PROGRESS_CALLBACK = former
        logger.removeHandler(handler)
        logger.setLevel(level)
