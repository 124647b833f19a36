"""What an optimizer keeps between steps: a step is that of one that keeps nothing, whatever has
changed since the last."""

from __future__ import annotations

import pytest
import torch

from zopro import ZOPrO
from zopro.prepared import Prepared

from .helpers import copies, parameters, quadratic, same_bits

SHAPES = ((4, 4), (4, 4), (7,), (3, 5))


def option(name, value):
    def change(opt, params):
        opt.param_groups[1][name] = value

    return change


def off(opt, params):
    params[1].requires_grad_(False)


def on_again(opt, params):
    params[3].requires_grad_(True)


def swapped(opt, params):
    """Other memory, the same parameter."""
    params[0].data = 2.0 * params[0].data


def turned(opt, params):
    """The same address and shape, other strides."""
    params[0].data = params[0].data.t()


def exchanged(opt, params):
    params[0].data, params[1].data = params[1].data, params[0].data


def smaller(opt, params):
    params[2].data = params[2].data[:5]


def cast(opt, params):
    for p in params:
        p.data = p.data.bfloat16()


def other_order(opt, params):
    opt.param_groups[0]["params"].reverse()


def other_group(opt, params):
    """The groups' parameters one after another stay what they were."""
    opt.param_groups[1]["params"].insert(0, opt.param_groups[0]["params"].pop())


def other_parameter(opt, params):
    params[0] = opt.param_groups[0]["params"][0] = torch.nn.Parameter(torch.ones(4, 4))


def added(opt, params):
    params.append(torch.nn.Parameter(torch.ones(6)))
    opt.add_param_group({"params": [params[-1]], "eps": 0.3})


def aimed(opt, params):
    opt.set_targets([torch.cos(p.detach().float()) for p in trainable(params)], steps=9)


def aimed_at_v(opt, params):
    given = [torch.sin(p.detach().float()) for p in trainable(params)]
    opt.set_targets(given, [None, *given[1:]], steps=9, storage="int8")


def cleared(opt, params):
    opt.clear_targets()


def reloaded(opt, params):
    """The first two tensors have each other's index in the law."""
    state = opt.state_dict()
    order = state["zopro"]["trainable"]
    order[0], order[1] = order[1], order[0]
    opt.load_state_dict(state)


OPTIONS = {
    "lr": option("lr", 0.03), "lr tensor": option("lr", torch.tensor(0.02)),
    "eps": option("eps", 0.05), "decay": option("weight_decay", 0.25),
    "maximize": option("maximize", True),
}  # fmt: skip
PLAIN = [off, on_again, swapped, turned, exchanged, smaller, cast, other_order, other_group,
         other_parameter, added, aimed, aimed_at_v, reloaded]  # fmt: skip
TARGETED = [off, swapped, turned, exchanged, cast, other_order, other_group, aimed, aimed_at_v,
            cleared, reloaded]  # fmt: skip
CASES = [
    *((f"plain, {name}", False, change) for name, change in OPTIONS.items()),
    *((f"targeted, {name}", True, change) for name, change in OPTIONS.items()),
    *((f"plain, {change.__name__}", False, change) for change in PLAIN),
    *((f"targeted, {change.__name__}", True, change) for change in TARGETED),
]


def trainable(params):
    return [p for p in params if p.requires_grad]


def walk(targeted, change, forget, **case):
    """The weights after six steps, of which the fourth follows the change."""
    params = parameters(*SHAPES)
    params[3].requires_grad_(False)
    groups = [{"params": params[:2], "eps": 0.02}, {"params": params[2:]}]
    opt = ZOPrO(groups, lr=1e-2, eps=0.01, backend="cpu", **case)
    if targeted:
        aimed_at_v(opt, params)
    slopes = []
    for step in range(6):
        if step == 3 and change is not None:
            change(opt, params)
        if forget:
            opt._prepared, opt._found = Prepared(), None
        opt.step(quadratic(params))
        slopes += opt.last.projected_gradients
    return copies(params), slopes


@pytest.mark.parametrize("restore", ["exact", "inplace"])
@pytest.mark.parametrize(("targeted", "change"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_change_between_steps_is_seen(targeted, change, restore):
    case = {"restore": restore, "num_directions": 1 + (restore == "exact")}
    kept, slopes = walk(targeted, change, False, **case)
    fresh, others = walk(targeted, change, True, **case)
    assert slopes == others and same_bits(kept, fresh)
    still, before = walk(targeted, None, False, **case)
    assert slopes[:3] == before[:3]
    moved = slopes != before or not same_bits(kept[:4], still)
    assert moved == (change is not other_order)  # an index stays a parameter's own


def test_nothing_changed_is_seen_as_that():
    """What would make a step slow: what it keeps is made once (benchmarks/host_time.py)."""
    params = parameters(*SHAPES)
    opt = ZOPrO(params, lr=1e-2)
    aimed_at_v(opt, params)
    made = []
    for _ in range(3):
        opt.step(quadratic(params))
        kept = opt._prepared._kept
        made.append([opt._trainable(), *(kept[x][1] for x in ("placed", "aim", "multiples"))])
    assert all(a is b for later in made[1:] for a, b in zip(made[0], later))
