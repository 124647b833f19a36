"""JSON objects of a step log, checked against the annotations of what is to be made of them."""

from __future__ import annotations

import json
import types
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

_hints = cache(get_type_hints)


def loaded(text: bytes) -> dict[str, Any]:
    """A JSON object; ValueError for anything else, NaN and infinity included."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise ValueError("a JSON text of the log is damaged") from None
    if not isinstance(value, dict):
        raise ValueError("a JSON text of the log is no object")
    return value


def made(kind: Any, value: Any) -> Any:
    """`value`, as json gives it, as a `kind`: a dataclass, tuple[X, ...], X | None, int (64 bits),
    float, str or bool. Raises ValueError where it is none; nothing is converted but int to float.
    """
    if is_dataclass(kind):
        hints = _hints(kind)
        if not isinstance(value, dict) or sorted(value) != sorted(hints):
            raise ValueError(f"{kind.__name__.lower()} needs {', '.join(hints)}")
        return kind(**{name: made(hint, value[name]) for name, hint in hints.items()})
    if get_origin(kind) is tuple and type(value) is list:
        return tuple(made(get_args(kind)[0], item) for item in value)
    if get_origin(kind) is types.UnionType:
        return None if value is None else made(get_args(kind)[0], value)
    if kind is float and type(value) in (int, float) and abs(value) < 2.0**1023:
        return float(value)
    if type(value) is kind and (kind is not int or 0 <= value < 2**64):
        return value
    raise ValueError(f"{str(value)[:40]!r} is no {getattr(kind, '__name__', kind)}")
