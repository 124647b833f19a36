"""`zopro train` killed (SIGKILL) at random instants and given again, against an unbroken run; and
the step logs that are left, replayed against the weights of their phases.

python benchmarks/kills.py --kills 50 --json benchmarks/results/kills.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# One thread from the start: a pool that torch has begun does not outlive a fork.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CI": "1", "HF_HUB_OFFLINE": "1",
               "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
import harness
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from safetensors.torch import load_file
from trainer.tiny_llama import build_model, build_tokenizer

from zopro.cli import main as zopro_main
from zopro.iterations import driver  # noqa: F401  # what takes seconds, before any fork
from zopro.iterations.training import LogLines

OPTIONS = (
    "--task translation --limit 16 --method zopro --first spsa --max_steps 12"
    " --save_steps 5 --logging_steps 2 --num_iterations 2 --zo_num_directions 2"
    " --use_cpu --per_device_train_batch_size 4 --max_completion_length 4"
    " --learning_rate 1e-2"
)
PLANS = {
    "adapter, copied": "--lora_r 2",
    "all weights in bf16, in place": "--lora_r none --zo_restore inplace --rewards default"
    " --dtype bfloat16 --gradient_accumulation_steps 2",
}
TIMES = ("runtime", "per_second", "step_time", "reward_time", "seconds")


def prepared(folder: Path) -> list[str]:
    """A tiny model and rows in `folder`; the command without its output folder."""
    build_model().save_pretrained(folder / "model")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "model")
    made = ({"source": f"w{i % 40} w{(3 * i) % 40} cat {i}", "reference": f"good cat w{i % 40} w2"}
            for i in range(80))  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return ["train", "--model", str(folder / "model"), "--source", str(folder / "rows.jsonl"),
            *OPTIONS.split()]  # fmt: skip


def forked(argv: list[str], trace: Path, delay: float | None = None) -> bool:
    """Runs the command in a process of its own; killed after `delay` s. Whether it came to its end.

    trace: gets a line for the start, and for begin and end of each trainer and step: what kind,
    phase, step.
    """
    child = os.fork()  # no thread has been started yet: the libraries load once
    if child == 0:
        sys.stdout = sys.stderr = open(trace.with_suffix(".out"), "a")  # noqa: SIM115
        with open(trace, "a", encoding="utf-8") as file:
            file.write("start - 0\n")
        _traced(trace)
        code = zopro_main(argv)
        sys.stdout.flush()
        os._exit(code)
    began, status = time.monotonic(), None
    while status is None:
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            status = code
        elif delay is not None and time.monotonic() - began > delay:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        else:
            time.sleep(0.001)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if status:
        raise SystemExit(f"the command failed: {trace.with_suffix('.out').read_text()[-2000:]}")
    return True


def _traced(trace: Path) -> None:
    def note(kind: str) -> Any:
        def noted(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
            with open(trace, "a", encoding="utf-8") as file:
                file.write(f"{kind} {self._phase} {state.global_step}\n")

        return noted

    LogLines.on_train_begin, LogLines.on_train_end = note("begin"), note("end")
    LogLines.on_step_begin, LogLines.on_step_end = note("inside"), note("step")


def lost(trace: Path) -> dict[str, list[int]]:
    """Of each start that goes on with a phase, the whole steps that are done again, by the phase's
    kind: first-order ones go on from their checkpoints."""
    done: dict[str, int] = {}
    again: dict[str, list[int]] = {"zeroth": [], "first": []}
    for line in trace.read_text().splitlines():
        kind, phase, step = line.split()
        if kind not in ("begin", "step"):
            continue
        if kind == "begin" and phase in done:
            again["zeroth" if phase.endswith(".policy") else "first"].append(
                done[phase] - int(step)
            )
        done[phase] = int(step)
    return again


def ends(run: Path) -> tuple[dict[str, dict[str, torch.Tensor]], list[dict[str, Any]]]:
    """Every tensor that the run left, and its metrics without times and rates."""
    tensors = {str(p.relative_to(run)): load_file(p) for p in sorted(run.rglob("*.safetensors"))}
    rows = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    return tensors, [
        {n: v for n, v in row.items() if not any(word in n for word in TIMES)} for row in rows
    ]


def differing(run: Path, whole: Path) -> tuple[int, int]:
    """Differing bits of the weights, and differing rows of the metrics; files by name as well."""
    (a, rows), (b, expected) = ends(run), ends(whole)
    if a.keys() != b.keys() or any(a[f].keys() != b[f].keys() for f in a):
        raise SystemExit(f"other files or tensors: {sorted(a.keys() ^ b.keys())}")
    count = 0
    for f in b:
        for n in b[f]:
            x, y = (t[f][n].contiguous().view(torch.uint8) for t in (a, b))
            count += int((x ^ y).sum(dtype=torch.int64) != 0) and sum(
                int(v).bit_count() for v in (x ^ y).flatten().tolist()
            )
    pairs = list(zip(rows, expected)) if len(rows) == len(expected) else [(None, 0)]
    return count, sum(x != y for x, y in pairs)


def replayed(run: Path, model: Path) -> int:
    """How many logs of the zeroth-order phases give the weights that their phases left.

    AssertionError for one that gives others. In a process of its own, as `forked` is.
    """
    phases = sorted(p.parent for p in run.glob("phases/*/steps.zolog"))
    base = model
    for phase in phases:
        start, left = phase / "start_adapter", phase / "policy.safetensors"
        out = phase.parent / f"{phase.name}.replayed"
        argv = ["replay", str(start if start.is_dir() else base), str(phase / "steps.zolog"),
                "--out", str(out)]  # fmt: skip
        assert forked(argv, run.with_suffix(".replay"))
        (file,) = out.glob("*.safetensors")
        found = {name.replace(".default.", "."): x for name, x in load_file(file).items()}
        for name, x in load_file(left).items():
            assert torch.equal(x, found[name.replace(".default.", ".")]), (phase, name)
        shutil.rmtree(out)
        base = left
    return len(phases)


def chains(plan: str, kills: int, each: int, seed: int) -> dict[str, Any]:
    """`kills` kills over runs of `each`, uniform over the time that a start may take."""
    r, points, again = random.Random(seed), [], {"zeroth": [], "first": []}
    bits = rows = logs = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        argv = [*prepared(folder), *PLANS[plan].split()]
        began = time.monotonic()
        forked([*argv, "--output_dir", str(folder / "whole")], folder / "whole.trace")
        length = time.monotonic() - began
        done = runs = 0
        while done < kills:
            run, trace = folder / f"run{done}", folder / f"run{done}.trace"
            command = [*argv, "--output_dir", str(run)]
            for _ in range(min(each, kills - done)):
                delay = r.uniform(0.0, length * 0.6)
                if forked(command, trace, delay):
                    break  # at its end before the kill
                done += 1
                points.append(_where(trace))
            forked(command, trace)
            runs += 1
            found = differing(run, folder / "whole")
            bits, rows = bits + found[0], rows + found[1]
            logs += replayed(run, folder / "model")
            for kind, counts in lost(trace).items():
                again[kind] += counts
    return {
        "plan": plan,
        "options": PLANS[plan],
        "kills": done,
        "runs": runs,
        "seconds of the unbroken run": length,
        "killed in": {p: points.count(p) for p in sorted(set(points))},
        "killed inside a step": sum("inside" in p for p in points),
        "logs replayed to the bit": logs,
        "differing bits": bits,
        "differing metrics": rows,
        "steps done again, zeroth-order": again["zeroth"],
        "steps done again, first-order": again["first"],
    }


def _where(trace: Path) -> str:
    """Where the last start was, by what it had noted when it was killed."""
    starts = trace.read_text().split("start - 0\n") if trace.exists() else []
    if not starts or not starts[-1]:
        return "set-up" if len(starts) < 3 else "going on"
    kind, phase, _ = starts[-1].splitlines()[-1].split()
    return {"inside": f"inside a step of {phase}", "end": f"after {phase}"}.get(kind, phase)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=10, help="kills of one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", nargs="+", choices=PLANS, help="default: all")
    parser.add_argument("--json")
    args = parser.parse_args()
    for plan in args.plan or PLANS:
        found = chains(plan, args.kills, args.each, args.seed)
        print(json.dumps(found, indent=2), flush=True)
        if args.json:
            path = Path(args.json)
            known = json.loads(path.read_text()).get("plans", []) if path.exists() else []
            others = [p for p in known if p["plan"] != plan]
            harness.record(path, {"plans": [*others, found]})


if __name__ == "__main__":
    main()
