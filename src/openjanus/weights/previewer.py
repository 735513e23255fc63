"""``previewer.safetensors``: a rough decoder of unfinished pictures, beside a model's weights.

It is of one image tokenizer, and says which by a hash of its codebook and of its last layer: what
is written there for other weights is refused, not shown.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from openjanus.model.previewer import Previewer
from openjanus.model.vq import VQTokenizer
from openjanus.rules import require

PREVIEWER_FILE = "previewer.safetensors"
FORMAT_VERSION = "1"


def read_previewer(folder: Path, tokenizer: nn.Module) -> Previewer | None:
    """The rough decoder that lies in a model's folder, on the device of the model's tokenizer.

    Args:
        folder: Of the model, in any layout.
        tokenizer: The model's, with its weights.

    Returns:
        None where there is none.

    Raises:
        ValueError: A broken file, or one for another tokenizer.
    """
    path = folder / PREVIEWER_FILE
    if not path.is_file():
        return None
    anew = f"make it anew with scripts/fit_previewer.py, or delete {path}"
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}): {anew}") from error
    require(
        told.get("format_version") == FORMAT_VERSION,
        f"{path} is of format {told.get('format_version')}, this reads {FORMAT_VERSION}: {anew}",
    )
    if not isinstance(tokenizer, VQTokenizer) or told.get("tokenizer") != name_of(tokenizer):
        raise ValueError(f"{path} was made for another image tokenizer than the model's: {anew}")
    width = len(state.get("conv_in.bias", [0]))  # any, where it is not told: it is refused then
    previewer = new_previewer(tokenizer, width=width)
    wanted = {name: value.shape for name, value in previewer.state_dict().items()}
    require(
        {name: value.shape for name, value in state.items()} == wanted,
        f"{path} holds other tensors than a previewer's: {anew}",
    )
    previewer.load_state_dict(state, strict=True)
    return previewer.eval()


def save_previewer(folder: Path, previewer: Previewer, tokenizer: VQTokenizer) -> Path:
    """Write it, in 16 bits, into a folder that is there."""
    state = {
        name: value.detach().cpu().to(torch.bfloat16).contiguous()
        for name, value in previewer.state_dict().items()
    }
    told = {"format_version": FORMAT_VERSION, "tokenizer": name_of(tokenizer)}
    path = folder / PREVIEWER_FILE
    save_file(state, path, metadata=told)
    return path


def new_previewer(tokenizer: VQTokenizer, *, width: int) -> Previewer:
    """One with fresh weights for a tokenizer, where that is."""
    weight = tokenizer.quantize.embedding.weight
    patch = tokenizer.config.downsample_factor
    return Previewer(weight.detach(), patch, width).to(weight.device)


def name_of(tokenizer: VQTokenizer) -> str:
    """What tells an image tokenizer from others, in whatever dtype its weights are read."""
    digest = hashlib.sha256()
    for weight in (tokenizer.quantize.embedding.weight, tokenizer.decoder.conv_out.weight):
        bits = weight.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16)
        digest.update(bits.numpy().tobytes())
    return digest.hexdigest()
