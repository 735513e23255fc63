"""The parts of a Janus as ONNX graphs, one for each of the model's own methods.

The decoder is one graph with its keys and values as input and output, so that its weights are
there once: either face embeds what goes in, and has its own head for what comes out.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import JanusConfig
from openjanus.model.attention import KVCache, Run
from openjanus.model.doors import RowTokenizer
from openjanus.model.janus import JanusModel
from openjanus.model.quantized import count_weights
from openjanus.rules import require

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
MOST_WEIGHTS = 400_000_000
"""A tab holds them as fp32 within the 4 GB that its memory can have."""


@dataclass(slots=True)
class FlowingCache(KVCache):
    """Keys and values of the tokens before, which are read and not written to.

    Instead ``attend`` tells of the new ones, so that a graph can give them out.
    """

    seen: Tensor
    """(T, P + T) bool: whom each new token sees."""
    tell: Callable[[Tensor, Tensor], None]
    """Gets the new keys and values (B, Hkv, T, K) of each layer in turn."""

    def attend(self, layer: int, runs: Sequence[Run], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend to the tokens before and to the new ones; ``runs`` are not read.

        Args:
            layer: Which layer.
            runs: None is needed: all rows hold equally many tokens.
            q: (B, H, T, K).
            k: (B, Hkv, T, K).
            v: (B, Hkv, T, K).

        Returns:
            (B, H, T, K).
        """
        self.tell(k, v)
        groups = q.shape[1] // k.shape[1]
        keys = torch.cat([self.keys[layer], k], dim=2)  # (B, Hkv, P + T, K)
        values = torch.cat([self.values[layer], v], dim=2)
        return F.scaled_dot_product_attention(
            q,
            keys.repeat_interleave(groups, dim=1),
            values.repeat_interleave(groups, dim=1),
            attn_mask=self.seen,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One method of a model, by what goes in and what comes out."""

    inputs: Mapping[str, tuple[Tensor, Mapping[int, str]]]
    """By name an example, and the axes of any length; axes of one name in a part are as long."""
    outputs: tuple[str, ...]
    run: Callable[..., Tensor | tuple[Tensor, ...]]


class _Parts(nn.Module):
    """All parts side by side: what the exporter does once for each call takes longest."""

    def __init__(self, model: JanusModel, parts: Sequence[_Part]) -> None:
        super().__init__()
        self.model = model
        self._parts = parts

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The inputs of all parts in a row -> their outputs in a row."""
        rest, found = list(inputs), []
        for part in self._parts:
            own, rest = rest[: len(part.inputs)], rest[len(part.inputs) :]
            outputs = part.run(*own)
            found += [outputs] if isinstance(outputs, Tensor) else outputs
        return tuple(found)


def decode_step(model: JanusModel, inputs_embeds: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """Run new tokens behind those before, as a function without a state.

    Args:
        model: The model.
        inputs_embeds: (B, T, D).
        past: (P, layers, 2, B, Hkv, K), keys and values of the tokens before: a token's lie
            together, so that the next ones are put behind them.

    Returns:
        The last hidden state (B, D), and (T, layers, 2, B, Hkv, K) of the new tokens.
    """
    num_rows, num_new = inputs_embeds.shape[:2]
    num_before = past.shape[0]
    new_places = torch.arange(num_new, device=past.device) + num_before
    places = torch.arange(num_before + num_new, device=past.device)
    held = past.permute(1, 2, 3, 4, 0, 5)  # (layers, 2, B, Hkv, P, K)
    new: list[Tensor] = []
    cache = FlowingCache(
        keys=held[:, 0],
        values=held[:, 1],
        seen=places <= new_places[:, None],
        tell=lambda k, v: new.append(torch.stack([k, v])),
    )
    hidden_states = model.language_model.model(
        inputs_embeds,
        positions=new_places.expand(num_rows, num_new),
        cache=cache,
        runs=(),
    )
    told = torch.stack(new).permute(4, 0, 1, 2, 3, 5)  # (T, layers, 2, B, Hkv, K)
    return hidden_states[:, -1], told.contiguous()


@dataclass(frozen=True, slots=True)
class Graph:
    """A part of a Janus."""

    name: str
    proto: ModelProto


def check_exportable(config: JanusConfig) -> None:
    """Raise ``ValueError`` for a model that a tab cannot run.

    Args:
        config: Of the model.
    """
    require(
        config.quantization is None,
        f"the model is quantized, in {config.quantization}, which ONNX Runtime Web does not read: "
        "export the model that it was made from",
    )
    require(
        config.gen_tokenizer.type == "vq",
        f"gen_tokenizer is of type {config.gen_tokenizer.type!r}: the page draws with type 'vq', "
        "whose ids are embedded one by one",
    )


def require_exporter() -> None:
    """Raise ``ImportError`` where what torch exports with is missing."""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            "graphs are made with onnx and onnxscript: pip install 'openjanus[web]'"
        ) from error


def make_graphs(model: JanusModel) -> list[Graph]:
    """Make the graphs of a model: each a method of it, or ``decode_step``.

    Args:
        model: In fp32 on the CPU, not packed.

    Returns:
        ``embed_text``, ``embed_gen``, ``embed_und``, ``decoder``, ``text_logits``, ``image_logits``
        and ``decode_rows``. The decoder takes any number of rows and tokens.

    Raises:
        ValueError: The model is of a kind or size that a tab cannot run.
        ImportError: The extra ``web`` is missing.
    """
    check_exportable(model.config)
    size = count_weights(model)
    require(
        size <= MOST_WEIGHTS,
        f"the model has {size:,} weights, a tab holds at most {MOST_WEIGHTS:,}: "
        "serve it with `openjanus serve`",
    )
    table = model.language_model.model.embed_tokens.weight
    require(
        table.dtype == torch.float32 and table.device.type == "cpu",
        f"graphs are made of fp32 weights on the CPU, these are {table.dtype} on {table.device}: "
        "load the model with dtype='float32' and device='cpu'",
    )
    require(not model.is_packed, "packed weights cannot be exported: load the model again")
    require_exporter()
    from onnx.utils import Extractor

    parts = _parts(model)
    extractor = Extractor(_export(model, parts))
    graphs = []
    for name, part in parts.items():
        inputs = [f"{name}.{one}" for one in part.inputs]
        outputs = [f"{name}.{one}" for one in part.outputs]
        graphs.append(Graph(name, _cleaned(extractor.extract_model(inputs, outputs))))
    return graphs


def _parts(model: JanusModel) -> dict[str, _Part]:
    """Examples have no axis of length 1 that may be longer: it would be taken for fixed."""
    if not isinstance(model.vq, RowTokenizer):
        raise ValueError(f"{type(model.vq).__name__} needs decode_rows for the page to draw with")
    config, language = model.config, model.config.language
    side = round(config.num_gen_image_tokens**0.5)
    size = config.und_image_size
    before = (4, language.num_hidden_layers, 2, 2, language.num_key_value_heads, language.head_size)
    numbers = {"device": "cpu", "dtype": torch.float32}
    ids = torch.zeros(2, 3, device="cpu", dtype=torch.int64)
    any_ids = {0: "rows", 1: "tokens"}
    hidden = {"hidden_states": (torch.zeros(2, language.hidden_size, **numbers), {0: "rows"})}
    embeds = torch.zeros(2, 3, language.hidden_size, **numbers)
    past = torch.zeros(before, **numbers)
    rows = torch.zeros(1, 3, side, device="cpu", dtype=torch.int64)
    return {
        "embed_text": _Part(
            inputs={"input_ids": (ids, any_ids)}, outputs=("embeds",), run=model.embed_text
        ),
        "embed_gen": _Part(
            inputs={"image_ids": (ids, any_ids)}, outputs=("embeds",), run=model.embed_gen
        ),
        "embed_und": _Part(
            inputs={"pixel_values": (torch.zeros(1, 3, size, size, **numbers), {})},
            outputs=("embeds",),
            run=model.embed_und,
        ),
        "decoder": _Part(
            inputs={
                "inputs_embeds": (embeds, any_ids),
                "past": (past, {0: "before", 3: "rows"}),
            },
            outputs=("hidden_states", "new"),
            run=partial(decode_step, model),
        ),
        "text_logits": _Part(inputs=hidden, outputs=("logits",), run=model.text_logits),
        "image_logits": _Part(inputs=hidden, outputs=("logits",), run=model.image_logits),
        "decode_rows": _Part(
            inputs={"image_ids": (rows, {1: "height"})},
            outputs=("pixel_values",),
            run=model.vq.decode_rows,
        ),
    }


def _export(model: JanusModel, parts: Mapping[str, _Part]) -> ModelProto:
    """All parts as one graph; what goes in and out is called PART.NAME."""
    places = [
        (f"{name}.{one}", *place)
        for name, part in parts.items()
        for one, place in part.inputs.items()
    ]
    any_length = torch.export.Dim.DYNAMIC
    with _quietly(), torch.inference_mode():
        program = torch.onnx.export(
            _Parts(model, list(parts.values())).eval(),
            # Each a tensor of its own: one that is given twice would be one input.
            tuple(example.clone() for _, example, _ in places),
            input_names=[name for name, _, _ in places],
            output_names=[f"{name}.{one}" for name, part in parts.items() for one in part.outputs],
            dynamic_shapes=(tuple(dict.fromkeys(axes, any_length) for _, _, axes in places),),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks on itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _cleaned(proto: ModelProto) -> ModelProto:
    """Without what tells where in a program each node was made, which is longer than the rest."""
    for holder in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    return proto
