"""The page: one file that holds everything it shows."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import math
import shlex
import time
from collections.abc import Sequence
from importlib import resources
from typing import Any

from .curves import grouped
from .figures import figures_of_logs
from .interplay import figures_of_tracks
from .layers import ALL
from .runs import Run
from .samples import samples
from .tables import TERMS, about, evals, final, repeat

HEADINGS = (
    ("about", "What this run is"),
    ("final", "Where it ended"),
    ("learning", "Learning over time"),
    ("health", "The optimizer's health"),
    ("reward-model", "The reward model"),
    ("interplay", "Policy and reward model on their ways"),
    ("samples", "Samples over time"),
    ("repeat", "How to repeat it"),
)


def content(
    runs: Sequence[Run], *, live: float = 0.0, stamp: str = "", tracked: Any = None
) -> dict[str, Any]:
    """What the page draws, as JSON can hold it: figures, fragments of HTML (escaped), the time.

    live: seconds between the page's questions for new data; 0: it asks for none. tracked: what
    `figures_of_tracks` gave, where it is known already.
    """
    groups = grouped(runs)
    tracks, scores = tracked or figures_of_tracks(list(runs), quick=bool(live))
    figures = [*figures_of_logs(groups), *tracks]
    held, how = final(groups)
    command = ["zopro", "report", *(["--live"] if live else []), *(str(r.path) for r in runs)]
    values = {
        "about": about(runs), "terms": TERMS, "final": held, "how": how, "evals": evals(runs),
        "samples": samples(runs), "repeat": repeat(runs), "command": shlex.join(command),
        "scores": [_score(*row) for row in scores],
    }  # fmt: skip
    fragments = {
        name: _templates().get_template(f"{name}.html.j2").render(values)
        for name in ("about", "final", "interplay", "samples", "repeat")
    }
    return {
        "figures": [figure.data() for figure in figures], "fragments": fragments, "stamp": stamp,
        "when": time.strftime("As of %Y-%m-%d %H:%M:%S"), "live": live,
        "runs": [{"name": run.name, "notes": run.notes} for run in runs],
    }  # fmt: skip


def page(runs: Sequence[Run], data: dict[str, Any], title: str | None = None) -> str:
    """The HTML of `data`, which `content` made."""
    from markupsafe import Markup

    script, code = _asset("page.js"), _plotly()
    connect = "'self'" if data["live"] else "'none'"
    names = " and ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
    template = _templates().get_template("page.html.j2")
    return template.render(
        title=title or f"ZOPrO report: {names}",
        policy="; ".join([
            "default-src 'none'", f"script-src {_hash(script)} {_hash(code)}",
            "style-src 'unsafe-inline'", "img-src data: blob:", f"connect-src {connect}",
            "base-uri 'none'", "form-action 'none'",
        ]),
        css=_asset("page.css"), script=script, plotly=_packed(), data=as_script(data),
        figures=data["figures"], headings=HEADINGS, when=data["when"],
        fragments={n: Markup(text) for n, text in data["fragments"].items()},
    )  # fmt: skip


def as_script(data: Any) -> str:
    """JSON that can stand inside a script element: no `<`, no number that is not finite."""
    text = json.dumps(_finite(data), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _score(run: str, layer: str, score: Any) -> dict[str, Any]:
    return {
        "run": run, "layer": layer, "single": layer != ALL, "title": score.title,
        "meaning": score.meaning,
        "value": f"{score.value:.3f}",
        "chance": f"{score.chance:.3f} [{score.low:.3f}, {score.high:.3f}]",
    }  # fmt: skip


@functools.cache
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader

    return Environment(
        loader=PackageLoader("zopro.report", "assets"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _asset(name: str) -> str:
    return resources.files("zopro.report").joinpath("assets", name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """plotly.js, of the Python package's own copy."""
    return (
        resources.files("plotly")
        .joinpath("package_data", "plotly.min.js")
        .read_text(encoding="utf-8")
    )


@functools.cache
def _packed() -> str:
    """plotly.js for the page, which unpacks it: a third of its 4.8 MB."""
    return base64.b64encode(gzip.compress(_plotly().encode(), 9, mtime=0)).decode()


@functools.cache
def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
