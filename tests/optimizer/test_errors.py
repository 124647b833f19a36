"""Every refusal of the optimizer: its type and its one sentence, as a table."""

import numpy
import pytest
import torch

from zopro import ZOPrO

from .helpers import copies, parameters, same_bits


def weights():
    return parameters((4,), (2, 2))


def parameter(**options):
    return torch.nn.Parameter(torch.ones(3, **options))


def sparse():
    return torch.nn.Parameter(torch.eye(3).to_sparse())


def expanded():
    return torch.nn.Parameter(torch.ones(1).expand(3))


def twice():
    p = parameter()
    return [p, p]


def views(*parts):
    """Parameters that are views of one matrix."""
    whole = torch.zeros(4, 6)
    return [torch.nn.Parameter(whole[part]) for part in parts]


ALL, LEFT, RIGHT = (slice(None), slice(None)), (slice(None), slice(3)), (slice(None), slice(3, 6))
MIDDLE, TOP, REST = (slice(None), slice(2, 5)), slice(2), slice(2, 4)


CONSTRUCTOR = [
    (lambda: ZOPrO(views(ALL, TOP)), ValueError, r"overlap in memory, of shapes \(\d, 6\)"),
    (lambda: ZOPrO(views(LEFT, RIGHT, MIDDLE)), ValueError, "that overlap in memory"),
    (lambda: ZOPrO([{"params": views(ALL, ALL)}]), ValueError, "give each one memory of its own"),
    (lambda: ZOPrO([]), ValueError, "params is empty"),
    (lambda: ZOPrO(iter(())), ValueError, "params is empty"),
    (lambda: ZOPrO(parameter()), TypeError, "iterable of Tensors"),
    (lambda: ZOPrO(["weight"]), TypeError, "can only optimize Tensors"),
    (lambda: ZOPrO([parameter().requires_grad_(False)]), ValueError, "no parameter that requires"),
    (lambda: ZOPrO([torch.ones(3, dtype=torch.int64)]), ValueError, "integer tensors cannot be"),
    (lambda: ZOPrO([parameter(dtype=torch.float64)]), TypeError, "0 of group 0 has dtype torch.f"),
    (lambda: ZOPrO([parameter(dtype=torch.complex64)]), TypeError, "use float32, bfloat16 or"),
    (lambda: ZOPrO([parameter(device="meta")]), ValueError, "is on the meta device"),
    (lambda: ZOPrO([sparse()]), ValueError, "layout torch.sparse_coo"),
    (lambda: ZOPrO([expanded()]), ValueError, r"is expanded \(stride 0\)"),
    (lambda: ZOPrO(twice()), ValueError, "the same parameter twice"),
    (lambda: ZOPrO(weights(), lr=-1e-3), ValueError, "lr=-0.001 is not allowed"),
    (lambda: ZOPrO(weights(), lr=float("nan")), ValueError, "lr=nan is not allowed"),
    (lambda: ZOPrO(weights(), lr="fast"), TypeError, "lr='fast' is no number"),
    (lambda: ZOPrO(weights(), lr=None), TypeError, "lr=None is no number"),
    (lambda: ZOPrO(weights(), eps=0), ValueError, "eps=0 is not allowed: .* above 0"),
    (lambda: ZOPrO(weights(), eps=-1e-3), ValueError, "eps=-0.001 is not allowed"),
    (lambda: ZOPrO(weights(), eps=float("inf")), ValueError, "eps=inf is not allowed"),
    (lambda: ZOPrO(weights(), eps="large"), ValueError, "eps='large' is not known"),
    (lambda: ZOPrO(weights(), weight_decay=-0.1), ValueError, "weight_decay=-0.1 is not allowed"),
    (lambda: ZOPrO(weights(), maximize=1), TypeError, "maximize=1 is no bool"),
    (lambda: ZOPrO(weights(), distribution="cauchy"), ValueError, "distribution='cauchy' is not"),
    (lambda: ZOPrO(weights(), estimator="three_sided"), ValueError, "estimator='three_sided' is"),
    (lambda: ZOPrO(weights(), rounding="up"), ValueError, "rounding='up' is not known"),
    (lambda: ZOPrO(weights(), restore="maybe"), ValueError, "restore='maybe' is not known"),
    (lambda: ZOPrO(weights(), backend="tpu"), ValueError, "backend='tpu' is not known"),
    (lambda: ZOPrO(weights(), num_directions=0), ValueError, "num_directions=0 is out of range"),
    (lambda: ZOPrO(weights(), num_directions=1.5), TypeError, "num_directions=1.5 is no integer"),
    (lambda: ZOPrO(weights(), seed=-1), ValueError, "seed=-1 is out of range"),
    (lambda: ZOPrO(weights(), seed=2**64), ValueError, "seed=18446744073709551616 is out of"),
    (lambda: ZOPrO(weights(), seed="0"), TypeError, "seed='0' is no integer"),
    (lambda: ZOPrO([{"params": weights(), "eps": 0.0}]), ValueError, "eps=0.0 is not allowed"),
    (lambda: ZOPrO([{"params": weights(), "lr": -1}]), ValueError, "lr=-1 is not allowed"),
]


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@pytest.mark.parametrize(("call", "error", "message"), CONSTRUCTOR)
def test_the_constructor_refuses(call, error, message):
    check(call, error, message)


def test_views_that_share_no_element_are_served():
    for parts in ((LEFT, RIGHT), (TOP, REST)):
        params = views(*parts)
        ZOPrO(params, lr=0.0).step(lambda: 1.0)
    whole = torch.zeros(4, 6)
    opt = ZOPrO([torch.nn.Parameter(whole[0])])
    with pytest.raises(ValueError, match="overlap in memory"):
        opt.add_param_group({"params": [torch.nn.Parameter(whole[0:2])]})
    assert len(opt.param_groups) == 1
    opt.step(lambda: 1.0)


CLOSURES = [
    (lambda: None, TypeError, "returned NoneType: return the loss"),
    (lambda: "1.0", TypeError, "returned str"),
    (lambda: True, TypeError, "returned bool"),
    (lambda: 1j, TypeError, "returned complex"),
    (lambda: [1.0], TypeError, "returned list"),
    (lambda: torch.ones(2), ValueError, r"shape \(2,\): return a scalar"),
    (lambda: torch.ones(0), ValueError, r"shape \(0,\): return a scalar"),
    (lambda: torch.tensor(1j), TypeError, "complex64 tensor: return a real"),
    (torch.ones(()), TypeError, "closure is a Tensor: give a function"),
]


@pytest.mark.parametrize("call", ["step", "estimate"])
@pytest.mark.parametrize("restore", ["exact", "inplace"])
@pytest.mark.parametrize(("closure", "error", "message"), CLOSURES)
def test_a_closure_without_a_scalar_loss_is_refused(call, restore, closure, error, message):
    params = weights()
    before = copies(params)
    opt = ZOPrO(params, restore=restore)
    check(lambda: getattr(opt, call)(closure), error, message)
    atol = 0 if restore == "exact" else 1e-6
    assert all(torch.allclose(p, b, rtol=0, atol=atol) for p, b in zip(params, before))
    opt.step(lambda: numpy.float32(1.0))  # a number is a number


def all_ones(*, count=2):
    return [torch.ones(4), torch.ones(2, 2), torch.ones(3)][:count]


NAN = [torch.full((4,), float("nan")), torch.ones(2, 2)]
TARGETS = [
    ((all_ones(count=1),), {}, ValueError, "policy_update has 1 tensors for 2 parameters"),
    ((all_ones(count=3),), {}, ValueError, "policy_update has 3 tensors for 2 parameters"),
    ((all_ones()[::-1],), {}, ValueError, r"policy_update\[0\] has shape \(2, 2\) where its"),
    ((torch.ones(4),), {}, TypeError, "policy_update is a Tensor: give a sequence"),
    ((None,), {}, TypeError, "policy_update is a NoneType"),
    (([None, None],), {}, TypeError, r"policy_update\[0\] is a NoneType"),
    (({"a": torch.ones(4)},), {}, ValueError, "the parameters have no names"),
    ((NAN,), {}, ValueError, r"policy_update\[0\] holds a number that is not finite"),
    (([torch.ones(4).int(), torch.ones(2, 2)],), {}, TypeError, r"policy_update\[0\] is torch.i"),
    (([torch.zeros(4), torch.zeros(2, 2)],), {}, ValueError, "policy_update is 0 in every tensor"),
    ((all_ones(), all_ones(count=1)), {}, ValueError, "reward_update has 1 tensors"),
    ((all_ones(), all_ones()[::-1]), {}, ValueError, r"reward_update\[0\] has shape"),
    ((all_ones(), NAN), {}, ValueError, r"reward_update\[0\] holds a number that is not"),
    ((all_ones(),), {"schedule": "steps"}, ValueError, "schedule='steps' is not known"),
    ((all_ones(),), {"schedule": 0.5}, ValueError, "schedule=0.5 is not known"),
    ((all_ones(),), {"steps": None}, ValueError, "steps=None: schedule 'linear' needs"),
    ((all_ones(),), {"steps": 0}, ValueError, "steps=0 is out of range"),
    ((all_ones(),), {"steps": 2.5}, TypeError, "steps=2.5 is no integer"),
    ((all_ones(),), {"half_life": 0.0}, ValueError, "half_life=0.0 is not allowed"),
    ((all_ones(),), {"schedule": lambda t, n: 1.01}, ValueError, "returned 1.01 at step 0"),
    ((all_ones(),), {"schedule": lambda t, n: float("nan")}, ValueError, "returned nan at step"),
    ((all_ones(),), {"schedule": lambda t, n: "1"}, TypeError, "schedule returned str at step 0"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), TARGETS)
def test_targets_are_refused_and_nothing_changes(args, options, error, message):
    params, twins = weights(), weights()
    opt, twin = ZOPrO(params, lr=0.1), ZOPrO(twins, lr=0.1)
    check(lambda: opt.set_targets(*args, **{"steps": 10, **options}), error, message)
    opt.step(lambda: params[0].square().sum())
    twin.step(lambda: twins[0].square().sum())
    assert same_bits(params, twins)


def named(model=None):
    return ZOPrO(torch.nn.Linear(2, 2).named_parameters())


def ready():
    opt = ZOPrO(weights())
    opt.estimate(lambda: 1.0)
    return opt


def all_frozen():
    params = weights()
    opt = ZOPrO(params)
    for p in params:
        p.requires_grad_(False)
    return opt


def thawed():
    params = weights()
    params[1].requires_grad_(False)
    opt = ZOPrO(params)
    opt.set_targets([torch.ones(4)], steps=2)
    params[1].requires_grad_(True)
    return opt


def falling_schedule():
    opt = ZOPrO(weights())
    opt.set_targets(all_ones(), schedule=lambda t, n: 0.5 + t)
    opt.step(lambda: 1.0)
    return opt


USE = [
    (lambda: ZOPrO(weights()).step(), RuntimeError, r"step\(\) without an estimate"),
    (lambda: ZOPrO(weights()).perturbed("+").__enter__(), TypeError, r"sign='\+' is no number"),
    (lambda: ZOPrO(weights()).perturbed(float("nan")).__enter__(), ValueError, "sign=nan is not"),
    (lambda: ZOPrO(weights()).perturbed(1, 1).__enter__(), ValueError, "direction=1 is out of"),
    (lambda: ZOPrO(weights(), eps="auto").perturbed(1).__enter__(), RuntimeError, "settled by the"),
    (lambda: ready().set_targets(all_ones(), steps=3), RuntimeError, "set_targets: estimates wait"),
    (lambda: ready().clear_targets(), RuntimeError, "clear_targets: estimates wait"),
    (lambda: named().set_targets({"weight": torch.ones(2, 2)}, steps=3), ValueError, "'bias'"),
    (lambda: all_frozen().step(lambda: 1.0), RuntimeError, "no parameter requires grad any more"),
    (lambda: thawed().step(lambda: 1.0), RuntimeError, "since set_targets"),
    (lambda: falling_schedule().step(lambda: 1.0), ValueError, "returned 1.5 at step 1"),
]


@pytest.mark.parametrize(("call", "error", "message"), USE)
def test_misuse_is_refused(call, error, message):
    check(call, error, message)


def test_a_missing_backend_raises_at_the_first_pass():
    import zopro_kernels as zk

    missing = [name for name, state in zk.backends().items() if state != "available"]
    if not missing:
        pytest.skip("every backend is available here")
    params = weights()
    before = copies(params)
    opt = ZOPrO(params, backend=missing[0])
    check(lambda: opt.step(lambda: 1.0), RuntimeError, "is not available here")
    assert same_bits(params, before)


def check(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 250, "one clear sentence"
    assert caught.value.__cause__ is None
