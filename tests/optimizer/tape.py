"""A CUDA graph on the CPU: one step's operations and kernel calls, done again on their tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zopro_kernels import cpu


class Tape(TorchDispatchMode):
    """Inside, every operation is recorded with its very tensors; `replay` does them all again.

    What an operation returned is written over, as a graph writes to the memory it was captured
    with: a value of the host that went into the step stays what it was. Views are not made again,
    they look at memory that others write. Copies from the host refuse, as in a capture.
    """

    def __init__(self, monkeypatch: Any) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self._recording = False
        for name in ("add_noise_", "noise_dots"):
            monkeypatch.setattr(cpu, name, self._kernel(getattr(cpu, name)))

    def __enter__(self):
        self._recording = True
        return super().__enter__()

    def __exit__(self, *error):
        self._recording = False
        return super().__exit__(*error)

    def _kernel(self, kernel):
        def launch(work):
            if not self._recording:
                return kernel(work)
            with torch._C._DisableTorchDispatch():
                out = kernel(work)
            self.calls.append((kernel, (work,), {}, [] if out is None else [out]))
            return out

        return launch

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert function.overloadpacket is not torch.ops.aten._local_scalar_dense, "the host reads"
        out = function(*args, **kwargs)
        given = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        results = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        fresh = [x for x in results if _memory(x) not in given]
        if fresh or function._schema.is_mutable:
            self.calls.append((function, args, kwargs, fresh))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """The step once more."""
        for function, args, kwargs, fresh in self.calls:
            out = tree_leaves(function(*args, **kwargs))
            for old, new in zip(fresh, [x for x in out if isinstance(x, torch.Tensor)]):
                old.detach().copy_(new)


def _memory(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()
