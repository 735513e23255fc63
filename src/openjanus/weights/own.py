"""Our own folder: ``config.json``, ``tokenizer.json``, ``model.safetensors``.

The tensors carry the names of the authors' checkpoints; ours differ by a few prefixes, which
``PREFIXES`` lists, so the table is the whole conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openjanus.config_file import load_config, save_config
from openjanus.model.janus import JanusModel, build_model
from openjanus.processor.text import TextTokenizer

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILE = "model.safetensors"

PREFIXES: tuple[tuple[str, str], ...] = (
    ("und_encoder.", "vision_model.vision_tower."),
    ("und_aligner.", "aligner."),
    ("vq.", "gen_vision_model."),
    ("gen_embed.", "gen_embed."),
    ("gen_aligner.", "gen_aligner."),
    ("gen_head.", "gen_head."),
    ("language_model.", "language_model."),
    ("extra_encoders.", "extra_encoders."),
    ("extra_aligners.", "extra_aligners."),
)
"""(our prefix, the checkpoint's prefix); no prefix of a side starts another of that side."""

_TIED_KEY = "language_model.lm_head.weight"
_SHOWN = 3


def to_checkpoint_key(key: str) -> str:
    """A parameter's name in ``JanusModel`` -> its name in a checkpoint.

    Raises:
        KeyError: No prefix of ours fits.
    """
    return _rename(key, PREFIXES, "JanusModel")


def from_checkpoint_key(key: str) -> str:
    """A name in a checkpoint -> the parameter's name in ``JanusModel``.

    Raises:
        KeyError: No prefix of the checkpoint's fits.
    """
    return _rename(key, tuple((theirs, ours) for ours, theirs in PREFIXES), "a Janus checkpoint")


def _rename(key: str, table: Iterable[tuple[str, str]], owner: str) -> str:
    for old, new in table:
        if key.startswith(old):
            return new + key.removeprefix(old)
    known = ", ".join(old for old, _ in table)
    raise KeyError(f"{key!r} is no name of {owner}: known prefixes are {known}")


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
    state = {to_checkpoint_key(key): tensor for key, tensor in _own_state(model).items()}
    if any(tensor.is_meta for tensor in state.values()):
        raise ValueError("the model has no weights (device meta): load or init_weights first")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    _replace(folder / WEIGHTS_FILE, lambda path: save_tensors(tensors, path))
    _replace(folder / TOKENIZER_FILE, tokenizer.save)
    _replace(folder / CONFIG_FILE, lambda path: save_config(model.config, path))


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file that whoever may read other new files there may read.

    The library makes it readable by its owner alone; then it would be of no use to others, in a
    shared folder as in an installed package.
    """
    path.touch()  # with the mode of any new file
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(mode)


def _own_state(model: JanusModel) -> dict[str, Tensor]:
    """Parameters and buffers by our names, each tensor once: a tied head is not listed."""
    state = model.state_dict()
    if model.config.language.tie_word_embeddings:
        del state[_TIED_KEY]
    return state


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)


def load_model(
    folder: Path | str, *, device: torch.device | str, dtype: torch.dtype | None
) -> tuple[JanusModel, TextTokenizer]:
    """Read a folder that ``save_model`` wrote.

    The model is built without memory and takes the tensors one by one, so that no more than one
    is held twice.

    Args:
        folder: With ``config.json``, ``tokenizer.json`` and ``model.safetensors``.
        device: Where the weights go.
        dtype: Of the weights; None keeps each tensor's own.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: A file is broken, or its tensors are not those that the config describes.
        KeyError: The tokenizer lacks a special token.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: check the path")
    config = load_config(folder / CONFIG_FILE)
    tokenizer = TextTokenizer.from_file(folder / TOKENIZER_FILE, config.processor)
    model = build_model(config, device="meta")
    state = _read_tensors(folder / WEIGHTS_FILE, _own_state(model), device, dtype)
    if config.language.tie_word_embeddings:
        state[_TIED_KEY] = state["language_model.model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    if config.language.tie_word_embeddings:
        language_model = model.language_model
        language_model.lm_head.weight = language_model.model.embed_tokens.weight
    return model.eval(), tokenizer


def _read_tensors(
    path: Path,
    expected: Mapping[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """The tensors of a file by our names, after its names and shapes have proved right."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give a folder that openjanus wrote")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            _check_shapes(
                path, {to_checkpoint_key(k): tuple(t.shape) for k, t in expected.items()}, shapes
            )
            return {from_checkpoint_key(key): _cast(file.get_tensor(key), dtype) for key in shapes}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}): fetch it again") from error


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _check_shapes(
    path: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Names and shapes must agree exactly; one message says all that does not."""
    faults = {
        "missing": [f"{key} {expected[key]}" for key in expected if key not in found],
        "unexpected": [f"{key} {found[key]}" for key in found if key not in expected],
        "of another shape": [
            f"{key} is {found[key]}, expected {expected[key]}"
            for key in expected
            if key in found and found[key] != expected[key]
        ],
    }
    parts = [
        f"{len(names)} {fault} ({'; '.join(names[:_SHOWN])}{' ...' if names[_SHOWN:] else ''})"
        for fault, names in faults.items()
        if names
    ]
    if parts:
        raise ValueError(
            f"{path} does not hold the model that its {CONFIG_FILE} describes: "
            f"{', '.join(parts)}: put the files of one model together"
        )
