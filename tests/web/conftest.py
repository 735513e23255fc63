"""Graphs, run as a page runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from openjanus.web.weights import NARROW, WIDE, widen

RunGraph = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="session")
def tab(tab_folder: Path) -> RunGraph:
    """``tab("decoder", embeds, past)``: the outputs of a graph."""
    runtime = pytest.importorskip("onnxruntime")
    files = [NARROW, WIDE]
    weights = [widen(tab_folder / name) for name in files]
    sessions = {}

    def run(name: str, *inputs: Tensor) -> list[np.ndarray]:
        if name not in sessions:
            options = runtime.SessionOptions()
            options.intra_op_num_threads = 1
            options.add_external_initializers_from_files_in_memory(
                files, weights, [len(one) for one in weights]
            )
            graph = (tab_folder / f"{name}.onnx").read_bytes()
            sessions[name] = runtime.InferenceSession(graph, options)
        session = sessions[name]
        fed = [one.name for one in session.get_inputs()]
        return session.run(None, {key: x.numpy() for key, x in zip(fed, inputs, strict=True)})

    return run
