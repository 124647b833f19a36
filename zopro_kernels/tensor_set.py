"""Tensors prepared for many passes: checked, flattened and described to the kernels once."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .arguments import check_extent, check_tensors, integers
from .dispatch import choose
from .passes import Dots, Pass, PassSequence
from .runs import contiguous_runs, flat, is_one_run
from .stored import Int8Blocks, Stored, check_stored, flattened, memory
from .transfer import common_device, moved


class TensorSet:
    """What passes and reductions work on, prepared once: `add_noise_(TensorSet(...), ...)`.

    tensors: any shapes and strides, fp32, bf16 or fp16; written in place by passes. For reductions
    alone they may be Int8Blocks, too. params, offsets, prev, v: as in `add_noise_`. A pass over
    hundreds of small tensors then costs the host one look at each address
    (benchmarks/host_time.py).

    Tensors that have moved (`x.data = other`, `module.to`, a resize into other memory) are noticed
    by their addresses, checked and described anew; `refreshed` notices too where an address stayed
    but the order of the elements in memory, or their number, has changed. Until then the set keeps
    the memory that it last saw alive.
    Raises ValueError or TypeError as `add_noise_` does.
    """

    def __init__(
        self,
        tensors: Sequence[Stored],
        *,
        params: Sequence[int] | None = None,
        offsets: Sequence[int] | None = None,
        prev: Sequence[Stored] | None = None,
        v: Sequence[Stored] | None = None,
    ) -> None:
        self.tensors = _checked(tensors)
        count = len(self.tensors)
        self.params = integers("params", range(count) if params is None else params, count, 2**32)
        self.offsets = integers(
            "offsets", [0] * count if offsets is None else offsets, count, 2**63
        )
        self.prev = None if prev is None else check_stored("prev", prev)
        self.v = None if v is None else check_stored("v", v)
        self.refresh()

    def __len__(self) -> int:
        return len(self.tensors)

    def refresh(self) -> None:
        """Checks and describes the tensors as they are now."""
        _checked(self.tensors)
        self._check_beside("prev", self.prev)
        self._check_beside("v", self.v)
        if self.prev and self.v and self.prev[0].dtype != self.v[0].dtype:
            raise TypeError(
                f"v is kept as {self.v[0].dtype} where prev is {self.prev[0].dtype}: keep both in "
                "one form"
            )
        self._check_blocks("tensors", self.tensors)
        check_extent(self.tensors, self.offsets)
        self.device = common_device(self.tensors)
        self.places: dict[torch.device, list[int]] = {}  # the tensors of each device
        for t, tensor in enumerate(self.tensors):
            self.places.setdefault(tensor.device, []).append(t)
        self.dtypes = {t.dtype for t in self.tensors}
        self._memory = [memory(t) for t in self.tensors]
        self._addresses = addresses(self._memory)
        self._layout = layout(self._memory)
        self._tables: dict[Any, Any] = {}
        self._runs = None
        if is_one_run(self.tensors, self.prev, self.v):
            self._runs = flat(self.tensors), flat(self.prev), flat(self.v)

    def refreshed(self) -> bool:
        """`refresh` where a tensor has moved or lies otherwise in its memory; whether it did."""
        if self._in_place() and layout(self._memory) == self._layout:
            return False
        self.refresh()
        return True

    def follow(self) -> None:
        """`refresh` where a tensor has moved."""
        if not self._in_place():
            self.refresh()

    def add_noise_(
        self,
        integers: Tensor,
        floats: Tensor,
        *,
        distribution: str = "rademacher",
        stochastic: bool = False,
        backend: str | None = None,
    ) -> None:
        """The pass of `zk.add_noise_` from its scalars as kernels read them, which go unchecked.

        integers: int64 [1 + 2 K], the rounding seed, the seeds and the streams. floats: fp32
        [T, 4 + K], for each tensor decay, prev_coeff, v_coeff, live (0: nothing is written) and K
        coeffs. Where all tensors are on one device, both are best there too. Does not count as a
        write to autograd: `mark_written`.
        """
        serving = self._serving(backend)
        if self._runs is not None:
            tensors, prev, v = self._runs
            serving[self.device].add_noise_(
                Pass(
                    tensors, self.params, self.offsets, distribution, moved(integers, self.device),
                    moved(floats, self.device), prev, v, stochastic, self._tables,
                )
            )  # fmt: skip
            return
        whole = Pass(
            self.tensors, self.params, self.offsets, distribution, integers, floats, self.prev,
            self.v, stochastic,
        )  # fmt: skip
        with torch.no_grad():
            for part in contiguous_runs(whole):
                serving[part.tensors[0].device].add_noise_(part)

    def add_noise_sequence_(
        self,
        records: list[tuple[Tensor, Tensor]],
        *,
        distribution: str = "rademacher",
        stochastic: bool = False,
        backend: str | None = None,
    ) -> None:
        """The passes of `add_noise_` with these (integers, floats), in one over the memory."""
        serving = self._serving(backend)
        if not records:
            return
        tensors, prev, v = self._runs or (self.tensors, self.prev, self.v)
        whole = PassSequence(
            tensors, self.params, self.offsets, distribution, records, prev, v, stochastic
        )
        if self._runs is not None:
            whole.tables = self._tables
            whole.records = [(moved(i, self.device), moved(f, self.device)) for i, f in records]
            serving[self.device].add_noise_sequence_(whole)
            return
        with torch.no_grad():
            for part in contiguous_runs(whole):
                serving[part.tensors[0].device].add_noise_sequence_(part)

    def mark_written(self) -> None:
        """Tells autograd, as any in-place operation does: a graph that has saved one refuses."""
        torch.autograd.graph.increment_version(self.tensors)

    def sums(self, scalars: Tensor, distribution: str, backend: str | None) -> list[Tensor]:
        """int64 [T, 2] in the kernels' units for the tensors of each device, in `places`' order.

        scalars: int64 [3]: 0, seed, stream. The caller has called `follow`.
        """
        vectors = self._runs[0] if self._runs else [flattened(v) for v in self.tensors]
        whole = Dots(vectors, self.params, self.offsets, distribution, scalars, self._tables)
        if len(self.places) == 1:
            (device,) = self.places
            whole.integers = moved(scalars, device)
            return [choose(device, backend).noise_dots(whole)]
        return [
            choose(device, backend).noise_dots(
                Dots(
                    [vectors[t] for t in rows], [self.params[t] for t in rows],
                    [self.offsets[t] for t in rows], distribution, moved(scalars, device),
                )
            )
            for device, rows in self.places.items()
        ]  # fmt: skip

    def _serving(self, backend: str | None) -> dict[torch.device, ModuleType]:
        """The backend of each device, chosen before any writes; TypeError where a pass may not."""
        self.follow()
        if torch.int8 in self.dtypes:
            raise TypeError("tensors holds Int8Blocks, which no pass writes: give float tensors")
        return {device: choose(device, backend) for device in self.places}

    def _in_place(self) -> bool:
        return addresses(self._memory) == self._addresses

    def _check_beside(self, name: str, given: list[Stored] | None) -> None:
        if given is None:
            return
        if len(given) != len(self.tensors):
            raise ValueError(
                f"{name} has {len(given)} tensors for {len(self.tensors)}: give one a tensor"
            )
        for i, (g, t) in enumerate(zip(given, self.tensors)):
            if g.shape != t.shape or g.device != t.device:
                raise ValueError(
                    f"{name}[{i}] is {tuple(g.shape)} on {g.device} where its tensor is "
                    f"{tuple(t.shape)} on {t.device}: give the same shape and device"
                )
        self._check_blocks(name, given)

    def _check_blocks(self, name: str, given: list[Stored]) -> None:
        for i, (g, offset) in enumerate(zip(given, self.offsets)):
            if isinstance(g, Int8Blocks) and g.offset != offset:
                raise ValueError(
                    f"{name}[{i}] has blocks from offset {g.offset} where its tensor begins at "
                    f"{offset}: make it by zk.quantise(..., offset={offset})"
                )


def _checked(tensors: Sequence[Stored]) -> list[Stored]:
    if not isinstance(tensors, Tensor) and any(isinstance(t, Int8Blocks) for t in tensors):
        return check_stored("tensors", tensors)
    return check_tensors("tensors", tensors)


def addresses(tensors: list[Tensor]) -> list[int]:
    """Where the tensors' memory begins."""
    return list(map(Tensor.data_ptr, tensors))


def layout(tensors: list[Tensor]) -> list:
    """What may change where an address stays: the number of elements; shape and strides where one
    of the tensors is not contiguous."""
    if all(map(Tensor.is_contiguous, tensors)):
        return list(map(Tensor.numel, tensors))
    return [(t.shape, t.stride()) for t in tensors]
