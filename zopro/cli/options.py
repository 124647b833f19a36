"""Flags and YAML files out of dataclasses: what was given, and nothing that was not.

Hugging Face's HfArgumentParser makes the flags of a class's fields. Only what the user gave is
returned, because the trainers of the phases have different defaults under the same names.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from .errors import CommandError

_DOTTED = re.compile(r"--(\w+)\.([\w-]+)(?:=(.*))?", re.DOTALL)


class _Short(argparse.RawDescriptionHelpFormatter):
    """Of --a_b and --a-b only the first is shown."""

    def _format_action_invocation(self, action):
        shown = copy.copy(action)
        shown.option_strings = action.option_strings[-1 if action.dest == "help" else 0 :][:1]
        return super()._format_action_invocation(shown)


class FieldParser(HfArgumentParser):
    """HfArgumentParser whose result holds the given flags alone, with errors of one sentence.

    Of fields of one name in several classes the last class's counts; --help begins with the fields
    of all classes but the first, which is Hugging Face's.
    """

    def __init__(self, classes: Sequence[type], **options: Any) -> None:
        super().__init__(classes, allow_abbrev=False, conflict_handler="resolve",
                         formatter_class=_Short, **options)  # fmt: skip
        for action in self._actions:
            if action.dest == "help":
                continue
            default, action.default, action.required = action.default, argparse.SUPPRESS, False
            if action.type is dict:
                action.type = json_mapping
            if default is None and action.type is not None and not action.choices:
                action.type = or_none(action.type)
            if action.nargs != 0 and default not in (None, argparse.SUPPRESS, "", [], {}):
                shown = str(default).replace("%", "%%")
                action.help = f"{action.help or ''} (default: {shown})".strip()

        self.order()

    def order(self, more: Sequence[str] = ()) -> None:
        """Puts our own flags, and those named in `more`, before the others of --help."""
        own = {f.name for cls in self.dataclass_types[1:] for f in dataclasses.fields(cls)}
        self._optionals._group_actions.sort(key=lambda a: a.dest not in {"help", *own, *more})

    def error(self, message: str) -> NoReturn:
        raise CommandError(message)


def fields_of(cls: type, name: str) -> type:
    """A dataclass of the fields of `cls` that are no mappings, with its docstring as their help.

    "name: text" lines of the docstring are the help; optional fields have a default of their own.
    """
    hints, about = typing.get_type_hints(cls), _documented(cls.__doc__ or "")
    made = []
    for f in dataclasses.fields(cls):
        if "dict" in str(hints[f.name]):
            continue
        default = None if f.default is dataclasses.MISSING else f.default
        metadata = {"help": about.get(f.name, "").replace("%", "%%")}
        made.append((f.name, hints[f.name], dataclasses.field(default=default, metadata=metadata)))
    return dataclasses.make_dataclass(name, made)


def _documented(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for names, rest in re.findall(
        r"^ {8}(\w+(?:, \w+)*): (.*(?:\n {12}.*)*)", text, flags=re.MULTILINE
    ):
        found |= dict.fromkeys(names.split(", "), " ".join(rest.split()))
    return found


def json_mapping(text: str) -> dict[str, Any]:
    """A JSON object from a flag."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON mapping such as '{{\"a\": 1}}'")
    return value


def or_none(kind: Any) -> Any:
    """The type `kind` of a flag, with "none" for None."""

    def parse(text: str) -> Any:
        return None if text.lower() in ("none", "null") else kind(text)

    parse.__name__ = getattr(kind, "__name__", "value")  # argparse names it in errors
    return parse


def given(
    parser: FieldParser, argv: Sequence[str], sections: Mapping[str, type] | None = None
) -> dict[str, Any]:
    """What `argv`, and the YAML file that its --config names, say; flags win over the file.

    sections: prefixes of dotted flags (`--reward.learning_rate 1e-4`) and the classes whose fields
    follow them; each that occurs is a mapping in the result. Raises CommandError, one sentence.
    """
    sections = sections or {}
    file, argv = _config(list(argv))
    tokens = [*_flags(file, sections), *argv] if file else argv
    plain, dotted = _split(tokens, sections)
    found, rest = parser.parse_known_args(plain)
    if rest:
        _unknown(parser, rest[0])
    values = {n: None if value == [None] else value for n, value in vars(found).items()}
    for section, flags in dotted.items():
        sub = FieldParser([sections[section]], prog=f"{parser.prog} ({section})")
        inner, rest = sub.parse_known_args(flags)
        if rest:
            _unknown(sub, rest[0], f"{section}.")
        values[section] = {**(values.get(section) or {}), **vars(inner)}
    return values


def _config(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    path = None
    for i, token in enumerate(argv):
        if token == "--config" or token.startswith("--config="):
            if token == "--config" and i + 1 == len(argv):
                raise CommandError("--config needs a YAML file")
            path = token.partition("=")[2] or argv[i + 1]
            argv = argv[:i] + argv[i + (1 if "=" in token else 2) :]
            break
    return (_read(path), argv) if path else ({}, argv)


def _read(path: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"config={path!r} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise CommandError(f"config={path!r} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise CommandError(f"config={path!r} holds no mapping of options")
    if "help" in found:
        raise CommandError(f"config={path!r} holds 'help', which is for the command line alone")
    return found


def _flags(values: Mapping[str, Any], sections: Mapping[str, type], prefix: str = "") -> list[str]:
    """A mapping as flags, so that a file's values go through the very checks of the flags."""
    made: list[str] = []
    for name, value in values.items():
        flag = f"--{prefix}{name}"
        if isinstance(value, Mapping) and name in sections and not prefix:
            made += _flags(value, sections, f"{name}.") if value else [flag, "{}"]
        elif isinstance(value, Mapping):
            made += [flag, json.dumps(value)]
        elif isinstance(value, list | tuple):
            made += [flag, *map(str, value)] if value else []
        else:
            made += [flag, "none"] if value is None else [f"{flag}={value}"]
    return made


def _split(
    tokens: Sequence[str], sections: Mapping[str, type]
) -> tuple[list[str], dict[str, list[str]]]:
    plain: list[str] = []
    dotted: dict[str, list[str]] = {}
    into = plain
    for token in tokens:
        match = _DOTTED.fullmatch(token)
        if match and match[1] in sections:
            into = dotted.setdefault(match[1], [])
            token = f"--{match[2]}" + (f"={match[3]}" if match[3] is not None else "")
        elif token.startswith("--"):
            into = plain
        into.append(token)
    return plain, dotted


def _unknown(parser: FieldParser, token: str, prefix: str = "") -> NoReturn:
    name = token.split("=")[0]
    if not name.startswith("--"):
        raise CommandError(f"{token!r} belongs to no option: write --option {token}")
    known = [s for a in parser._actions for s in a.option_strings if "_" in s or "-" not in s[2:]]
    near = difflib.get_close_matches(name, known, 1)
    hint = f": did you mean --{prefix}{near[0][2:]}?" if near else ""
    raise CommandError(f"option --{prefix}{name[2:]} is not known{hint}")
