"""Command line. Each command is a module with `run(argv) -> exit code`, imported when it is asked
for: torch and transformers take seconds to load, and `zopro --help` needs neither."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from .errors import CommandError, Parser, sentence

# command: (module, what it does)
COMMANDS = {
    "train": ("train", "align a model: supervised start, reward model, iterations"),
    "sft": ("starts", "supervised fine-tuning on a task's references"),
    "reward": ("starts", "a reward model from a task's preference pairs"),
    "eval": ("evaluate", "generate and score: metrics with intervals beside the task's baselines"),
    "data": ("data", "fetch and cache a task's data; rows by split"),
    "replay": ("replay", "weights rebuilt from a step log, to the bit; the log as a table"),
    "report": ("report", "runs as one HTML page; --live follows one while it trains"),
    "doctor": ("doctor", "what works on this machine, what is missing and why"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `zopro` command; returns the exit code.

    0: done. 2: one sentence on stderr says what is wrong (with --debug the traceback follows).
    130 or 143: interrupted or terminated; the same command goes on from there.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    try:
        if argv and argv[0] in COMMANDS:
            module = importlib.import_module(f"{__name__}.{COMMANDS[argv[0]][0]}")
            # Two commands share a module, which is told by which name it was called.
            extra = {"command": argv[0]} if COMMANDS[argv[0]][0] == "starts" else {}
            return module.run(argv[1:], **extra)
        return _overview(argv)
    except KeyboardInterrupt as stop:
        print(f"zopro: {str(stop) or 'interrupted; the same command goes on'}", file=sys.stderr)
        return stop.code if hasattr(stop, "code") else 130
    except SystemExit as end:  # --help
        return end.code if isinstance(end.code, int) else 2
    except BrokenPipeError:
        return 2  # the reader of our output has gone
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("zopro"):
            error = CommandError(f"{error.name!r} is not installed: pip install 'zopro[train]'")
        print(f"zopro: error: {sentence(error)}", file=sys.stderr)
        return 2


def _overview(argv: list[str]) -> int:
    lines = [f"  {name:<8} {about}" for name, (_, about) in COMMANDS.items()]
    parser = Parser(
        prog="zopro",
        usage="zopro COMMAND [options]",
        description="Align language models with preferences by forward passes alone.",
        epilog="commands:\n" + "\n".join(lines) + "\n\nzopro COMMAND --help lists its options; "
        "--debug adds tracebacks to errors.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="see below")
    given = parser.parse_known_args(argv)[0]
    if given.version:
        from importlib.metadata import version

        print(version("zopro"))
        return 0
    if given.command is None and not argv:
        parser.print_help()
        return 2
    known = ", ".join(COMMANDS)
    raise CommandError(f"command {given.command or argv[0]!r} is not known: use one of {known}")
