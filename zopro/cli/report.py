"""`zopro report`: what a run did, as a page that explains itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import CommandError, Parser


def _parser() -> Parser:
    parser = Parser(
        "zopro report",
        usage="zopro report RUN [RUN ...] [--out FILE] [--figures DIR]\n"
        "       zopro report --live RUN [RUN ...] [--port PORT]",
        description="One HTML file of runs (runs that differ by their seed alone are averaged), "
        "or a page on this machine that follows them while they train.",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="output_dir of `zopro train`, or of a trainer")
    add("--out", help="the HTML file (default: report.html)")
    add("--figures", metavar="DIR", help="also write each figure there as PNG and SVG")
    add("--title", help="of the page")
    add("--live", action="store_true", help="serve the page on 127.0.0.1 and follow new data")
    add("--port", type=int, help="of --live (default: 8765; 0: a free one)")
    return parser


def run(argv: Sequence[str]) -> int:
    """Writes the file, or serves until Ctrl-C."""
    given = _parser().parse_args(argv)
    _check(given)
    try:
        if given.live:
            from zopro.report import serve

            serve(given.runs, 8765 if given.port is None else given.port)
            return 0
        from zopro.report import write_report

        out = write_report(
            given.runs, given.out or "report.html", figures=given.figures, title=given.title
        )
    except ModuleNotFoundError as error:
        if str(error.name).startswith("zopro"):
            raise
        raise CommandError(
            f"{error.name!r} is not installed: pip install 'zopro[report]'"
        ) from error
    where = f", and figures in {given.figures}" if given.figures else ""
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB){where}")
    return 0


def _check(given: Any) -> None:
    for name in ("out", "figures", "title"):
        if given.live and getattr(given, name) is not None:
            raise CommandError(f"--{name} is given beside --live, which writes no file: give one")
    if given.port is not None and not given.live:
        raise CommandError(f"port={given.port} is given without --live: add it")
    if given.port is not None and not 0 <= given.port < 65536:
        raise CommandError(f"port={given.port} is not allowed: give 0 to 65535")
