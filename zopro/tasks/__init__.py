"""Tasks by name: what to learn, on which data, for which reward.

Built in: summarisation, translation, dialogue. Others come from installed packages, through entry
points of group "zopro.tasks" whose value is a `protocol.Task` or a function without arguments that
returns one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from .intervals import Interval, bootstrap
from .protocol import Origin, RewardFunc, Task

__all__ = ["Interval", "Origin", "RewardFunc", "Task", "bootstrap", "get_task", "task_names"]

GROUP = "zopro.tasks"
_BUILT_IN = ("summarisation", "translation", "dialogue")
_NEEDED = ("name", "load", "preference_pairs", "scored", "build", "reward_funcs", "metrics",
           "baselines", "fit")  # fmt: skip


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def task_names() -> list[str]:
    """The names of all tasks, the built-in ones first."""
    return [*_BUILT_IN, *sorted(set(_plugins()) - set(_BUILT_IN))]


def get_task(name: str) -> Task:
    """The task of this name.

    Raises ValueError for an unknown name, ImportError for a plug-in that does not load, TypeError
    for one that is no task, each in one sentence. A plug-in cannot take a built-in task's name.
    """
    if name in _BUILT_IN:
        return import_module(f"{__name__}.{name}").TASK
    plugins = _plugins()
    if name not in plugins:
        raise ValueError(f"task is {name!r}; choose one of {', '.join(task_names())}.")
    point = plugins[name]
    try:
        found = point.load()
    except Exception as error:
        raise ImportError(f"task {name!r} ({point.value}) does not load: {error}") from error
    task = found() if callable(found) else found
    missing = [attribute for attribute in _NEEDED if not hasattr(task, attribute)]
    if missing:
        raise TypeError(
            f"task {name!r} ({point.value}) is no task: it lacks {missing[0]!r}; make it a "
            "zopro.tasks.Task."
        )
    return task
