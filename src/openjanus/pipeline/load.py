"""Where models come from: folders in any layout, the hub, and presets."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import torch

from openjanus.config import JanusConfig
from openjanus.engine.options import EngineOptions
from openjanus.model.janus import JanusModel, build_model, quantize_model
from openjanus.model.quantized import count_weights
from openjanus.pipeline.janus import Janus
from openjanus.presets import PRESETS, preset
from openjanus.processor.text import TextTokenizer, byte_tokenizer
from openjanus.quantization import QuantizationConfig
from openjanus.rules import near
from openjanus.weights.adapters import merge_adapter, read_adapter, share_with_adapter
from openjanus.weights.card import Origin, read_origin
from openjanus.weights.formats import DTYPES, open_checkpoint
from openjanus.weights.hub import HUB_ID, fetch
from openjanus.weights.previewer import read_previewer
from openjanus.weights.shards import open_tensors

LARGE_MODEL_PARAMETERS = 200_000_000
"""From here on ``dtype="auto"`` is bfloat16 on a CPU: half the memory to read each step."""

TINY = "tiny"
RELEASED = {
    "janus-1.3b": "deepseek-ai/Janus-1.3B",
    "janus-pro-1b": "deepseek-ai/Janus-Pro-1B",
    "janus-pro-7b": "deepseek-ai/Janus-Pro-7B",
}
"""Where the weights of these architectures were released, under the DeepSeek Model License."""

NANO = "nano"
"""The newest trained model in this package."""
KEEP = "keep"
"""The dtype that leaves every tensor its own."""

_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


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
    revision: str | None = None,
    adapter: str | Path | None = None,
    quantize: str | QuantizationConfig | None = None,
    engine_options: EngineOptions | None = None,
) -> Janus:
    """Load a model that draws and answers.

    Args:
        source: A folder (with a path separator: ``./model``) in our own layout, the authors' or
            transformers'; a hub id, ``deepseek-ai/Janus-Pro-1B``; or a preset: ``tiny`` has random
            weights, ``nano`` is the newest model in this package.
        device: ``auto`` is CUDA, else MPS, else the CPU.
        dtype: ``float32``, ``bfloat16``, ``float16`` or torch's own; ``keep`` leaves every tensor
            the checkpoint's. ``auto`` is that on an accelerator; on a CPU float32, or bfloat16 for
            large models.
        revision: Of a hub id: a branch, a tag or a commit.
        adapter: Folder of an adapter in peft's layout, by our names or transformers'; it is added
            to the weights. None loads the model as it is.
        quantize: ``int8``, ``int4`` or ``fp8`` keeps the decoder's linear layers in so many bits,
            or a ``QuantizationConfig`` says how. Each layer is quantized as it is read; with an
            adapter when that has been added, which takes the memory of the whole model. None loads
            the weights as they are stored, quantized ones too.
        engine_options: How much runs at once, and whether steps are compiled.

    Raises:
        FileNotFoundError: No such folder, a file in it is missing, or the hub cannot be reached.
        KeyError: Unknown preset, the message names near matches; or a special token is missing.
        ValueError: A broken folder, an unknown device or dtype, a revision of no hub id, or an
            adapter for another model; a model that cannot be quantized so, or is in another way;
            or an adapter for a quantized one.
    """
    chosen = choose_device(device)
    added = None if adapter is None else read_adapter(adapter)
    how = QuantizationConfig.by_name(quantize) if isinstance(quantize, str) else quantize
    if source == TINY and revision is None:
        config = preset(TINY)
        model = build_model(config, device="cpu")
        model.init_weights(torch.Generator().manual_seed(0))
        model = model.to(chosen, _dtype(dtype, config, chosen))
        if added is not None:
            merge_adapter(model, added, adapter)
        if how is not None:
            quantize_model(model, how)
        return Janus(model, byte_tokenizer(config.processor), engine_options=engine_options)
    folder = locate(source, revision=revision)
    checkpoint = open_checkpoint(folder)
    kind = _dtype(dtype, checkpoint.config, chosen)
    model = checkpoint.load(device=chosen, dtype=kind, quantize=how if added is None else None)
    if added is not None:
        merge_adapter(model, added, adapter)
        if how is not None:
            quantize_model(model, how)
    origin = read_origin(str(source), folder)
    return Janus(
        model,
        checkpoint.tokenizer,
        engine_options=engine_options,
        origin=origin,
        previewer=read_previewer(folder, model.vq),
    )


def load_beside(janus: Janus, adapter: str | Path) -> Janus:
    """Another Janus of the same weights, kept in memory once, with an adapter beside them.

    It draws and answers as ``load(..., adapter=...)`` does, but for the last bits: in fp32 a rare
    id is another, in 16 bits more are.

    Args:
        janus: Packed already, if at all; used on as before, by the same thread.
        adapter: As ``load``'s.

    Raises:
        FileNotFoundError: No adapter in the folder.
        ValueError: A broken one, or one for another model or a quantized one.
    """
    model = share_with_adapter(janus.model, read_adapter(adapter), adapter)
    return Janus(
        model.eval(), janus.processor.tokenizer, origin=janus.origin, previewer=janus.previewer
    )


def load_random(
    name: str,
    *,
    device: torch.device | str = "auto",
    dtype: torch.dtype | str = "auto",
    quantize: str | QuantizationConfig | None = None,
    engine_options: EngineOptions | None = None,
) -> Janus:
    """A model of an architecture's full size with weights that mean nothing: to time it.

    It takes no more memory than the weights in their dtype; words are bytes.

    Args:
        name: Of the architecture.
        device: As ``load``.
        dtype: As ``load``.
        quantize: As ``load``, but when all weights are there.
        engine_options: As ``load``.

    Raises:
        KeyError: Unknown name; the message names near matches.
        ValueError: As ``load``.
    """
    how = QuantizationConfig.by_name(quantize) if isinstance(quantize, str) else quantize
    config = preset(name)
    chosen = choose_device(device)
    model = build_model(config, dtype=_dtype(dtype, config, chosen)).to_empty(device="cpu")
    if config.language.tie_word_embeddings:  # each of the two has got memory of its own
        model.language_model.lm_head.weight = model.language_model.model.embed_tokens.weight
    model.init_weights(torch.Generator().manual_seed(0))
    if how is not None:
        quantize_model(model, how)
    tokenizer = byte_tokenizer(config.processor)
    return Janus(model.to(chosen).eval(), tokenizer, engine_options=engine_options)


def locate(source: str | Path, *, revision: str | None = None) -> Path:
    """The folder of a model, fetched from the hub if need be.

    Raises:
        FileNotFoundError, KeyError, ValueError: As ``load``.
    """
    is_name = isinstance(source, str) and "/" not in source and "\\" not in source
    folder = Path(source).expanduser()
    is_hub_id = (
        isinstance(source, str) and HUB_ID.fullmatch(source) is not None and not folder.is_dir()
    )
    if revision is not None and not is_hub_id:
        raise ValueError(f"revision belongs to a hub id, owner/name, and {str(source)!r} is none")
    if is_name:
        return _packaged(str(source))
    if is_hub_id:
        return fetch(str(source), revision=revision)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: check the path")
    return folder


def describe(
    source: str | Path, *, revision: str | None = None
) -> tuple[Origin, JanusModel, TextTokenizer]:
    """What ``load`` would load, without its weights: the model is on the meta device.

    Raises:
        FileNotFoundError, KeyError, ValueError: As ``load``.
    """
    if source == TINY and revision is None:
        config = preset(TINY)
        return Origin(source=TINY), build_model(config), byte_tokenizer(config.processor)
    folder = locate(source, revision=revision)
    checkpoint = open_checkpoint(folder)
    return read_origin(str(source), folder), build_model(checkpoint.config), checkpoint.tokenizer


def stored_bytes(source: str | Path, *, revision: str | None = None) -> int | None:
    """How large a model's files of weights are; None where it has none.

    Raises:
        FileNotFoundError, KeyError, ValueError: As ``load``.
    """
    if source == TINY and revision is None:
        return None
    stored = open_tensors(locate(source, revision=revision))
    return sum(path.stat().st_size for path in set(stored.files.values()))


def _packaged(name: str) -> Path:
    packaged = packaged_models()
    if name in packaged:
        return packaged[name]
    known = [TINY, *packaged]
    hint = f", or give a folder as ./{name}" if Path(name).is_dir() else ""
    if name in PRESETS:
        hint = f"; build({name!r}) makes its architecture, without weights"
        if name in RELEASED:
            hint += f", and load({RELEASED[name]!r}) fetches the released ones"
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
    if dtype == KEEP:
        return None
    if isinstance(dtype, torch.dtype) and dtype in DTYPES:
        return dtype
    if dtype != "auto":
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            known = near(str(dtype), ["auto", KEEP, *_DTYPES])
            raise ValueError(f"unknown dtype {dtype!r}; {known}")
        return _DTYPES[dtype]
    if device.type != "cpu":
        return None
    size = count_weights(build_model(config))
    return torch.float32 if size < LARGE_MODEL_PARAMETERS else torch.bfloat16
