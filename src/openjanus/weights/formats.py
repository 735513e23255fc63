"""Any checkpoint in, any layout out: which layout a folder has, strict loading, export."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from openjanus.config import JanusConfig
from openjanus.model.janus import JanusModel, build_model
from openjanus.model.quantized import quantized_modules
from openjanus.processor.text import TextTokenizer
from openjanus.quantization import QuantizationConfig
from openjanus.rules import near, require
from openjanus.weights import deepseek, own, published, transformers
from openjanus.weights.card import Origin, write_card
from openjanus.weights.keys import KeyTable, check_names
from openjanus.weights.shards import (
    MAX_SHARD_BYTES,
    Assembly,
    StoredTensors,
    open_tensors,
    save_shards,
)


@dataclass(frozen=True, slots=True)
class Format:
    """A layout of folders."""

    name: str
    table: KeyTable
    read: Callable[[Path], tuple[JanusConfig, TextTokenizer]]
    """Configuration and tokenizer, from the folder's own files."""
    check: Callable[[JanusConfig], None]
    """Raises ``ValueError`` for a model that it cannot hold."""
    write: Callable[[Path, JanusConfig, TextTokenizer, torch.dtype], None]
    """All files but the weights."""


FORMATS: Mapping[str, Format] = {
    "openjanus": Format("openjanus", own.TABLE, own.read, own.check, own.write),
    "deepseek": Format("deepseek", deepseek.TABLE, deepseek.read, deepseek.check, deepseek.write),
    "transformers": Format(
        "transformers",
        transformers.TABLE,
        transformers.read,
        transformers.check,
        transformers.write,
    ),
}

NORM_TOLERANCE = 0.01
"""How far a codebook row's norm may be from 1: bfloat16 rounds by less."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What weights may be stored in: the others need scales that are not here."""

_MODEL_TYPES = {deepseek.MODEL_TYPE: "deepseek", transformers.MODEL_TYPE: "transformers"}


def format_by_name(name: str) -> Format:
    """A layout by its name.

    Raises:
        ValueError: Unknown name; the message names near matches.
    """
    require(name in FORMATS, f"unknown format {name!r}; {near(name, list(FORMATS))}")
    return FORMATS[name]


def detect_format(folder: Path) -> Format:
    """The layout of a folder, told by its ``config.json``.

    Raises:
        FileNotFoundError: No folder, or no ``config.json`` in it.
        ValueError: Another model's.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: check the path")
    path = folder / published.CONFIG_FILE
    data = published.read_json(path)
    if "format_version" in data:
        return FORMATS["openjanus"]
    kind = str(data.get("model_type"))
    require(
        kind in _MODEL_TYPES,
        f"{path} is of model_type {kind!r}: a Janus has {' or '.join(map(repr, _MODEL_TYPES))}, or "
        "the format_version of our own files",
    )
    return FORMATS[_MODEL_TYPES[kind]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder, understood, its weights not yet read."""

    folder: Path
    format: Format
    config: JanusConfig
    tokenizer: TextTokenizer

    def load(
        self,
        *,
        device: torch.device | str,
        dtype: torch.dtype | None,
        quantize: QuantizationConfig | None = None,
    ) -> JanusModel:
        """Read the weights, tensor by tensor, straight to where they go.

        Args:
            device: Where the weights go.
            dtype: Of the weights; None keeps each tensor's own.
            quantize: How linear layers are quantized, each as it is read; None leaves them as they
                are stored.

        Raises:
            FileNotFoundError: No weights, or a shard is missing.
            ValueError: A file is broken, or its tensors are not those that the config describes;
                or they are quantized in another way.
        """
        stored = open_tensors(self.folder)
        as_stored = model = build_model(self.config, device="meta")
        if quantize is not None and not self._is_quantized_as(quantize):
            model = build_model(replace(self.config, quantization=quantize), device="meta")
        state = _read_state(as_stored, model, stored, self.format.table, device, dtype)
        model.load_state_dict(state, strict=True, assign=True)
        if self.config.language.tie_word_embeddings:
            language_model = model.language_model
            language_model.lm_head.weight = language_model.model.embed_tokens.weight
        return model.eval()

    def _is_quantized_as(self, quantize: QuantizationConfig) -> bool:
        """Whether the weights are stored so; False where they are plain."""
        found = self.config.quantization
        require(
            found is None or found == quantize,
            f"{self.folder} holds {found}, and quantize asks for {quantize}: leave "
            "quantize out, or give the model that it was made from",
        )
        return found is not None

    def read(self, put: Callable[[str, Tensor], None]) -> None:
        """Hand over the weights one by one: for a model of which there is a part here.

        Args:
            put: Gets each of our names with its whole tensor, in the dtype that it is stored in
                and mapped where that can be: what is not copied of it is not read.

        Raises:
            FileNotFoundError: No weights, or a shard is missing.
            ValueError: A file is broken, or its tensors are not those that the config describes.
        """
        stored, table = open_tensors(self.folder), self.format.table
        wanted = own.own_state(build_model(self.config, device="meta"))
        expected, copies = _expected(self.config, wanted, stored, table)
        assembly = Assembly(put)
        tables: list[Tensor] = []

        def take(name: str, tensor: Tensor) -> None:
            key, part = table.key(name)
            _require_known(stored, name, tensor, wanted.get(key))
            if copies and (name in copies or key == own.EMBEDDING_KEY):
                tables.append(tensor)
            if name not in copies:
                count = len(table.names(key))
                assembly.take(key, tuple(wanted[key].shape), tensor, part=part, count=count)

        stored.read(expected, take)
        if tables:
            _require_tied(stored, *tables)


def open_checkpoint(folder: Path | str) -> Checkpoint:
    """Understand a folder in any layout.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: A file is broken, or of another model.
        KeyError: The tokenizer lacks a special token.
    """
    folder = Path(folder)
    layout = detect_format(folder)
    config, tokenizer = layout.read(folder)
    return Checkpoint(folder, layout, config, tokenizer)


def load_model(
    folder: Path | str, *, device: torch.device | str, dtype: torch.dtype | None
) -> tuple[JanusModel, TextTokenizer]:
    """``open_checkpoint`` and ``Checkpoint.load``: the model and its tokenizer."""
    checkpoint = open_checkpoint(folder)
    return checkpoint.load(device=device, dtype=dtype), checkpoint.tokenizer


def _read_state(
    as_stored: JanusModel,
    model: JanusModel,
    stored: StoredTensors,
    table: KeyTable,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """A model's tensors, after all names and shapes have proved right.

    Args:
        as_stored: What the folder describes, on the meta device.
        model: The same, or with layers that are quantized as they are read.
        stored: The files.
        table: Their names.
        device: Where tensors go.
        dtype: Of those that are no codes; None keeps each one's own.

    Nothing of a quantized model stays mapped: a tensor that is kept so would keep the pages of
    those beside it that were quantized, and torch's kernels cannot read codes where they lie.
    """
    wanted = own.own_state(as_stored)
    expected, copies = _expected(as_stored.config, wanted, stored, table)
    layers = {} if model is as_stored else quantized_modules(model)
    state: dict[str, Tensor] = {}

    def take(name: str, tensor: Tensor) -> None:
        key, part = table.key(name)
        _require_known(stored, name, tensor, wanted.get(key))
        shape = wanted[own.EMBEDDING_KEY if name in copies else key].shape
        parts = len(table.names(key))
        layer = layers.get(key.removesuffix(".weight"))
        if layer is not None:
            assert parts == 1
            for own_name, values in layer.quantized(tensor.view(shape)).items():
                kind = values.dtype if dtype is None or _is_code(values) else dtype
                state[f"{key.removesuffix('weight')}{own_name}"] = values.to(device, kind)
            return
        kind = tensor.dtype if dtype is None or _is_code(tensor) else dtype
        is_as_stored = parts == 1 and kind == tensor.dtype and torch.device(device).type == "cpu"
        if is_as_stored and model.config.quantization is None:
            state[key] = tensor.view(shape)  # as it lies in the file: nothing is copied
            return
        if key not in state:
            state[key] = torch.empty(shape, dtype=kind, device=device)
        state[key].view(parts, *tensor.shape)[part].copy_(tensor)

    stored.read(expected, take)
    if model.config.language.tie_word_embeddings:
        head = state.setdefault(own.TIED_KEY, state[own.EMBEDDING_KEY])
        _require_tied(stored, head, state[own.EMBEDDING_KEY])
    return state


def _expected(
    config: JanusConfig, wanted: Mapping[str, Tensor], stored: StoredTensors, table: KeyTable
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The stored names and shapes of a model, all proved right, and which of them are copies."""
    expected = {
        name: table.stored_shape(key, tuple(tensor.shape))
        for key, tensor in wanted.items()
        for name in table.names(key)
    }
    tied = config.language.tie_word_embeddings
    # A tied head is often stored as well: a copy, which is read to see that it is one.
    copies = [n for n in table.names(own.TIED_KEY) if tied and n in stored.shapes]
    expected |= {name: tuple(wanted[own.EMBEDDING_KEY].shape) for name in copies}
    kept = {n: shape for n, shape in stored.shapes.items() if not table.is_dropped(n)}
    check_names(stored.source, expected, kept)
    return expected, copies


def _is_code(tensor: Tensor) -> bool:
    """Whether a tensor holds codes, those of fp8 among them: they stay in their own dtype."""
    return not tensor.is_floating_point() or tensor.element_size() == 1


def _require_known(stored: StoredTensors, name: str, tensor: Tensor, wanted: Tensor | None) -> None:
    """Codes are of one dtype, all else of any that weights may have."""
    is_code = wanted is not None and _is_code(wanted)
    allowed = (wanted.dtype,) if wanted is not None and is_code else DTYPES
    require(
        tensor.dtype in allowed,
        f"{stored.source}: {name} is {tensor.dtype}: {'codes' if is_code else 'weights'} are of "
        f"{', '.join(map(str, allowed))}",
    )


def _require_tied(stored: StoredTensors, head: Tensor, embedding: Tensor) -> None:
    require(
        torch.equal(head, embedding.to(head.dtype)),
        f"{stored.source}: the config says tie_word_embeddings, and lm_head differs from the "
        "embedding: set it to false in the config, or put the files of one model together",
    )


def export_model(
    folder: Path | str,
    model: JanusModel,
    tokenizer: TextTokenizer,
    *,
    layout: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    origin: Origin | None = None,
    any_size: bool = False,
) -> None:
    """Write a whole folder in a layout: weights, configurations, tokenizer, processor, card.

    Args:
        folder: New or empty; it is there when everything in it is.
        model: With weights.
        tokenizer: Its own.
        layout: A name of ``FORMATS``.
        max_shard_bytes: Of a weights file.
        origin: What the card says of the weights.
        any_size: Whether ``deepseek`` may hold sizes that the authors' code has not, for other
            engines to be tested with.

    Raises:
        ValueError: The layout cannot hold the model, or the folder holds something.
    """
    form = format_by_name(layout)
    if any_size and layout == "deepseek":
        deepseek.check(model.config, any_size=True)
    else:
        form.check(model.config)
    state = own.own_state(model)
    own.require_weights(state)
    if layout == "transformers":
        _warn_of_codebook(model)
    with new_folder(Path(folder)) as partial:
        form.write(partial, model.config, tokenizer, main_dtype(model))
        tensors = dict(to_stored(state, form.table))
        save_shards(tensors, partial, max_shard_bytes=max_shard_bytes)
        write_card(partial, model.config, layout=layout, origin=origin or Origin())


def _warn_of_codebook(model: JanusModel) -> None:
    """The port normalises a codebook when it decodes and not when it encodes."""
    rows = model.state_dict()["vq.quantize.embedding.weight"].float().norm(dim=-1)
    off = int(((rows - 1).abs() > NORM_TOLERANCE).sum())
    if off:
        warnings.warn(
            f"{off} of {len(rows)} codebook rows have not norm 1: pictures that transformers "
            "encodes get other ids than the authors' and ours; drawing and reading are the same",
            stacklevel=3,
        )


def to_stored(state: Mapping[str, Tensor], table: KeyTable) -> Iterator[tuple[str, Tensor]]:
    """Our tensors under a checkpoint's names and in its parts."""
    for key, tensor in state.items():
        names = table.names(key)
        shape = table.stored_shape(key, tuple(tensor.shape))
        for name, part in zip(names, tensor.detach().chunk(len(names)), strict=True):
            yield name, part.reshape(shape)


def main_dtype(model: JanusModel) -> torch.dtype:
    """The dtype that a configuration names: the decoder's."""
    return model.language_model.model.embed_tokens.weight.dtype


def require_new(folder: Path) -> None:
    """Raise ``ValueError`` unless a folder is new or empty."""
    require(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"{folder} is not empty: give a new folder, so that no model is mixed up",
    )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that is filled when all of it is there; until then it is another one beside it.

    Raises:
        ValueError: There is something in it already.
    """
    folder = folder.resolve()
    require_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as outer:
        partial = Path(outer) / folder.name
        partial.mkdir()  # with the mode of any new folder
        yield partial
        if not folder.exists():
            partial.rename(folder)
            return
        for path in sorted(partial.iterdir()):  # an empty one may be a mount, which cannot go
            shutil.move(path, folder / path.name)
