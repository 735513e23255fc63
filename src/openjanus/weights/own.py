"""Our own folder: ``config.json``, ``tokenizer.json``, ``model.safetensors``.

The tensors carry the names of the authors' checkpoints; ours differ by a few prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from openjanus.config import JanusConfig
from openjanus.config_file import load_config, save_config
from openjanus.model.janus import JanusModel
from openjanus.processor.text import TextTokenizer
from openjanus.rules import require
from openjanus.weights import deepseek
from openjanus.weights.keys import KeyTable
from openjanus.weights.shards import SAFETENSORS_FILE, save_tensors

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"

TABLE = KeyTable(
    owner="a Janus checkpoint",
    rules=(
        *deepseek.TABLE.rules,
        ("extra_encoders.", "extra_encoders."),
        ("extra_aligners.", "extra_aligners."),
    ),
)

EMBEDDING_KEY = "language_model.model.embed_tokens.weight"
TIED_KEY = "language_model.lm_head.weight"


def read(folder: Path) -> tuple[JanusConfig, TextTokenizer]:
    """A folder's configuration and tokenizer.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is broken.
        KeyError: The tokenizer lacks a special token.
    """
    config = load_config(folder / CONFIG_FILE)
    return config, TextTokenizer.from_file(folder / TOKENIZER_FILE, config.processor)


def check(config: JanusConfig) -> None:
    """Our own layout holds every model."""


def write(folder: Path, config: JanusConfig, tokenizer: TextTokenizer, dtype: torch.dtype) -> None:
    """All files but the weights, into a folder that is there; the dtype is the tensors' own."""
    tokenizer.save(folder / TOKENIZER_FILE)
    save_config(config, folder / CONFIG_FILE)


def save_model(folder: Path | str, model: JanusModel, tokenizer: TextTokenizer) -> None:
    """Write a model's folder; files of the same names are replaced, each at once.

    Args:
        folder: Made if need be.
        model: With real weights.
        tokenizer: Its text tokenizer.

    Raises:
        ValueError: The model is on the meta device.
    """
    folder = Path(folder)
    state = own_state(model)
    require_weights(state)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        TABLE.names(key)[0]: tensor.detach().cpu().contiguous() for key, tensor in state.items()
    }
    _replace(folder / SAFETENSORS_FILE, lambda path: save_tensors(tensors, path))
    _replace(folder / TOKENIZER_FILE, tokenizer.save)
    _replace(folder / CONFIG_FILE, lambda path: save_config(model.config, path))


def own_state(model: JanusModel) -> dict[str, Tensor]:
    """Parameters and buffers by our names, each tensor once: a tied head is not listed."""
    state = model.state_dict()
    if model.config.language.tie_word_embeddings:
        del state[TIED_KEY]
    return state


def require_weights(state: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` for a model that is shapes alone."""
    require(
        not any(tensor.is_meta for tensor in state.values()),
        "the model has no weights (device meta): load or init_weights first",
    )


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)
