"""`zopro replay`: weights rebuilt from a step log; the log as a table."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from .errors import CommandError, Parser


def _parser() -> Parser:
    parser = Parser(
        "zopro replay",
        usage="zopro replay BASE LOG --out DIR [options]\n       zopro replay LOG --show",
        description="Rebuilds the weights of a run from what it started from and its step log.",
    )
    add = parser.add_argument
    add("paths", nargs="+", metavar="BASE LOG", help="BASE: the folder of the model or adapter "
        "that the run started from, or a safetensors file; LOG: its steps.zolog")  # fmt: skip
    add("--out", help="folder to write, like BASE")
    add("--model", help="model below the adapter BASE, whose weights the run left frozen (default: "
        "the one that BASE names, where it is here)")  # fmt: skip
    add("--step", type=int, help="weights after so many steps (default: all in the log)")
    add("--backend", help="reference, cpu, triton or cuda (default: by device)")
    add("--device", default="cpu", help="where to rebuild them (default: cpu)")
    add("--show", action="store_true", help="print the log, a line a step")
    add("--export", nargs=2, metavar=("csv|jsonl", "PATH"), help="write the log as a table")
    return parser


def run(argv: Sequence[str]) -> int:
    """Writes the folder, prints or exports the table."""
    given = _parser().parse_args(argv)
    _check(given)
    from zopro.steplog import read_log

    log = read_log(given.paths[-1])
    if log.cut:
        print(f"zopro: {given.paths[-1]}: {log.cut}", file=sys.stderr)
    if given.show:
        _show(log)
    if given.export:
        _export(log, *given.export)
    if given.out:
        _rebuild(log, given)
    return 0


def _check(given: Any) -> None:
    table = given.show or given.export
    if not given.out and not table:
        raise CommandError("out is missing: give --out DIR, or --show or --export for the table")
    if given.out and len(given.paths) != 2:
        raise CommandError(
            f"--out takes BASE and LOG, {len(given.paths)} paths are given: name both"
        )
    if not given.out and len(given.paths) > 2:
        raise CommandError(f"{given.paths[2]!r} is one path too many: give LOG")
    if given.export and given.export[0] not in ("csv", "jsonl"):
        raise CommandError(f"export={given.export[0]!r} is not known: use csv or jsonl")


def _rebuild(log: Any, given: Any) -> None:
    from zopro.steplog import replay
    from zopro.steplog.base import Base

    base = Base(given.paths[0])
    base.check_out(given.out)  # before the work, not after it
    _compare_frozen(log.head.frozen, base, given.model)
    tensors = base.tensors(log.head.parameters, given.device)
    digest = replay(log, tensors, given.step, backend=given.backend)
    out = base.write(given.out, tensors)
    steps = log.steps if given.step is None else given.step
    print(f"{out}: the weights after step {steps}, SHA-256 {digest}")
    if log.head.frozen is None and (others := base.others(log.head.parameters)):
        print(f"zopro: {len(others)} tensors that the log does not train ({others[0]}, ...) are "
              f"those of {base.path} and compared with nothing: the log has no digests of what the "
              "run left frozen", file=sys.stderr)  # fmt: skip


def _compare_frozen(frozen: Any, base: Any, model: str | None) -> None:
    """ValueError where the run left other weights frozen than those of its base; says what was
    compared, and what was not."""
    from zopro.steplog.frozen import Compared, compare

    if not frozen:
        return
    below, why = _model(base, model)
    found = Compared(0, tuple(e.name for e in frozen)) if below is None else compare(frozen, below)
    if found.equal:
        print(f"{found.equal} tensors that the run left frozen are those of {below.path}")
    if found.left:
        print(f"zopro: {len(found.left)} tensors that the run left frozen ({found.left[0]}, ...) "
              f"were compared with nothing: {why}", file=sys.stderr)  # fmt: skip


def _model(base: Any, model: str | None) -> tuple[Any, str]:
    """Where the frozen tensors lie, and why one of them cannot be found."""
    from zopro.steplog.base import Base

    if model is not None or not base.adapter:
        found = base if model is None else Base(model)
        return found, f"{found.path} has them in another form, or not at all"
    name, hint = base.below(), "name the model below the adapter by --model"
    if name is None:
        return None, f"{base.path} names no model; {hint}"
    try:
        found = Base(name if Path(name).is_dir() else _cached(name))
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        return None, f"{base.path} is an adapter of {name}, which is not here ({first}); {hint}"
    return found, f"{found.path} has them in another form, or not at all"


def _cached(name: str) -> str:
    """The folder of a hub's model that was downloaded before; OSError or ValueError without one."""
    from huggingface_hub import snapshot_download

    return snapshot_download(name, local_files_only=True)


def _rows(log: Any) -> Iterator[dict[str, Any]]:
    """A row a step."""
    from zopro.steplog import Step

    for r in log.records:
        if isinstance(r, Step):
            row = asdict(r)
            slopes, lr = row.pop("slopes"), row.pop("lr")
            row |= {f"lr_{g}" if g else "lr": x for g, x in enumerate(lr)}
            yield row | {f"slope_{k}": s for k, s in enumerate(slopes)}


def _show(log: Any) -> None:
    from zopro.steplog import Step

    head = log.head
    options = ", ".join(f"{name} {value}" for name, value in asdict(head.options).items())
    print(f"{len(head.parameters)} parameters in {head.groups} groups, seed {head.seed}, {options}")
    print(f"start: step {head.steps}, weights {head.digest[:16]}")
    print(f"{'step':>8} {'lr':>12} {'d':>8}  slopes (change of the loss per eps z)")
    for r in log.records:
        if isinstance(r, Step):
            lr = " ".join(f"{x:12.5g}" for x in r.lr)
            slopes = " ".join(f"{s:+.6g}" for s in r.slopes)
            print(f"{r.step:>8} {lr} {r.d:8.4f}  {slopes}{'  skipped' if r.skipped else ''}")
        else:
            print(f"{'':>8} {_told(r)}")


def _told(record: Any) -> str:
    """What stands between the steps, in a line."""
    told = asdict(record)
    kind = type(record).__name__
    if kind == "Groups":
        return "options: " + ", ".join(f"{name} {list(x)}" for name, x in told.items())
    if kind == "Aim":
        return f"targets: {told['file'] or 'none'}" + (
            f", schedule {told['schedule'] or 'a callable'}, steps {told['steps']}"
            if told["file"]
            else ""
        )
    if kind == "Moves":
        return f"{len(told['moves'])} passes out of the ordinary"
    word = "resumed" if kind == "Resume" else "mark"
    return f"{word}: after step {told['steps']}, weights {told['digest'][:16]}"


def _export(log: Any, kind: str, path: str) -> None:
    rows = list(_rows(log))
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        _write(file, kind, names, rows)
    print(f"{path}: {len(rows)} steps")


def _write(file: TextIO, kind: str, names: list[str], rows: list[dict[str, Any]]) -> None:
    if kind == "csv":
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    else:
        # NaN slopes of skipped steps are no JSON.
        for row in rows:
            finite = {n: x if abs(x or 0.0) < float("inf") else None for n, x in row.items()}
            file.write(json.dumps(finite) + "\n")
