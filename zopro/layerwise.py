"""Exact restore at the cost of one layer's memory: the stored weights are never perturbed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .directions import Direction, Plan, Term
from .layers import Layer, Scratch, layers_of
from .watch import Watch, shares_memory

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Frame:
    """A forward that is running: its module, and the stored data of what it runs on copies of."""

    module: nn.Module | None
    held: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    scratch: Scratch | None = None


class LayerwiseWeights:
    """Evaluates each module with a copy of its own parameters, made as its forward begins.

    The copy holds theta + s z, by the very pass that would have written it in place; for the
    forward it takes the place of the stored data, and its memory then serves the next module. So
    the weights are theta to the bit at any time, and only a module's own forward sees others: what
    reads a parameter elsewhere is refused at the first evaluation (Watch). Hooks are on the modules
    while weights are asked to be away, and never else. A parameter that two modules share is
    perturbed in each, by the same z. Those `held` are exchanged for the whole evaluation instead,
    but for the forwards of modules about as large, which run in their memory.
    """

    policy = "layerwise"
    away = False  # stored weights always are theta

    def __init__(
        self,
        next_rounding_seed: Callable[[], int],
        model: nn.Module | None,
        held: Iterable[Tensor] = (),
    ) -> None:
        self._next_rounding_seed = next_rounding_seed
        self._model, self._whole = model, list(held)
        self._layers: dict[nn.Module | None, Layer] = {}
        self._plan: Plan | None = None  # where it leads to, in a forward; None: to theta
        self._integers: Tensor | None = None
        self._floats: Tensor | None = None
        self._hooks: list = []
        self._frames: list[Frame] = []
        self._held: set[int] = set()  # ids of parameters that are copies now
        self._thread: int | None = None
        self._ran: set[nn.Module] = set()
        self._watch: Watch | None = None
        self._watched = False  # whether an evaluation has been, with these layers

    @torch.no_grad()
    def move(self, plan: Plan, direction: Direction, scale: Tensor) -> None:
        """Forwards see theta + scale[t] z[t] from now on; scale fp64 [T]."""
        self._unwind()
        if self._model is None:
            raise RuntimeError(
                "restore='layerwise' evaluates a model's modules one by one: call attach(model) "
                "first, or use 'exact', which copies the trainable weights"
            )
        self._prepare(plan)
        seed = self._next_rounding_seed()
        self._integers, self._floats = plan.scalars([(direction, scale)], None, seed)
        self._plan = plan
        if None in self._layers:
            self._frames.append(Frame(None))
            self._begin(self._frames[0], self._layers[None])
        if not self._hooks:
            for module in filter(None, self._layers):
                self._hooks += [
                    module.register_forward_pre_hook(self._enter, prepend=True),
                    module.register_forward_hook(self._leave, always_call=True),
                ]

    def home(self) -> None:
        """Forwards see theta again."""
        self._unwind()
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._plan = [], None

    @torch.no_grad()
    def update(
        self, plan: Plan, terms: list[Term], decay: Tensor | None, ahead: Plan | None = None
    ) -> None:
        """Stores decay[t] theta[t] + sum of scale[t] z[t]."""
        assert ahead is None, "stored weights are theta"
        self.home()
        seed = self._next_rounding_seed()
        for part in plan.parts:
            plan.write(part, terms, decay, seed)
        plan.mark_written()

    @contextmanager
    def evaluation(self, always: bool = False) -> Iterator[None]:
        """Around forwards: the first evaluation, or with `always` each, refuses what reads
        parameters where they are not perturbed."""
        if self._plan is None or (self._watched and not always):
            yield
            return
        modules = {m: layer for m, layer in self._layers.items() if m is not None}
        names = {f"{x.name}.{n}": p for m, x in modules.items() for n, p in x.owned(m)}
        self._watch = Watch(names)
        try:
            with self._watch:
                yield
        finally:
            self._watch = None
        self._watched = True
        idle = [layer.name for m, layer in modules.items() if m not in self._ran]
        if idle and not always:
            logger.warning(
                "no forward of %r, nor of %d modules more that own trainable parameters, ran in "
                "the closure: they were not perturbed", idle[0], len(idle) - 1,
            )  # fmt: skip

    def _prepare(self, plan: Plan) -> None:
        """The layers of `plan`: those of the last one, unless tensors or targets are others."""
        given = [*plan.tensors, None, *(plan.prev or ()), None, *(plan.v or ())]

        def make() -> dict[nn.Module | None, Layer]:
            return layers_of(self._model, plan, self._whole)

        layers = plan.prepared.of("layers", given, make)
        if not all(layer.fits() for layer in layers.values()):  # moved or cast
            plan.prepared.forget("layers")
            layers = plan.prepared.of("layers", given, make)
        if layers is not self._layers:
            self.home()
            self._layers, self._ran, self._watched = layers, set(), False

    def _unwind(self) -> None:
        """Ends forwards that an interrupt has left without their hooks."""
        while self._frames:
            self._end()

    def _enter(self, module: nn.Module, _: tuple) -> None:
        thread = threading.get_ident()
        if self._frames and self._frames[-1].module is not None and thread != self._thread:
            raise RuntimeError(
                "two threads run the model in one closure with restore='layerwise', whose "
                "perturbed copies serve one: run its forwards one after the other"
            )
        self._thread = thread
        self._frames.append(Frame(module))
        with self._ours():
            self._begin(self._frames[-1], self._layers[module])
        self._ran.add(module)

    def _begin(self, frame: Frame, layer: Layer) -> None:
        if not self._held.isdisjoint(map(id, layer.tensors)):  # inside a forward that holds them
            layer = layer.without(self._held)
            if not layer.rows:
                return
        elif layer.scratch.busy:
            first = self._frames[0]
            if first.module is None and layer.scratch is first.scratch:
                self._put_back(first)  # what is held makes room until the module has run
            else:
                layer = layer.without(set())
        layer.scratch.busy, frame.scratch = True, layer.scratch
        copies = layer.perturbed(self._plan, self._integers, self._floats)
        for p, copy in zip(layer.tensors, copies):
            frame.held.append((p, p.data))
            self._held.add(id(p))
            p.data = copy

    def _leave(self, module: nn.Module, _: tuple, output: Any) -> None:
        if not self._frames or self._frames[-1].module is not module:
            return  # its pre-hook failed
        with self._ours():
            copies = [p.data for p, _ in self._frames[-1].held]
            self._end()
            if self._frames and self._frames[0].module is None and not self._frames[0].held:
                self._begin(self._frames[0], self._layers[None])  # the same bits again
            if self._watch is not None and shares_memory(output, copies):
                raise RuntimeError(
                    f"the forward of {self._layers[module].name!r} returns a view of its "
                    "parameter, which restore='layerwise' cannot keep perturbed: return a copy "
                    "(clone()), or use restore='inplace'"
                )

    def _end(self) -> None:
        self._put_back(self._frames.pop())

    def _put_back(self, frame: Frame) -> None:
        for p, stored in frame.held:
            p.data = stored
            self._held.discard(id(p))
        if frame.scratch is not None:
            frame.scratch.busy = False
        frame.held, frame.scratch = [], None

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """For what hooks do themselves: the watch looks away, and tensors are ordinary ones."""
        if self._watch is not None:
            self._watch.paused = True
        try:
            with torch.inference_mode(False), torch.no_grad():
                yield
        finally:
            if self._watch is not None:
                self._watch.paused = False
