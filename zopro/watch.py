"""Finds whoever reads stored weights while a module's forward is to see perturbed ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import arg_tree_leaves, tree_leaves


class Watch:
    """While entered, operations of torch may not read the memory of `tensors`, and nobody may ask
    where it is (a kernel's launch does); views, shapes and dtypes are free. `paused`: they may.

    Raises RuntimeError, which names the parameter.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.paused = False
        self._spans = [(t.data_ptr(), _end(t), name) for name, t in tensors.items() if t.numel()]
        self._modes = _Operations(self), _Pointers(self)

    def __enter__(self) -> None:
        for mode in self._modes:
            mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def check(self, what: str, leaves: list[Any]) -> None:
        """Refuses a tensor among `leaves` that shares elements with the watched ones."""
        if self.paused:
            return
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.numel() and leaf.device.type != "meta":
                self.paused = True
                begin, end = leaf.data_ptr(), _end(leaf)
                self.paused = False
                for first, last, name in self._spans:
                    if begin < last and first < end:
                        raise RuntimeError(
                            f"parameter {name!r} is read outside its module's forward (by {what}), "
                            "where it is not perturbed: name it in attach(model, held=...), call "
                            "its module, or use restore='inplace'"
                        )


def shares_memory(output: Any, tensors: list[Tensor]) -> bool:
    """Whether a tensor in `output` lies in the storage of one of `tensors`."""
    storages = {t.untyped_storage().data_ptr() for t in tensors}
    return any(
        isinstance(leaf, Tensor) and leaf.numel() and leaf.device.type != "meta"
        and leaf.untyped_storage().data_ptr() in storages
        for leaf in tree_leaves(output)
    )  # fmt: skip


def _end(t: Tensor) -> int:
    reach = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride())) + 1
    return t.data_ptr() + reach * t.element_size()


class _Operations(TorchDispatchMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self._watch.check(func.name(), arg_tree_leaves(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


class _Pointers(TorchFunctionMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.data_ptr:
            self._watch.check("a kernel", list(args))
        return func(*args, **(kwargs or {}))
