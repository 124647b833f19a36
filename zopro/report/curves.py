"""Numbers over time out of a run's logs, and the mean of several seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .runs import POLICY, REWARD, Run

Row = dict[str, Any]


@dataclass
class Curve:
    """A line: y over x, both plain numbers, of equal length; low and high: a band about it.

    colour: an index into the palette. kind: "line", "points" or "chance" (what chance gives).
    text: of each point, where it says more than x and y. x is the number of steps as a rule.
    """

    label: str
    x: list[float]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    colour: int = 0
    kind: str = "line"
    text: list[str] | None = None
    more: dict[str, Any] = field(default_factory=dict)


def placed(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """(steps so far, row): the steps of the phases before are added to each row's own."""
    before, reached, phase, out = 0, 0, None, []
    for row in rows:
        if row["phase"] != phase:
            before, reached, phase = before + reached, 0, row["phase"]
        reached = max(reached, row["step"])
        out.append((before + row["step"], row))
    return out


def boundaries(run: Run) -> list[tuple[float, str]]:
    """(steps before it, name) of each iteration's policy phase."""
    out: list[tuple[float, str]] = []
    for x, row in placed(run.of(POLICY)):
        number = row["phase"].partition(".")[0]
        name = f"iteration {number}" if number.isdigit() else row["phase"]
        if not out or out[-1][1] != name:
            out.append((float(x - row["step"]), name))
    return out


def logged(name: str, kind: Any = POLICY) -> Callable[[Run], tuple[list[float], list[float]]]:
    """A function from a run to (x, y) of one logged number."""

    def read(run: Run) -> tuple[list[float], list[float]]:
        found = [(x, number(row.get(name))) for x, row in placed(run.of(kind))]
        kept = [(float(x), y) for x, y in found if y is not None]
        return [x for x, _ in kept], [y for _, y in kept]

    return read


def learning_loss(run: Run) -> tuple[list[float], list[float]]:
    """(x, y): the reward model's loss."""
    return logged("loss", REWARD)(run)


def tokens_a_second(run: Run) -> tuple[list[float], list[float]]:
    """(x, y): tokens between two logs of a phase over the time between them."""
    xs, ys, last = [], [], None
    for x, row in placed(run.of(POLICY)):
        now = (row["phase"], number(row.get("num_tokens")), number(row.get("seconds")))
        if now[1] is None or now[2] is None:
            continue
        if last is not None and last[0] == now[0] and now[2] > last[2] and now[1] > last[1]:
            xs.append(float(x))
            ys.append((now[1] - last[1]) / (now[2] - last[2]))
        last = now
    return xs, ys


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


@dataclass
class Group:
    """Runs that differ by their seed alone, and a name that tells it from the other groups."""

    name: str
    runs: list[Run]


_OWN = ("seed", "output_dir", "resume")


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Groups in the order of their first runs; named by their method, and by what differs."""
    groups: dict[str, list[Run]] = {}
    for k, run in enumerate(runs):
        options = {**run.flags, **run.options}
        plain = {n: v for n, v in options.items() if n not in _OWN}
        key = json.dumps(plain, sort_keys=True, default=str) if plain else f"alone {k}"
        groups.setdefault(key, []).append(run)
    found = list(groups.values())
    names = [str(members[0].option("method") or members[0].name) for members in found]
    if len(set(names)) < len(names):
        names = [_told_apart(name, members[0], found) for name, members in zip(names, found)]
    if len(set(names)) < len(names):
        names = [f"{name} ({members[0].name})" for name, members in zip(names, found)]
    return [Group(name, members) for name, members in zip(names, found)]


def _told_apart(name: str, run: Run, found: list[list[Run]]) -> str:
    flat = [_flat({**members[0].flags, **members[0].options}) for members in found]
    own = _flat({**run.flags, **run.options})
    differing = [
        n for n in own if n.rpartition(".")[2] not in (*_OWN, "method")
        and any(other.get(n) != own[n] for other in flat)
    ]  # fmt: skip
    if len(differing) > 2:
        return f"{name} ({run.name})"  # a list of options would be longer than it says
    return ", ".join([name, *(f"{n} {own[n]}" for n in sorted(differing))])


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


def over_groups(groups: Sequence[Group], read: Callable[[Run], Any]) -> list[Curve]:
    """A curve a group: of several seeds their mean with its 95 % interval where all have a value
    (Student's t over the seeds), of one run its own numbers."""
    curves = []
    for k, group in enumerate(groups):
        found = [dict(zip(*read(run))) for run in group.runs]
        found = [points for points in found if points]
        if not found:
            continue
        if len(found) == 1:
            xs = sorted(found[0])
            curves.append(Curve(group.name, xs, [found[0][x] for x in xs], colour=k))
            continue
        xs = sorted(set.intersection(*map(set, found)))
        middle = [interval([points[x] for points in found]) for x in xs]
        curves.append(
            Curve(f"{group.name}, mean of {len(found)} seeds", xs, [m for m, _ in middle],
                  [m - w for m, w in middle], [m + w for m, w in middle], colour=k)
        )  # fmt: skip
    return curves


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval of the mean, by Student's t; at least two values."""
    from scipy.stats import t

    n = len(values)
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
