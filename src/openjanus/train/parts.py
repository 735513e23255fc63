"""One door's weights on disk: what its own training hands to the stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from openjanus.config import DecoderConfig, DoorConfig
from openjanus.config_file import door_to_dict, parse_door
from openjanus.model.doors import TokenizerEntrance
from openjanus.model.janus import JanusModel
from openjanus.model.vq import VectorQuantizer
from openjanus.train.checkpoint import checkpoint_steps, load_checkpoint, newest_checkpoint
from openjanus.weights.donors import open_donor, require_same_sizes
from openjanus.weights.published import CONFIG_FILE
from openjanus.weights.shards import save_tensors

FORMAT_VERSION = 1
WEIGHTS = "door.safetensors"
RECORD = "door.json"


def save_door(folder: Path, module: nn.Module, config: DoorConfig) -> None:
    """Write a door's weights (``door.safetensors``) and its configuration (``door.json``)."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    save_tensors(state, folder / WEIGHTS)
    record = {"format_version": FORMAT_VERSION, "config": door_to_dict(config)}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load_door(path: Path, module: nn.Module, config: DoorConfig) -> None:
    """Fill a module from what ``save_door`` wrote, a checkpoint of its run, or another's files.

    Args:
        path: A folder with ``door.safetensors``; or a complete run's folder; or a checkpoint; or
            what ``weights.donors`` reads: a whole Janus, a SigLIP, LlamaGen's file.
        module: The door, as the model has it.
        config: Its configuration.

    Raises:
        FileNotFoundError: Nothing of the kind lies there.
        ValueError: The run is not complete; or the weights are of another configuration, or by a
            newer openjanus.
    """
    own = module.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    with torch.no_grad():
        read_door(path, config, shapes, lambda name, whole: own[name].copy_(whole))


def read_door(
    path: Path,
    config: DoorConfig,
    own_shapes: Mapping[str, tuple[int, ...]],
    put: Callable[[str, Tensor], Any],
) -> None:
    """Hand over what ``load_door`` fills a door with, tensor by tensor.

    Args:
        path: As there.
        config: Of the door.
        own_shapes: What the door has, by its own names.
        put: Gets each name with its whole tensor, to be copied.

    Raises:
        FileNotFoundError: As ``load_door``.
        ValueError: As ``load_door``.
    """
    if path.is_file() or (path / CONFIG_FILE).is_file():
        donor = open_donor(path, "vq" if hasattr(config, "codebook_size") else "und_encoder")
        require_same_sizes(donor, config)
        donor.read(own_shapes, put)
        return
    state = _read_state(path, config)
    wrong = [f"unexpected {name}" for name in state if name not in own_shapes]
    wrong += [f"missing {name}" for name in own_shapes if name not in state]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, wanted {shape}"
        for name, shape in own_shapes.items()
        if name in state and state[name].shape != shape
    ]
    if wrong:
        raise ValueError(
            f"{path} does not fit a door of type {config.type!r}: {'; '.join(wrong[:3])} "
            f"({len(wrong)} differences): train it with the same preset"
        )
    for name, tensor in state.items():
        put(name, tensor)


def _read_state(path: Path, config: DoorConfig) -> dict[str, Tensor]:
    if (path / "final" / RECORD).is_file():
        path = path / "final"
    if (path / RECORD).is_file():
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        if record["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{path}: format_version {record['format_version']} is newer than "
                f"{FORMAT_VERSION}: install a newer openjanus (pip install -U openjanus)"
            )
        found = parse_door(record["config"], str(path / RECORD))
        if found != config:
            raise ValueError(f"{path} is {found}, the model wants {config}: use the same preset")
        with safe_open(path / WEIGHTS, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if (path / "checkpoint.json").is_file():
        return load_checkpoint(path)["task"]["model"]
    if checkpoint_steps(path):
        raise ValueError(
            f"the run in {path} is not complete: finish it with --run.resume true, or name its "
            f"checkpoint {newest_checkpoint(path).name}"
        )
    raise FileNotFoundError(
        f"no {WEIGHTS} and no checkpoint in {path}: run the recipe that trains this door first, "
        "or name its folder"
    )


def read_language_model(
    path: Path,
    config: DecoderConfig,
    own_shapes: Mapping[str, tuple[int, ...]],
    put: Callable[[str, Tensor], Any],
) -> None:
    """Hand over the tensors of a decoder, from a Llama's folder or a whole Janus's.

    Args:
        path: The folder.
        config: The model's decoder.
        own_shapes: What it has, by its own names.
        put: Gets each name with its whole tensor, to be copied.

    Raises:
        FileNotFoundError: Nothing of the kind lies there.
        ValueError: Its sizes are not the model's.
    """
    donor = open_donor(path, "language_model")
    require_same_sizes(donor, config)
    donor.read(own_shapes, put)


@torch.no_grad()
def gen_embed_of_codebook(model: JanusModel) -> dict[str, Tensor]:
    """What gen_embed begins as, by name: the codebook's unit rows, where it is a table."""
    if model.config.one_vocabulary or isinstance(model.gen_embed, TokenizerEntrance):
        return {}
    quantizer = model.vq.quantize
    assert isinstance(quantizer, VectorQuantizer)
    return {"gen_embed.weight": quantizer.normalised_codebook()}
