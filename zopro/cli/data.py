"""`zopro data TASK`: fetches and caches a task's data."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import CommandError, Parser


def run(argv: Sequence[str]) -> int:
    """Builds the data of one task and prints its rows by split."""
    parser = Parser("zopro data", description="Fetch and cache a task's data.")
    parser.add_argument("task", metavar="TASK", help="a task's name, or `list` for all of them")
    parser.add_argument("--source", help="an origin of the task (default: its offline one)")
    parser.add_argument("--cache_dir", help="folder (default: ZOPRO_CACHE, else ~/.cache/zopro)")
    given = parser.parse_args(argv)

    from zopro.tasks import get_task, task_names

    if given.task == "list":
        for name in task_names():
            task = get_task(name)
            print(f"{name}: {task.about}")
            for source, origin in task.origins.items():
                print(f"    {source:<18} {origin.about}")
        return 0
    task = get_task(given.task)
    counts = task.build(given.source, cache_dir=given.cache_dir)
    if not counts:
        if given.source is None:
            raise CommandError(f"task {given.task!r} has nothing to build: its data are files")
        counts = _count(task, given.source, given.cache_dir)
    for split, rows in counts.items():
        print(f"{split:<12} {rows:>8} rows")
    prompt = task.load("validation", given.source, cache_dir=given.cache_dir, limit=1)[0]
    print(f"\nfor example\n  prompt     {prompt['prompt']!r}\n  reference  {prompt['reference']!r}")
    return 0


def _count(task, source: str, cache_dir: str | None) -> dict[str, int]:
    # A file or a hub's dataset: nothing to build, so it is read and counted.
    splits = ("train", "validation", "test")
    return {split: len(task.load(split, source, cache_dir=cache_dir)) for split in splits}
