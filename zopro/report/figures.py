"""The figures of a report as plain data, which the page and the files for papers both draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from . import curves as c
from .curves import Curve, Group


@dataclass
class Figure:
    """name: in file names and anchors. title: a heading. read: one sentence, how to read it.
    seen: one sentence, what one sees. x, y: axes with their units.

    views: by key, what is drawn: {"curves": [...]} each; choices: (label, [(key part, shown)]) of
    the selectors whose parts joined by "/" make the key; without choices the key is "".
    marks: (x, name) of the vertical lines where phases begin. log: y on a logarithmic axis.
    missing: why there is nothing to draw; then there are no views.
    """

    name: str
    section: str
    title: str
    read: str
    x: str = "policy steps"
    y: str = ""
    seen: str = ""
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    choices: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    log: bool = False
    kind: str = "lines"
    missing: str = ""

    def data(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


# name, title, how to read it, unit of y, where it comes from, logarithmic, why it may be missing
_LEARNING = (
    ("reward", "Reward", "Higher is better: the mean score of the policy's responses, by what the "
     "run trains on.", "reward", c.logged("reward"), False, "no policy phase has logged a reward"),
    ("kl", "Distance from the start (KL)", "How far the policy has moved from its reference, in "
     "nats a response: a rise without more reward is drift.", "KL, nats", c.logged("kl"), False,
     "no KL is logged (objective 'samples' has none)"),
    ("length", "Length of responses", "Mean length in tokens: a fall to 0 or a rise to the limit "
     "says that the reward is being gamed.", "tokens", c.logged("completions/mean_length"), False,
     "no lengths are logged"),
)  # fmt: skip
_HEALTH = (
    ("eps", "Size of the perturbation (eps)", "How far the weights are moved, an element, to feel "
     "the slope; it changes only where eps is found automatically.", "eps, rms an element",
     c.logged("zo_eps"), False, "no zeroth-order phase has logged its eps"),
    ("d", "Aim at the previous update (d)", "How much of each direction is the last iteration's "
     "update: 1 is all of it, 0 is noise alone.", "d", c.logged("zo_d"), False,
     "no phase has logged d, which only targeted directions have"),
    ("slope", "Slope along the directions (|g|)", "Root mean square of the slopes measured; in "
     "first-order phases the gradient's norm.", "|g|", c.logged("grad_norm"), True,
     "no slopes are logged"),
    ("tokens", "Speed", "Tokens the policy's trainer handled a second, everything included.",
     "tokens a second", c.tokens_a_second, False,
     "the logs hold no token counts with times"),
)  # fmt: skip
_LOSS = ("loss", "Training loss", "Lower is better: what the trainer minimises.", "loss",
         c.logged("loss"), False, "no loss is logged")  # fmt: skip
_REWARD_MODEL = (
    ("reward-loss", "Loss of the reward model", "Lower is better: how surprised it is by which of "
     "two responses was preferred; in pairs 0.69 is guessing.", "loss", c.learning_loss, False,
     "no reward model was trained in this run"),
    ("reward-accuracy", "Accuracy of the reward model", "Share of the pairs in a batch where it "
     "scores the preferred response higher; 0.5 is guessing.", "share",
     c.logged("accuracy", c.REWARD), False, "no accuracy is logged"),
)  # fmt: skip


def figures_of_logs(groups: Sequence[Group]) -> list[Figure]:
    """Learning, the optimizer's health and the reward model, over steps."""
    rows = _LEARNING
    if not any("reward" in row for g in groups for run in g.runs for row in run.logs):
        rows = (*_LEARNING, _LOSS)  # of a policy's phase the loss says nothing of progress
    made = [_of_logs("learning", groups, *row) for row in rows]
    health = [_of_logs("health", groups, *row) for row in _HEALTH]
    made += [*health[:3], _noise(groups), health[3]]
    return made + [_of_logs("reward-model", groups, *row) for row in _REWARD_MODEL]


def _of_logs(
    section: str, groups: Sequence[Group], name: str, title: str, read: str, y: str,
    source: Any, log: bool, missing: str,
) -> Figure:  # fmt: skip
    figure = Figure(name, section, title, read, y=y, log=log)
    found = c.over_groups(groups, source)
    if not found:
        figure.missing = f"Nothing to draw: {missing}."
        return figure
    figure.log = log and all(v > 0 for curve in found for v in curve.y)
    figure.views[""] = {"curves": [asdict(curve) for curve in found]}
    if section == "reward-model":
        figure.x = "reward model steps"
    else:
        figure.marks = c.boundaries(groups[0].runs[0])
    figure.seen = " ".join(seen(curve) for curve in found)
    return figure


def _noise(groups: Sequence[Group]) -> Figure:
    """The loss differences that the slopes come from, over the noise of such a difference."""
    figure = Figure(
        "noise", "health", "Signal over the loss's noise",
        "Line: the loss difference a step measures; points: the part of it that does not repeat. "
        "Where they meet, a step measures nothing: raise eps.",
        y="difference of two losses",
    )  # fmt: skip
    signal = c.over_groups(groups, c.logged("zo_loss_change"))
    floor = c.over_groups(groups, c.logged("zo_loss_noise"))
    for curve in floor:
        curve.label, curve.kind = f"{curve.label}: noise", "points"
        curve.low = curve.high = None
    if not signal:
        figure.missing = "Nothing to draw: no zeroth-order phase has logged its losses."
        return figure
    figure.log = all(v > 0 for curve in [*signal, *floor] for v in curve.y)
    figure.views[""] = {"curves": [asdict(curve) for curve in [*signal, *floor]]}
    figure.marks = c.boundaries(groups[0].runs[0])
    figure.seen = _clear(signal, floor)
    return figure


def _clear(signal: list[Curve], floor: list[Curve]) -> str:
    if not floor:
        return "The noise was not measured: zo_noise_every does, for four losses each time."
    told = []
    for line, points in zip(signal, floor):
        rms = (sum(v * v for v in points.y) / len(points.y)) ** 0.5
        middle = sorted(line.y)[len(line.y) // 2]
        ratio = f"{middle / rms:,.3g} times" if rms > 0 else "more than any multiple of"
        told.append(f"{line.label}: the median difference is {ratio} the noise.")
    return " ".join(told)


def seen(curve: Curve) -> str:
    """What a line does, in a sentence: its first and last values."""
    if len(curve.y) == 1:
        return f"{curve.label}: one value, {shown(curve.y[0])}."
    n = ends(len(curve.y))
    first, last = sum(curve.y[:n]) / n, sum(curve.y[-n:]) / n
    word = "stays at" if first == last else "rises from" if last > first else "falls from"
    rest = shown(first) if first == last else f"{shown(first)} to {shown(last)}"
    what = "" if n == 1 else f" (means of the first and the last {n} logs)"
    return f"{curve.label}: {word} {rest}{what}."


def ends(count: int) -> int:
    """How many of `count` values stand for the beginning, and for the end: a tenth, at least 3
    where there are 6."""
    return max(1, min(max(3, count // 10), count // 2))


def shown(value: float) -> str:
    """A number of three digits, as a reader likes it."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:.2e}"
