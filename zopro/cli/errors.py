"""Refusals of the command line, and the parser that makes them one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn


class CommandError(Exception):
    """What is wrong with the command, in one sentence; printed, with exit code 2."""


class Parser(argparse.ArgumentParser):
    """argparse without its page of usage before an error."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (`{self.prog} --help` lists the options)")


def plain(command: str, argv: Sequence[str]) -> None:
    """Parses the arguments of a command that takes none but --help."""
    from . import COMMANDS

    Parser(f"zopro {command}", description=COMMANDS[command][1]).parse_args(argv)


def sentence(error: BaseException) -> str:
    """An exception as one line: its message's first paragraph."""
    if isinstance(error, KeyError) and error.args:
        error = ValueError(f"{error.args[0]!r} is missing")
    text = str(error).strip().split("\n\n")[0]
    text = " ".join(text.split()) or "no message"
    kind = type(error)
    known = (CommandError, ValueError, OSError, RuntimeError, ImportError, TypeError)
    return text if kind in known or issubclass(kind, OSError) else f"{kind.__name__}: {text}"
