"""prev and v kept in bf16 or in 8 bits with block scales: the form itself, then the reference.

The backends are held to the reference's bits by tests of their own.
"""

import pytest
import torch
from kernels.bits import assert_same_bits
from kernels.cases import KEPT

import zopro_kernels as zk
from zopro_kernels.dispatch import backends

ON_CPU = [name for name in ("reference", "cpu") if backends()[name] == "available"]
both = pytest.mark.parametrize("backend", ON_CPU)
forms = pytest.mark.parametrize("form", ("bf16", "int8"))


@pytest.mark.parametrize("offset", (0, 5, 2**33 + 255))
@pytest.mark.parametrize("numel", (0, 1, 3, 1023, 4097))
def test_quantise_rounds_each_block_of_the_global_index_space(numel, offset):
    torch.manual_seed(0)
    x = torch.randn(numel) * 10 ** torch.empty(numel).uniform_(-9, 5)
    x[: numel // 3] = 0.0  # whole blocks of zeros
    kept = zk.quantise(x, offset)
    values, scales, elements = [], [], []
    block = [(offset + i) // 256 for i in range(numel)]
    for b in sorted(set(block)):
        part = x[[i for i in range(numel) if block[i] == b]]
        scale = part.abs().max() / 127
        scales.append(scale)
        q = (part / scale).round() if scale > 0 else torch.zeros_like(part)
        values.append(q.to(torch.int8))
        elements.append(values[-1].float() * scale)
    nothing = torch.zeros(0)
    assert_same_bits(kept.values, torch.cat([nothing.to(torch.int8), *values]), "values")
    assert_same_bits(kept.scales, torch.stack(scales) if scales else nothing, "scales")
    assert_same_bits(kept.float(), torch.cat([nothing, *elements]), "elements")


def test_ties_go_to_even_and_tiny_scales_stay_in_range():
    x = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5])
    assert zk.quantise(x).values.tolist() == [127, 0, 2, 2, 0, -2]
    tiny = torch.tensor([1e-45, -190e-45])  # a scale of one unit that 127 of them do not reach
    kept = zk.quantise(tiny)
    assert kept.values.abs().max() <= 127 and kept.float().isfinite().all()


def test_a_part_is_the_same_memory():
    kept = zk.quantise(torch.randn(40, 50), offset=200)
    for start, stop in ((0, 2000), (0, 1), (55, 57), (56, 312), (1999, 2000), (7, 7)):
        part = kept.part(start, stop)
        assert_same_bits(part.float(), kept.float().view(-1)[start:stop], f"{start} to {stop}")
    assert kept.part(56, 60).values.data_ptr() == kept.values.data_ptr() + 56
    assert kept.part(56, 60).scales.data_ptr() == kept.scales.data_ptr() + 4


@pytest.mark.parametrize(
    "make, error, message",
    (
        (lambda: zk.quantise([1.0]), TypeError, "tensor is list: give a tensor"),
        (lambda: zk.quantise(torch.ones(2, dtype=torch.int32)), TypeError, "tensor is torch.int32"),
        (lambda: zk.quantise(torch.tensor([1.0, float("inf")])), ValueError, "not finite"),
        (lambda: zk.quantise(torch.ones(2), offset=-1), ValueError, "offset has -1"),
        (lambda: zk.Int8Blocks(torch.ones(9), torch.ones(1)), TypeError, r"values\[0\] has dtype"),
        (
            lambda: zk.Int8Blocks(torch.ones(9, dtype=torch.int8), torch.ones(1), 250),
            ValueError,
            r"scales is \(1,\) on cpu for 9 values from offset 250 on cpu: give \[2\]",
        ),
        (
            lambda: zk.Int8Blocks(torch.ones(9, 2, dtype=torch.int8).t(), torch.ones(1)),
            ValueError,
            "not contiguous",
        ),
    ),
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "changed, error, message",
    (
        (dict(prev=["int8"], v=["bf16"]), TypeError, "v is kept as torch.bfloat16 where prev is"),
        (dict(prev=["int8"], offsets=[7]), ValueError, r"prev\[0\] has blocks from offset 0 where"),
        (dict(prev=["int8", "bf16"]), TypeError, "prev holds bfloat16, int8: keep all of it"),
        (dict(prev=["fp32", "bf16"]), TypeError, "prev holds bfloat16, float32: keep all of it"),
    ),
)
def test_passes_refuse_mixed_forms_and_other_offsets(changed, error, message):
    changed = {
        name: [KEPT[form](torch.ones(300), 0) if isinstance(form, str) else form for form in given]
        for name, given in changed.items()
    }
    count = len(changed["prev"])
    theta = [torch.zeros(300) for _ in range(count)]
    with pytest.raises(error, match=message):
        zk.add_noise_(theta, [1], [1.0], prev_coeffs=1.0, **changed)
    assert not any(t.any() for t in theta)


def test_a_lone_tensor_and_blocks_as_weights_are_refused():
    kept = zk.quantise(torch.ones(300))
    with pytest.raises(TypeError, match="prev is one tensor: give a list"):
        zk.add_noise_([torch.zeros(300)], [1], [1.0], prev=kept)
    with pytest.raises(TypeError, match="Int8Blocks, which no pass writes"):
        zk.add_noise_([kept], [1], [1.0])
    mixed = zk.TensorSet([torch.zeros(3), torch.zeros(3).bfloat16()])
    with pytest.raises(TypeError, match="use a TensorSet of float32, bfloat16 or Int8Blocks alone"):
        zk.noise_dots(mixed, 1)


@both
@forms
@pytest.mark.parametrize("seeds", (1, 2))
@pytest.mark.parametrize("which", ("prev and v", "prev", "v"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_a_pass_counts_the_elements_as_fp32(backend, form, which, seeds, dtype):
    """The very bits of a pass over their fp32 values; contiguous tensors and views, shards."""
    torch.manual_seed(1)
    shapes, offsets = [(70, 90), (5000,), (1,), (300, 4200)], [0, 2**33 + 3, 5, 256]
    given = [torch.randn(shape) for shape in shapes]
    theta = [torch.randn(shape).to(dtype) for shape in shapes]
    theta[0] = torch.randn(90, 70).to(dtype).t()
    theta[3] = torch.randn(300, 5000).to(dtype)[:, :4200]  # rows long enough to go as they are
    names = [n for n in ("prev", "v") if n in which.split(" and ")]
    kept = [KEPT[form](x, o) for x, o in zip(given, offsets)]
    arguments = dict(offsets=offsets, rounding="stochastic", backend=backend, prev_coeffs=0.5,
                     v_coeffs=-0.25, decay=0.99)  # fmt: skip
    results = []
    for companion in (kept, [x.float() for x in kept]):
        out = [t.clone(memory_format=torch.preserve_format) for t in theta]
        out[3] = torch.zeros(300, 5000, dtype=dtype)[:, :4200].copy_(theta[3])
        zk.add_noise_(
            out, list(range(7, 7 + seeds)), [0.1] * seeds, **arguments,
            **dict.fromkeys(names, companion),
        )  # fmt: skip
        results.append(out)
    for t, (ours, oracle) in enumerate(zip(*results)):
        assert_same_bits(ours, oracle, f"tensor {t}")


@both
@forms
@pytest.mark.parametrize("distribution", ("rademacher", "gaussian"))
def test_dots_are_those_of_the_elements(backend, form, distribution):
    torch.manual_seed(2)
    offsets = [3, 2**40, 0]
    kept = [KEPT[form](torch.randn(n) / n**0.5, o) for n, o in zip((5000, 4096, 1), offsets)]
    arguments = dict(offsets=offsets, distribution=distribution, backend=backend)
    oracle = zk.noise_dots([x.float() for x in kept], 5, **arguments)
    assert_same_bits(zk.noise_dots(kept, 5, **arguments), oracle, "v.n and n.n")
    prepared = zk.TensorSet(kept, offsets=offsets)
    got = zk.noise_dots(prepared, 5, distribution=distribution, backend=backend)
    assert_same_bits(got, oracle, "of a set")


@both
@forms
def test_a_set_of_kept_tensors(backend, form):
    """The table is remembered by the scales' addresses, too."""
    x = torch.randn(600)
    theta = torch.zeros(600)
    for factor in (1.0, 2.0):
        kept = KEPT[form](factor * x, 0)
        prepared = zk.TensorSet([theta], prev=[kept])
        theta.zero_()
        zk.add_noise_(prepared, [], [], prev_coeffs=1.0, backend=backend)
        assert_same_bits(theta, kept.float(), form)
