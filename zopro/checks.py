"""Refusals of the optimizer: one sentence each, before anything is changed."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import torch
from torch import Tensor

import zopro_kernels as zk

DISTRIBUTIONS = ("rademacher", "gaussian")
ESTIMATORS = ("two_sided", "one_sided")
ROUNDINGS = ("auto", "nearest", "stochastic")
RESTORES = ("auto", "exact", "inplace", "layerwise")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        known = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{name}={value!r} is not known: use one of {known}")
    return value


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int in [low, high)."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} is no integer: give one from {low} up") from None
    if number < low or (high is not None and number >= high):
        limit = f"{low} up" if high is None else f"{low} to {high - 1}"
        raise ValueError(f"{name}={number} is out of range: give an integer from {limit}")
    return number


def number(name: str, value: Any, low: float, *, open_low: bool = False) -> float:
    """`value` as a finite float, at least (or, with `open_low`, above) `low`."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()  # torch's schedulers may keep lr as a tensor
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r} is no number: give a float")
    out = float(value)
    if not math.isfinite(out) or out < low or (open_low and out == low):
        needed = f" above {low:g}" if open_low else f" of at least {low:g}"
        needed = "" if low == -math.inf else needed
        raise ValueError(f"{name}={value!r} is not allowed: give a finite number{needed}")
    return out


def capturable(params: list[Tensor], groups: list[dict[str, Any]]) -> None:
    """What a step in a CUDA graph asks for: one device, where the tensors of lr are as well."""
    devices = {p.device for p in params}
    if len(devices) > 1:
        raise ValueError(
            f"capturable=True with parameters on {', '.join(sorted(map(str, devices)))}: put them "
            "on one device, or leave it out"
        )
    for group in groups:
        lr = group["lr"]
        if isinstance(lr, Tensor) and lr.device not in devices:
            raise ValueError(
                f"capturable=True with lr on {lr.device}: put the tensor on {devices.pop()}"
            )


def group_options(group: dict[str, Any], *, unseen: bool = False) -> None:
    """lr, eps, weight_decay and maximize of one parameter group; `unseen` reads no tensor."""
    if not (unseen and isinstance(group["lr"], Tensor)):
        number("lr", group["lr"], 0.0)
    number("weight_decay", group["weight_decay"], 0.0)
    if isinstance(group["eps"], str):
        if group["eps"] != "auto":
            raise ValueError(f"eps={group['eps']!r} is not known: give a number above 0 or 'auto'")
    else:
        number("eps", group["eps"], 0.0, open_low=True)
    if not isinstance(group["maximize"], bool):
        raise TypeError(f"maximize={group['maximize']!r} is no bool: give True or False")


def parameter(label: str, p: Tensor) -> None:
    """One trainable parameter: dense, real, with memory of its own, fp32, bf16 or fp16."""
    if p.device.type == "meta":
        raise ValueError(f"{label} is on the meta device: load the model's weights first")
    if p.layout != torch.strided:
        raise ValueError(f"{label} has layout {p.layout}: give a dense tensor (to_dense())")
    if p.dtype not in DTYPES:
        raise TypeError(f"{label} has dtype {p.dtype}: use float32, bfloat16 or float16")
    if any(stride == 0 and size > 1 for size, stride in zip(p.shape, p.stride())):
        raise ValueError(f"{label} is expanded (stride 0): give a tensor that owns its elements")
    if hasattr(p, "device_mesh"):
        raise ValueError(f"{label} is sharded over a device mesh: give unsharded parameters")


def parameter_list(params: Any) -> Any:
    """`params` as a list, refused when empty; a lone tensor is left to torch's own refusal."""
    if isinstance(params, Tensor):
        return params
    params = list(params)
    if not params:
        raise ValueError("params is empty: give model.parameters() (an iterator serves only once)")
    return params


def no_duplicates(group: dict[str, Any]) -> None:
    """Refuses a tensor given twice: it would be perturbed twice, along another direction."""
    params = group.get("params") if isinstance(group, dict) else None
    if params is None or isinstance(params, (Tensor, set)):
        return  # torch has its own sentences for these
    group["params"] = params = list(params)
    tensors = [id(p[1] if isinstance(p, tuple) else p) for p in params]
    if len(set(tensors)) != len(tensors):
        raise ValueError("params holds the same parameter twice: give each one once")


def no_overlap(tensors: list[Tensor]) -> None:
    """Refuses trainable tensors that share elements: each would be moved along two directions."""
    spans = []  # (device, first byte, last byte + 1, place)
    for i, p in enumerate(tensors):
        if p.numel():
            reach = sum((size - 1) * stride for size, stride in zip(p.shape, p.stride())) + 1
            begin = p.data_ptr()
            spans.append((str(p.device), begin, begin + reach * p.element_size(), i))
    cluster: list[tuple] = []  # spans that hang together
    for span in [*sorted(spans), ("", 0, 0, 0)]:
        if cluster and span[0] == cluster[0][0] and span[1] < max(s[2] for s in cluster):
            cluster.append(span)
            continue
        if len(cluster) > 1:
            _no_shared_element(cluster, tensors)
        cluster = [span]


def _no_shared_element(cluster: list[tuple], tensors: list[Tensor]) -> None:
    """Marks, a byte an element, what each tensor covers: columns of one matrix may interleave."""
    _, first, _, i = cluster[0]
    size = tensors[i].element_size()
    owner = torch.zeros((max(s[2] for s in cluster) - first) // size + 1, dtype=torch.bool)
    for _, begin, _, j in cluster:
        p = tensors[j]
        place = (begin - first) // size
        other = p.element_size() != size or (begin - first) % size != 0
        taken = owner if other else owner.as_strided(p.shape, p.stride(), place)
        if other or bool(taken.any()):
            raise ValueError(
                f"params has trainable tensors that overlap in memory, of shapes "
                f"{tuple(tensors[i].shape)} and {tuple(p.shape)}: give each one memory of its own"
            )
        taken.fill_(1)


def attachable(model: Any, *, evaluated: bool) -> None:
    """A module; to be `evaluated` layer by layer, one whose own modules run, with their hooks."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: give the torch.nn.Module")
    for name, module in model.named_modules() if evaluated else ():
        if (
            isinstance(module, torch.nn.DataParallel | torch.jit.ScriptModule)
            or "_orig_mod" in module._modules
            or getattr(module, "_compiled_call_impl", None) is not None
        ):
            raise ValueError(
                f"model has a module {name or type(module).__name__!r} that is compiled or "
                "replicated, so its parameters cannot be exchanged for one forward: attach the "
                "plain model, or use restore='inplace'"
            )


def backend(name: Any) -> str | None:
    if name is not None and name not in zk.backends():
        known = ", ".join(repr(b) for b in zk.backends())
        raise ValueError(f"backend={name!r} is not known: use one of {known}, or None")
    return name


def loss_value(loss: Any) -> tuple[Tensor, torch.dtype]:
    """A closure's result as fp64, 0-dim, where it lies, and the dtype to answer in.

    A copy, whose value nobody waits for: the closure may use its tensor again.
    """
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(
                f"the closure returned a tensor of shape {tuple(loss.shape)}: return a scalar loss"
            )
        if loss.is_complex():
            raise TypeError(f"the closure returned a {loss.dtype} tensor: return a real loss")
        dtype = torch.float64 if loss.dtype == torch.float64 else torch.float32
        loss = loss.detach() if loss.dim() == 0 else loss.detach().reshape(())
        return loss.to(torch.float64, copy=True), dtype
    if isinstance(loss, numbers.Real) and not isinstance(loss, bool):
        return torch.tensor(float(loss), dtype=torch.float64), torch.float64
    raise TypeError(
        f"the closure returned {type(loss).__name__}: return the loss, a scalar tensor or a number"
    )
