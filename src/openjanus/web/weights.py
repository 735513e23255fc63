"""Weights of the graphs in two files: what is bfloat16 in 16 bits, the rest in 32.

Graphs compute in fp32, and a trained model's numbers are often bfloat16's: written as such they
take half the bytes, and the page widens them again without changing one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from openjanus.web.graphs import Graph

if TYPE_CHECKING:
    from onnx import TensorProto

NARROW, WIDE = "weights.bf16", "weights.f32"
LEAST_BYTES = 1024
"""Of a tensor that does not stay in its graph."""


def write_graphs(folder: Path, graphs: Iterable[Graph]) -> list[str]:
    """Write each graph, its weights apart.

    In the graphs both files hold fp32 numbers: offsets into ``weights.bf16`` are those of the
    widened file. A tensor that several graphs have is there once.

    Args:
        folder: Gets ``NAME.onnx``, ``weights.bf16`` and ``weights.f32``.
        graphs: Their weights in fp32.

    Returns:
        The names of the graphs.
    """
    names: list[str] = []
    with (folder / NARROW).open("wb") as narrow, (folder / WIDE).open("wb") as wide:
        store = _Store(narrow, wide)
        for graph in graphs:
            for tensor in graph.proto.graph.initializer:
                store.put_apart(tensor)
            (folder / f"{graph.name}.onnx").write_bytes(graph.proto.SerializeToString())
            names.append(graph.name)
    return names


class _Store:
    def __init__(self, narrow: BinaryIO, wide: BinaryIO) -> None:
        self._narrow = narrow
        self._wide = wide
        self._places: dict[bytes, tuple[str, int]] = {}

    def put_apart(self, tensor: TensorProto) -> None:
        """Move a large fp32 tensor out of its graph."""
        from onnx import TensorProto, numpy_helper

        if tensor.data_type != TensorProto.FLOAT:
            return
        values = numpy_helper.to_array(tensor)
        if values.nbytes < LEAST_BYTES:
            return
        file, offset = self._place_of(np.ascontiguousarray(values, dtype="<f4"))
        for field in ("raw_data", "float_data", "external_data"):
            tensor.ClearField(field)
        tensor.data_location = TensorProto.EXTERNAL
        told = {"location": file, "offset": offset, "length": values.nbytes}
        for key, value in told.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)

    def _place_of(self, values: np.ndarray) -> tuple[str, int]:
        """The file that holds some numbers, and where in it, counted in bytes of fp32."""
        key = hashlib.sha256(values.tobytes()).digest()
        if key not in self._places:
            bits = values.view("<u4")
            if (bits & 0xFFFF).any():
                self._places[key] = (WIDE, self._wide.tell())
                self._wide.write(values.tobytes())
            else:
                self._places[key] = (NARROW, 2 * self._narrow.tell())
                self._narrow.write((bits >> 16).astype("<u2").tobytes())
        return self._places[key]


def widen(path: Path) -> bytes:
    """What a graph finds under the name of a file of weights: all numbers as fp32."""
    raw = path.read_bytes()
    if path.name != NARROW:
        return raw
    return (np.frombuffer(raw, dtype="<u2").astype("<u4") << 16).tobytes()
