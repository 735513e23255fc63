"""Where models come from: folders and presets."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import torch

from openjanus.config import PRESETS, JanusConfig, near, preset
from openjanus.config_file import load_config
from openjanus.model.janus import JanusModel, build_model
from openjanus.pipeline.janus import Janus
from openjanus.processor.text import byte_tokenizer
from openjanus.weights.own import CONFIG_FILE, load_model

LARGE_MODEL_PARAMETERS = 200_000_000
"""From here on ``dtype="auto"`` is bfloat16 on a CPU: half the memory to read each step."""

TINY = "tiny"
NANO = "nano"
"""The newest trained model in this package."""
_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def build(
    config_or_preset: JanusConfig | str,
    *,
    device: torch.device | str = "meta",
    dtype: torch.dtype | None = None,
) -> JanusModel:
    """Build a bare model, without trained weights.

    Args:
        config_or_preset: What to build, or the name of an architecture.
        device: ``meta`` builds shapes alone.
        dtype: Of the parameters; None is fp32.

    Raises:
        KeyError: Unknown name; the message names near matches.
    """
    config = preset(config_or_preset) if isinstance(config_or_preset, str) else config_or_preset
    return build_model(config, device=device, dtype=dtype)


def load(
    source: str | Path,
    *,
    device: torch.device | str = "auto",
    dtype: torch.dtype | str = "auto",
) -> Janus:
    """Load a model that draws and answers.

    Args:
        source: A folder that ``Janus.save`` wrote (with a path separator: ``./model``), or a
            preset: ``tiny`` has random weights, ``nano`` is the newest model in this package.
        device: ``auto`` is CUDA, else MPS, else the CPU.
        dtype: ``float32``, ``bfloat16``, ``float16`` or torch's own. ``auto`` is the checkpoint's
            own on an accelerator; on a CPU float32, or bfloat16 for large models.

    Raises:
        FileNotFoundError: No such folder, or a file in it is missing.
        KeyError: Unknown preset; the message names near matches.
        ValueError: A broken folder, an unknown device or dtype, or a hub id.
    """
    chosen = choose_device(device)
    if isinstance(source, str) and "/" not in source and "\\" not in source:
        return _load_preset(source, chosen, dtype)
    folder = Path(source)
    if not folder.is_dir():
        if isinstance(source, str) and _HUB_ID.fullmatch(source):
            raise ValueError(
                f"{source!r} is no folder here, and hub ids are not fetched: download the "
                f"repository first and give its folder, for instance ./{folder.name}"
            )
        raise FileNotFoundError(f"no folder {folder}: check the path")
    return _load_folder(folder, chosen, dtype)


def _load_preset(name: str, device: torch.device, dtype: torch.dtype | str) -> Janus:
    if name == TINY:
        config = preset(TINY)
        model = build_model(config, device="cpu")
        model.init_weights(torch.Generator().manual_seed(0))
        chosen = _dtype(dtype, config, device)
        return Janus(model.to(device, chosen), byte_tokenizer(config.processor))
    packaged = packaged_models()
    if name in packaged:
        return _load_folder(packaged[name], device, dtype)
    known = [TINY, *packaged]
    hint = f", or give a folder as ./{name}" if Path(name).is_dir() else ""
    if name in PRESETS:
        hint = f"; build({name!r}) makes its architecture, without weights"
    raise KeyError(f"no model {name!r} in this package; {near(name, known)}{hint}")


def packaged_models() -> dict[str, Path]:
    """Folders of the trained models in this package by name, oldest first; ``nano`` is the last."""
    assets = Path(str(resources.files("openjanus"))) / "assets"
    versions = {
        int(match[1]): folder
        for folder in assets.glob("nano-v*")
        if (match := re.fullmatch(r"nano-v(\d+)", folder.name))
    }
    named = {versions[number].name: versions[number] for number in sorted(versions)}
    return named | ({NANO: versions[max(versions)]} if versions else {})


def _load_folder(folder: Path, device: torch.device, dtype: torch.dtype | str) -> Janus:
    chosen = _dtype(dtype, load_config(folder / CONFIG_FILE), device)
    model, tokenizer = load_model(folder, device=device, dtype=chosen)
    return Janus(model, tokenizer)


def choose_device(device: torch.device | str) -> torch.device:
    """The device of a name; ``auto`` takes the fastest kind that is here.

    Raises:
        ValueError: No such device, in general or on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: give auto, cpu, cuda or mps") from error
    cuda_index = 0 if chosen.index is None else chosen.index
    present = {
        "cpu": True,
        "cuda": cuda_index < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(chosen.type, False):
        raise ValueError(f"this machine has no device {str(device)!r}: give auto or cpu")
    return chosen


def _dtype(
    dtype: torch.dtype | str, config: JanusConfig, device: torch.device
) -> torch.dtype | None:
    """The dtype of the weights; None is the checkpoint's own."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; {near(dtype, ['auto', *_DTYPES])}")
        return _DTYPES[dtype]
    if device.type != "cpu":
        return None
    size = sum(parameter.numel() for parameter in build_model(config).parameters())
    return torch.float32 if size < LARGE_MODEL_PARAMETERS else torch.bfloat16
