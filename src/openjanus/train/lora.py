"""LoRA in a run: put adapters into a model, and take them out again (Hu et al., 2021)."""

from __future__ import annotations

import hashlib
import math
import re

import torch
from torch import Tensor, nn

from openjanus.model.janus import JanusModel
from openjanus.train.lora_config import LoraConfig
from openjanus.train.sharding import copy_part, whole_of
from openjanus.weights.adapters import Adapter

_DECODER = r"language_model\.model\.layers\.\d+\.(?:self_attn|mlp)\."
_NAME = "default"
_THIN = re.compile(rf"(.+)\.lora_([AB])\.{_NAME}\.weight")


def target_pattern(config: LoraConfig) -> str:
    """The modules that get adapters, as a pattern over their whole names."""
    patterns = [f"{_DECODER}(?:{'|'.join(config.targets)})"]
    if config.train_doors == "lora":
        patterns += [rf"{door}\..+" for door in config.doors]
    return "|".join(patterns)


def add_lora(model: JanusModel, config: LoraConfig, *, seed: int) -> None:
    """Put adapters beside matrices of a model, in place; until they are trained they add nothing.

    Args:
        model: With weights; its linear layers become peft's, which hold the old ones.
        config: Which matrices, and how thin.
        seed: Names the values of A; B starts at 0.

    Raises:
        ImportError: peft is not installed.
        ValueError: The model has none of these matrices.
    """
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise ImportError("training with lora needs peft: pip install openjanus[lora]") from error
    pattern = target_pattern(config)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(pattern, name)
    ]
    if not names:
        raise ValueError(f"no linear layer of this model is called {pattern}: change lora.targets")
    peft = PeftConfig(r=config.rank, lora_alpha=config.alpha, target_modules=names)  # pyright: ignore[reportArgumentType]
    # peft draws its own values from the global stream, which is nobody's here: it is put back.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(peft, model)
    fill_adapters(model, seed=seed)


def fill_adapters(model: JanusModel, *, seed: int) -> None:
    """Give adapters the values that they begin with; of parts, each process fills its own.

    Args:
        model: After `add_lora`; on the meta device nothing happens.
        seed: As there.
    """
    for name, parameter in model.named_parameters():
        match = _THIN.fullmatch(name)
        if match is None:
            continue
        drawn = torch.zeros(parameter.shape)
        if match[2] == "A":
            key = int.from_bytes(hashlib.sha256(f"{seed}/{match[1]}".encode()).digest()[:8])
            generator = torch.Generator().manual_seed(key >> 1)
            bound = 1 / math.sqrt(parameter.shape[1])  # as peft: uniform, by the width that enters
            drawn.uniform_(-bound, bound, generator=generator)
        copy_part(parameter, drawn)


def take_adapter(model: JanusModel, config: LoraConfig, *, base: str) -> Adapter:
    """The adapters of a model, and its doors that are trained whole, under the bare model's names.

    Where the model is in parts, all processes must call this.

    Args:
        model: After `add_lora`.
        config: What it was given.
        base: What the model was made from, for whoever loads the adapter.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        match = _THIN.fullmatch(name)
        if match is not None:
            halves.setdefault(match[1], {})[match[2]] = whole_of(parameter.detach())
        elif name.partition(".")[0] in config.whole_doors:
            whole[name] = whole_of(parameter.detach())
    return Adapter(
        rank=config.rank,
        alpha=config.alpha,
        pairs={module: (pair["A"], pair["B"]) for module, pair in halves.items()},
        whole=whole,
        base=base,
    )
