"""Tables of docs/population.md."""

from __future__ import annotations

from document import NotMeasured, load, markdown, source


def cost() -> str:
    """Forwards in a population against plain ones, on a CPU and, where it was measured, a GPU."""
    run = "python benchmarks/population_cost.py"
    parts = [_cost("population_cost_cpu.json", run)]
    try:
        parts.append(_cost("population_cost_cuda.json", f"{run} --device cuda"))
    except NotMeasured as reason:
        parts.append(f"On a GPU: {reason}.")
    return "\n\n".join(parts)


def _cost(name: str, command: str) -> str:
    result = load(name, command)
    head = ["sequences", "tokens / s", "plain", "share, median [quartiles] of pairs",
            "share by processor time", "extra memory"]  # fmt: skip
    rows = [
        [(f"{r['model']}: " if len(result["trained"]) > 1 else "") + r["case"],
         f"{r['population_tokens_s']:,.0f}", f"{r['plain_tokens_s']:,.0f}",
         f"{r['share']:.2f} [{r['share_low']:.2f}, {r['share_high']:.2f}]",
         f"{r['processor_share']:.2f}", f"{100 * r['extra_bytes'] / r['forward_bytes']:.1f} %"]
        for r in result["rows"]
    ]  # fmt: skip
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    trained = ", ".join(f"{m} ({n:,} numbers)" for m, n in result["trained"].items())
    note = (
        f"{result['sequences']} sequences of {result['tokens']} tokens, LoRA of rank "
        f"{result['rank']} in fp32 on all linear layers of {trained}, {threads}; "
        f"{sum(r['pairs'] for r in result['rows'])} pairs of forwards in turns. "
        f"{result['remark']}Extra memory: of the peak that a forward allocates."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, name)}"


def cosines() -> str:
    """Estimates against the exact gradient."""
    name = "population_cosine.json"
    result = load(name, "python benchmarks/population_cosine.py")
    head = ["directions", "estimates", "cosine with the exact gradient", "arithmetic", "quotient"]
    rows = [
        [r["estimate"].replace("on all", "on all responses"), f"{r['estimates']:,}",
         f"{r['measured']:.5f} ± {r['standard_error']:.5f}", f"{r['arithmetic']:.5f}",
         f"{r['measured'] / r['arithmetic']:.2f}"]
        for r in result["rows"]
    ]  # fmt: skip
    note = (
        f"RLOO loss of {result['responses']} responses, d = {result['d']:,}, measured rho = "
        f"{result['rho']:.2f}; root mean square over the estimates (a direction a response: mean), "
        f"± a standard error; all read off {result['trials']} populations of 64 directions."
    )
    return f"{markdown(head, rows)}\n\n{note} {source(result, name)}"


BLOCKS = {"population_cost": cost, "population_cosine": cosines}
