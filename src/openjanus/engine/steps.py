"""How the steps of pages are run: which of them together, with which rows, and compiled or not.

A compiled step is one program of ``torch.compile`` for each mode and shape: decoder and head, made
when it is first needed and kept. Its shapes are static, so it runs all rows of a page, reads the
page's whole cache, and no two pages share a batch. Norms and sums are fused, which in fp32 leaves
the last bits others than without; for the same shape they are the same whatever sits beside.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from openjanus.engine.options import EngineOptions
from openjanus.engine.page import (
    MOST_JOINED,
    Plan,
    join_plans,
    predict,
    rows_change_bits,
    run_plans,
)
from openjanus.model.attention import KVCache
from openjanus.model.janus import Face, JanusModel
from openjanus.model.placed import PlacedCache, cells_of

BACKEND = "inductor"
"""What makes programs of graphs."""

Shape = tuple[Face | None, int, torch.Size]
"""A mode, the rows of its batch, and the cache that they stand in."""
Program = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Inputs, cells, keys and values -> what the mode's head predicts."""


class Steps:
    """Runs plans of one model.

    Args:
        model: The pages'.
        options: The engine's.
    """

    def __init__(self, model: JanusModel, options: EngineOptions) -> None:
        self._model = model
        self._look_ahead = options.look_ahead
        self._runs_idle: dict[int, bool] = {}  # by rows of a step; tried before the first
        self._programs: dict[Shape, Program] = {}
        self._proven: set[Shape] = set()
        self.is_compiled = options.compiles(model)
        """Whether steps are compiled; no longer once one could not be."""

    def forget(self) -> None:
        """Forget what was tried of weights that have changed; programs take any."""
        self._runs_idle.clear()

    def runs_idle(self, num_rows: int) -> bool:
        """Whether idle rows are run: where shapes are static, or others could change bits."""
        if self.is_compiled:
            return True
        if num_rows not in self._runs_idle:
            self._runs_idle[num_rows] = rows_change_bits(self._model, num_rows)
        return self._runs_idle[num_rows]

    def prepare(self, cache: KVCache) -> None:
        """Fill a page's new cache where a step reads all of it: a mask multiplies what it hides."""
        if self.is_compiled:
            cache.keys.zero_()
            cache.values.zero_()

    def batches(self, plans: list[Plan]) -> list[list[Plan]]:
        """Plans by the batch that they are run in, in order.

        One batch for all pages: each weight is read once. In plain fp32, where the number of rows
        shows in the last bits, and where steps are compiled, a batch a page.
        """
        if len(plans) > 1 and not self.runs_idle(MOST_JOINED):
            return join_plans(plans)
        return [[plan] for plan in plans]

    def run(self, batch: Sequence[Plan]) -> list[dict[int, list[int]]]:
        """Run a batch; what each plan's ``finish`` gives."""
        if self.is_compiled:
            (plan,) = batch
            predicted = self._run_compiled(plan)
            if predicted is not None:
                return [plan.finish(predicted)]
        return run_plans(self._model, batch)

    def _run_compiled(self, plan: Plan) -> Tensor | None:
        """What a plan's face predicts; None where nothing could be compiled, which is told."""
        cache, num_rows = plan.cache, len(plan.inputs_embeds)
        shape = (plan.face, num_rows, cache.keys.shape)
        is_cuda = cache.keys.device.type == "cuda"
        if shape not in self._programs:
            if self._model.is_packed:
                return self._give_up("packed weights are no part of a graph: leave them unpacked")
            self._programs[shape] = self._program(shape, is_cuda=is_cuda)
        found = cells_of(cache, plan.runs, num_rows)
        cells = torch.tensor(found, device=cache.keys.device)
        if is_cuda:  # a graph reads and writes a cache where it lies, and its last output is lost
            torch.compiler.cudagraph_mark_step_begin()
            for tensor in (cache.keys, cache.values):
                torch._dynamo.mark_static_address(tensor, guard=False)
        try:
            predicted = self._programs[shape](plan.inputs_embeds, cells, cache.keys, cache.values)
        except Exception as error:
            # A program's first run is a trial, whatever a compiler or a driver raises: the same
            # step is run without it, in the same cells. One that has run fails like any other.
            if shape in self._proven and not _is_of_compiler(error):
                raise
            return self._give_up(" ".join(str(error).split("\n")[:2]).strip())
        self._proven.add(shape)
        return predicted

    def _give_up(self, why: str) -> None:
        self.is_compiled = False
        self._programs.clear()
        warnings.warn(
            f"steps run without torch.compile, which is slower where it works: {why}; "
            "--no-compile (EngineOptions.compile) asks for it no more",
            stacklevel=2,
        )

    def _program(self, shape: Shape, *, is_cuda: bool) -> Program:
        """A step that is compiled when it is first called."""
        model, face = self._model, shape[0]
        decoder = model.language_model.model
        width = self._look_ahead if face == "image" else 1

        def step(inputs_embeds: Tensor, cells: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            cache = PlacedCache.of(keys, values, cells, width)
            hidden = decoder(inputs_embeds, positions=cells[2][:, None], cache=cache, runs=())
            return predict(model, face, hidden[:, 0])

        # What is compiled is kept by its code, few shapes of each: every shape has code of its own.
        name = f"{face}_step_of_{shape[1]}_rows_in_{shape[2][3]}"
        code = step.__code__.replace(co_name=name)
        own = types.FunctionType(code, step.__globals__, name, None, step.__closure__)
        mode = "reduce-overhead" if is_cuda else None  # CUDA graphs
        return torch.compile(own, fullgraph=True, dynamic=False, backend=BACKEND, mode=mode)


def _is_of_compiler(error: Exception) -> bool:
    """Whether ``torch.compile`` raised it of its own; what a step raises comes from elsewhere."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
