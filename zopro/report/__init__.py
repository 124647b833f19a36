"""The report of a run: one HTML file that explains itself, figures for papers, a live page.

    write_report(["runs/a", "runs/b"], "report.html", figures="figures")
    serve("runs/a", port=8765)          # on loopback, while it trains

Needs `pip install 'zopro[report]'`.
"""

from importlib import import_module
from typing import Any

_HOME = {"write_report": "write", "serve": "live", "read_run": "runs", "Run": "runs"}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
