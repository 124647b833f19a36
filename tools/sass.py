"""Reads nvdisasm's listing: how many instructions a thread issues for the elements it handles.

The count is static and of one path: that of work that lies wholly inside one tensor, with one
seed, where every access is 16 bytes. Basic blocks are joined to a graph; the path runs from the
start of a piece of work (the header of the loop over chunks, or the kernel's entry) to its end
(that loop's last block, or the exit), through every block that stores 16 bytes or draws random
words (the ten rounds of Philox), and is the shortest of such. Blocks inside a loop that stores
count as often as the loop turns: elements of a thread's work over elements stored in one turn.
Loops that do neither (the search for the tensor) count once if they lie on the path, else not.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass, field

_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
_LABEL = re.compile(r"^(\.L_\w+):")
_TARGET = re.compile(r"`\((\.L_\w+)\)")
_ENDS = re.compile(r"\b(BRA|EXIT|RET|BRX|KILL)\b")


@dataclass
class Block:
    labels: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    follows: list[int] = field(default_factory=list)

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, line) is not None for line in self.code)

    @property
    def draws(self) -> bool:
        return self.count(r"\b(IMAD\.WIDE\.U32|IMAD\.HI\.U32)\b") >= 10


def functions(listing: str) -> dict[str, list[Block]]:
    """Mangled name of each kernel of the listing -> its blocks, in order and joined."""
    out: dict[str, list[Block]] = {}
    for part in re.split(r"^\.text\.", listing, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition(":\n")
        blocks = [Block()]
        for line in body.splitlines():
            if match := _LABEL.match(line):
                if blocks[-1].code:
                    blocks.append(Block())
                blocks[-1].labels.append(match.group(1))
            elif match := _INSTRUCTION.match(line):
                blocks[-1].code.append(match.group(1))
                if _ENDS.search(match.group(1)):
                    blocks.append(Block())
        out[name] = _join([b for b in blocks if b.code])
    return out


def _join(blocks: list[Block]) -> list[Block]:
    place = {label: i for i, block in enumerate(blocks) for label in block.labels}
    for i, block in enumerate(blocks):
        last = block.code[-1]
        conditional = last.startswith("@") or not _ENDS.search(last)
        # `BRA.DIV` leaves only for warps whose threads have parted, which ours never do.
        if target := _TARGET.search(last) if "BRA" in last and "BRA.DIV" not in last else None:
            block.follows.append(place[target.group(1)])
            conditional = conditional or re.search(r"BRA(\.\w+)*\s+!?U?P\d", last) is not None
        if (conditional or "BRA.DIV" in last) and i + 1 < len(blocks):
            block.follows.append(i + 1)
    return blocks


def _back_edges(blocks: list[Block]) -> set[tuple[int, int]]:
    """Edges to a block that dominates their source."""
    alive = sorted(_reachable(blocks, 0, set()))
    before = {i: [j for j in alive if i in blocks[j].follows] for i in alive}
    dominators = {i: {0} if i == 0 else set(alive) for i in alive}
    changed = True
    while changed:
        changed = False
        for i in alive[1:]:
            met = set.intersection(*(dominators[j] for j in before[i])) | {i}
            if met != dominators[i]:
                dominators[i], changed = met, True
    return {(i, j) for i in alive for j in blocks[i].follows if j in dominators[i]}


def _loop(blocks: list[Block], edge: tuple[int, int]) -> set[int]:
    """The blocks of the natural loop that `edge` closes."""
    source, header = edge
    body, todo = {header, source}, [source]
    while todo:
        node = todo.pop()
        if node == header:
            continue
        for i, block in enumerate(blocks):
            if node in block.follows and i not in body:
                body.add(i)
                todo.append(i)
    return body


def _shortest(blocks: list[Block], start: int, end: int, cut: set[tuple[int, int]]) -> list[int]:
    """Blocks on the path of fewest instructions, without `start`."""
    queue: list[tuple[int, int, list[int]]] = [(0, start, [])]
    seen = set()
    while queue:
        cost, node, path = heapq.heappop(queue)
        if node == end:
            return path
        if node in seen:
            continue
        seen.add(node)
        for j in blocks[node].follows:
            if (node, j) not in cut:
                heapq.heappush(queue, (cost + len(blocks[j].code), j, [*path, j]))
    raise ValueError(f"no path from block {start} to block {end}")


def _reachable(blocks: list[Block], start: int, cut: set[tuple[int, int]]) -> set[int]:
    seen, todo = {start}, [start]
    while todo:
        node = todo.pop()
        for j in blocks[node].follows:
            if (node, j) not in cut and j not in seen:
                seen.add(j)
                todo.append(j)
    return seen


@dataclass
class Count:
    """Instructions a thread issues for one element, by pipe; and for a further seed."""

    pipes: dict[str, float]
    further_seed: dict[str, float] | None  # None where no loop over seeds lies on the path

    @property
    def per_element(self) -> float:
        return sum(self.pipes.values())


# What executes an instruction: sums, products and IMAD go down the FMA pipe, loads, stores and
# shuffles to the load-store units, whatever is uniform or steers elsewhere; the rest is integer
# and logic, selection and conversion, the ALU's.
_PIPES = (
    ("fma", r"(FADD|FMUL|FFMA|IMAD)\b"),
    ("lsu", r"(LD|ST|LDG|STG|LDS|STS|LDL|STL|SHFL|RED|ATOMG?|STSM|LDSM)\b"),
    ("other", r"(U[A-Z0-9]+|R2UR|BRA|BSSY|BSYNC|BAR|EXIT|NOP|S2R|S2UR|CS2R|LDC|WARPSYNC|VOTE)\b"),
)


def pipe(line: str) -> str:
    """The pipe of an instruction: "fma", "alu", "lsu" or "other"."""
    operation = re.sub(r"^@!?U?P\w+\s+", "", line)
    return next((name for name, pattern in _PIPES if re.match(pattern, operation)), "alu")


def instructions_per_element(
    blocks: list[Block], element_bytes: int, elements: int, walks: bool
) -> float:
    """Instructions an element on the path described above; arguments as `count`'s."""
    return count(blocks, element_bytes, elements, walks).per_element


def count(blocks: list[Block], element_bytes: int, elements: int, walks: bool) -> Count:
    """Counts along the path described above.

    elements: what one thread handles of a piece of work; walks: whether the kernel loops over
    pieces of work. A kernel that stores no 16 bytes (a reduction) is followed through the 16-byte
    loads instead, or, of 8-bit elements, through the 8-byte loads whose products are truncated in
    the same block: descriptors are loaded so as well.
    """
    cut = _back_edges(blocks)
    moved = _moved(blocks)
    stores = {i for i, number in enumerate(moved) if number}
    loops = {edge: _loop(blocks, edge) for edge in cut}
    start = 0
    ends = [i for i, b in enumerate(blocks) if any("EXIT" in c for c in b.code[-1:])]
    outer = [edge for edge, body in loops.items() if stores & body]
    if walks:
        chunk_loop = max(outer, key=lambda edge: len(loops[edge]))
        start, ends = chunk_loop[1], [chunk_loop[0]]
        outer = [e for e in outer if e[1] != start]
    ahead = {i: _reachable(blocks, i, cut) for i in range(len(blocks))}
    through = [i for i in ahead[start] if i in stores or blocks[i].draws]
    # The path for edges draws too, but never comes to a 16-byte store.
    through = [i for i in through if i in stores or ahead[i] & stores]
    through.sort(key=lambda i: -len(ahead[i]))
    end = min((e for e in ends if e in ahead[through[-1]]), key=lambda e: e)
    path, here = [start], start
    for stop in [*through, end]:
        path += _shortest(blocks, here, stop, cut)
        here = stop
    turning = set().union(*(loops[edge] for edge in outer)) if outer else set()
    stored = sum(moved[i] for i in stores & set(path)) // element_bytes
    turns = elements // stored
    # Inside a piece of work only the loop over seeds draws and neither loads nor stores elements.
    seeds = [body for edge, body in loops.items() if edge[1] in path and not stores & body
             and any(blocks[i].draws for i in body)]  # fmt: skip
    weights = {i: (turns if i in turning else 1) / elements for i in path}
    return Count(
        _by_pipe(blocks, [(i, weights[i]) for i in path]),
        _by_pipe(blocks, [(i, weights.get(i, 0.0)) for i in seeds[0]]) if seeds else None,
    )


def _moved(blocks: list[Block]) -> list[int]:
    """Bytes of elements that a thread moves in each block, by the widest accesses there are."""
    for access in ("STG", "LDG"):
        moved = [16 * b.count(rf"\b{access}\.E(\.[A-Z]+)*\.128\b") for b in blocks]
        if any(moved):
            return moved
    moved = [_moved_8_bit(b) for b in blocks]
    if not any(moved):
        raise ValueError("no wide access: the vector path was not found")
    return moved


def _moved_8_bit(block: Block) -> int:
    """Each element is truncated once, or twice with n.n beside v.n; seeds that are loaded in the
    same block are not. Under a mask elements are loaded by the byte: none."""
    loads, truncated = block.count(r"\bLDG\.E(\.[A-Z]+)*\.64\b"), block.count(r"\bF2I\.S64\b")
    return min(8 * loads, truncated) if 16 * loads >= truncated else 0


def _by_pipe(blocks: list[Block], weights: list[tuple[int, float]]) -> dict[str, float]:
    issued = {"fma": 0.0, "alu": 0.0, "lsu": 0.0, "other": 0.0}
    for i, weight in weights:
        for line in blocks[i].code:
            issued[pipe(line)] += weight
    return issued
