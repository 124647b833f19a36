"""Every refusal of the kernels' public operations: the sentence, and nothing written."""

from __future__ import annotations

import pytest
import torch

import zopro_kernels as zk

X = torch.ones(8)
CASES = {
    "one tensor": (dict(tensors=X), TypeError, "tensors is one tensor"),
    "no tensor": (dict(tensors=[3.0]), TypeError, r"tensors\[0\] is a float"),
    "integers": (dict(tensors=[X.int()]), TypeError, r"tensors\[0\] has dtype torch.int32"),
    "double": (dict(tensors=[X, X.double()]), TypeError, r"tensors\[1\] has dtype torch.float64"),
    "meta": (dict(tensors=[X.to("meta")]), ValueError, r"tensors\[0\] is on the meta device"),
    "sparse": (dict(tensors=[X.to_sparse()]), ValueError, "layout torch.sparse_coo"),
    "expanded": (dict(tensors=[torch.ones(1).expand(8)]), ValueError, "expanded"),
    "negative seed": (dict(seeds=[-1]), ValueError, "seeds has -1: it must be from 0 to"),
    "large seed": (dict(seeds=[2**64]), ValueError, "seeds has 18446744073709551616"),
    "seed no list": (dict(seeds=5), TypeError, "seeds=5 is no list"),
    "fractional seed": (dict(seeds=[0.5]), TypeError, "seeds must hold integers"),
    "coefficient count": (dict(coeffs=[1.0, 2.0]), ValueError, r"coeffs has shape \(2,\) for 1"),
    "coefficient NaN": (dict(coeffs=[float("nan")]), ValueError, "coeffs holds .* not finite"),
    "coefficient overflow": (dict(coeffs=[1e39]), ValueError, "not finite in fp32"),
    "decay": (dict(decay=[1.0, 1.0]), ValueError, r"decay has shape \(2,\)"),
    "distribution": (dict(distribution="normal"), ValueError, "distribution='normal' is not"),
    "params": (dict(params=[2**32]), ValueError, "params has 4294967296"),
    "params count": (dict(params=[1, 2]), ValueError, "params has 2 entries where 1 are needed"),
    "streams count": (dict(streams=[1, 2]), ValueError, "streams has 2 entries where 1"),
    "offset": (dict(offsets=[2**63 - 1]), ValueError, "reaches past element 9223372036854771712"),
    "rounding": (dict(rounding="up"), ValueError, "rounding='up' is not known"),
    "rounding seed": (
        dict(seeds=[], coeffs=[], rounding="stochastic"),
        ValueError,
        "without seeds needs rounding_seed",
    ),
    "prev count": (dict(prev=[X, X]), ValueError, "prev has 2 tensors for 1"),
    "prev shape": (dict(prev=[torch.ones(9)]), ValueError, r"prev\[0\] is \(9,\) on cpu where"),
    "v dtype": (
        dict(v=[X.half()]),
        TypeError,
        r"v\[0\] has dtype torch.float16: use one of float32",
    ),
    "backend": (dict(backend="tpu"), ValueError, "backend='tpu' is not a backend: use one of ref"),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refusals(case):
    change, error, sentence = CASES[case]
    arguments = {"tensors": [torch.ones(8)], "seeds": [1], "coeffs": [1.0], **change}
    tensors = [t for t in arguments["tensors"] if isinstance(t, torch.Tensor)]
    dense = [t for t in tensors if t.layout == torch.strided and t.device.type == "cpu"]
    with pytest.raises(error, match=sentence) as caught:
        zk.add_noise_(**arguments)
    assert "\n" not in str(caught.value)
    assert all((t == 1).all() for t in dense)


def test_the_last_offset_is_served_by_all():
    for backend in ("reference", None):
        assert zk.noise(10, 1, offset=2**63 - 4106, backend=backend).abs().sum() == 10


def test_autograd_sees_the_writes():
    p = torch.ones(3, requires_grad=True)
    loss = (p * p).sum()
    zk.add_noise_([p], [1], [1.0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_noise_refuses_a_negative_size():
    with pytest.raises(ValueError, match="numel has -1"):
        zk.noise(-1, 0)


def test_missing_backend_is_named(monkeypatch):
    if zk.backends()["cuda"] == "available":
        pytest.skip("this machine has the backend that the test asks for in vain")
    with pytest.raises(RuntimeError, match="backend='cuda' is not available here: "):
        zk.noise(1, 0, backend="cuda")
    monkeypatch.setenv("ZOPRO_BACKEND", "cuda")
    with pytest.raises(RuntimeError, match="ZOPRO_BACKEND='cuda' is not available here: "):
        zk.noise(1, 0)
    monkeypatch.setenv("ZOPRO_BACKEND", "reference")
    assert zk.noise(1, 0).shape == (1,)
