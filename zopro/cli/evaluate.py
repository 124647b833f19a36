"""`zopro eval`: generates on a split and scores it beside the task's baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import CommandError, Parser


def _parser() -> Parser:
    parser = Parser("zopro eval", description="Metrics with 95 % intervals beside baselines.")
    add = parser.add_argument
    add("--task", help="a task's name (`zopro data list`)")
    add("--model", help="a model's folder, or its name on the hub")
    add("--adapter", help="folder of a PEFT adapter to lay over it")
    add("--source", help="an origin of the task, or a .jsonl or .parquet file")
    add("--split", default="test", help="train, validation or test (default: test)")
    add("--limit", type=int, help="so many rows of it (default: all)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default), else it samples")
    add("--max_prompt_length", type=int, help="tokens (default: what the model has room for)")
    add("--max_completion_length", type=int, help="tokens (default: the task's)")
    add("--batch_size", type=int, default=16, help="prompts generated at a time (default: 16)")
    add("--seed", type=int, default=0, help="of sampling (default: 0)")
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    add("--output", help="JSON file (default: eval-TASK-SPLIT.json in the adapter's or model's "
        "folder where that is one, else here)")  # fmt: skip
    return parser


def run(argv: Sequence[str]) -> int:
    """Prints the table and writes the JSON file with every completion."""
    given = _parser().parse_args(argv)
    _check(given)
    from .models import checked_model, lengths, model_with, task_of, tokenizer_of

    task = task_of(vars(given))
    config = checked_model(given.model)
    tokenizer = tokenizer_of(given.model)
    longest = given.max_completion_length or task.max_completion_length
    room = lengths(config, given.max_prompt_length, longest)
    chat = tokenizer.chat_template is not None
    rows = task.load(given.split, given.source, limit=given.limit, conversational=chat)
    rows = task.fit(rows, tokenizer, room)
    model = model_with(given.model, given.adapter, given.dtype)
    made = _generate(model, tokenizer, list(rows["prompt"]), longest, given)

    candidates = {"model": made, **task.baselines(rows)}
    table = {kind: task.metrics(texts, rows) for kind, texts in candidates.items()}
    _show(table, f"{task.name}, {given.split}, {len(rows)} rows: mean [95 % interval]")
    path = Path(given.output) if given.output else _default(given)
    _write(path, given, argv, table, rows, made, {"prompt": room, "completion": longest})
    print(f"written to {path}")
    return 0


def _check(given: Any) -> None:
    for name in ("limit", "max_prompt_length", "max_completion_length", "batch_size"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise CommandError(f"{name}={value} is not allowed: give at least 1")
    if not 0 <= given.temperature < float("inf"):
        raise CommandError(f"temperature={given.temperature} is not allowed: give 0 or more")
    if given.dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise CommandError(f"dtype={given.dtype!r} is not known: use auto, float32, bfloat16 or "
                           "float16")  # fmt: skip


def _generate(
    model: Any, tokenizer: Any, prompts: list[Any], longest: int, given: Any
) -> list[str]:
    """One text a prompt; batches of like lengths, so that little is padding."""
    import torch
    from tqdm.auto import tqdm

    torch.manual_seed(given.seed)
    how: dict[str, Any] = {"do_sample": False}
    if given.temperature:
        how = {"do_sample": True, "temperature": given.temperature, "top_k": 0, "top_p": 1.0}
    chat = not isinstance(prompts[0], str)
    if chat:
        prompts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True)
                   for p in prompts]  # fmt: skip
    pad = tokenizer.pad_token_id
    if pad is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        pad = tokenizer.pad_token_id
    if pad is None:
        raise CommandError(f"model={given.model!r} has a tokenizer without pad and end tokens")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    made = [""] * len(prompts)
    with torch.inference_mode(), tqdm(total=len(prompts), unit="prompt", disable=None) as bar:
        for start in range(0, len(order), given.batch_size):
            chosen = order[start : start + given.batch_size]
            inputs = tokenizer(
                [prompts[i] for i in chosen], return_tensors="pt", padding=True,
                padding_side="left", add_special_tokens=not chat, return_token_type_ids=False,
            ).to(model.device)  # fmt: skip
            ids = model.generate(**inputs, **how, max_new_tokens=longest, pad_token_id=pad)
            ids = ids[:, inputs["input_ids"].shape[1] :]
            for i, text in zip(chosen, tokenizer.batch_decode(ids, skip_special_tokens=True)):
                made[i] = text.strip()
            bar.update(len(chosen))
    return made


def _show(table: dict[str, dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title)
    shown.add_column("")
    names = list(next(iter(table.values())))
    for name in names:
        shown.add_column(name, justify="right")
    for kind, metrics in table.items():
        cells = [f"{m.mean:.3g} [{m.low:.3g}, {m.high:.3g}]" for m in map(metrics.get, names)]
        shown.add_row(kind, *cells, style="bold" if kind == "model" else None)
    console = Console()
    # A pipe or a file has no width of its own, and a cut number says nothing.
    Console(width=None if console.is_terminal else 200).print(shown)


def _default(given: Any) -> Path:
    folder = Path(given.adapter or given.model)
    name = f"eval-{given.task}-{given.split}.json"
    return folder / name if folder.is_dir() else Path(name)


def _write(
    path: Path, given: Any, argv: Sequence[str], table: Any, rows: Any, made: list[str], limits: Any
) -> None:
    from .record import described

    record = {
        **described(["eval", *argv]),
        "options": vars(given),
        "tokens": limits,
        "metrics": {k: {n: v._asdict() for n, v in m.items()} for k, m in table.items()},
        "completions": [
            {"source": source, "reference": reference, "completion": text}
            for source, reference, text in zip(rows["source"], rows["reference"], made)
        ],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"output={str(path)!r} cannot be written: {error.strerror}") from error
