"""LoRA in a run: put adapters into a model, and take them out again (Hu et al., 2021)."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from openjanus.model.janus import JanusModel
from openjanus.train.config import LoraConfig
from openjanus.weights.adapters import Adapter

_DECODER = r"language_model\.model\.layers\.\d+\.(?:self_attn|mlp)\."
_NAME = "default"
_BASE_HASH = "base_hash"
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
    for name, parameter in model.named_parameters():
        match = _THIN.fullmatch(name)
        if match is not None and match[2] == "A":
            key = int.from_bytes(hashlib.sha256(f"{seed}/{match[1]}".encode()).digest()[:8])
            generator = torch.Generator().manual_seed(key >> 1)
            bound = 1 / math.sqrt(parameter.shape[1])  # as peft: uniform, by the width that enters
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            with torch.no_grad():
                parameter.copy_(drawn)


def take_adapter(model: JanusModel, config: LoraConfig, *, base: str) -> Adapter:
    """The adapters of a model, and its doors that are trained whole, under the bare model's names.

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
            halves.setdefault(match[1], {})[match[2]] = parameter.detach()
        elif name.partition(".")[0] in config.whole_doors:
            whole[name] = parameter.detach()
    return Adapter(
        rank=config.rank,
        alpha=config.alpha,
        pairs={module: (pair["A"], pair["B"]) for module, pair in halves.items()},
        whole=whole,
        base=base,
    )


def trained_state(model: JanusModel, config: LoraConfig | None) -> dict[str, Tensor]:
    """What a checkpoint keeps of a model: all of it, or with adapters what is trained alone."""
    if config is None:
        return model.state_dict()
    state = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return state | {_BASE_HASH: _frozen_hash(model)}


def load_trained(model: JanusModel, config: LoraConfig | None, state: Mapping[str, Tensor]) -> None:
    """Restore what `trained_state` gave.

    Raises:
        ValueError: The state is of other adapters, or of adapters to other weights.
        RuntimeError: Without adapters, as ``load_state_dict``.
    """
    if config is None:
        model.load_state_dict(state, strict=True)
        return
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if set(own) != set(state) - {_BASE_HASH}:
        odd = min(set(own) ^ (set(state) - {_BASE_HASH}))
        raise ValueError(f"the checkpoint is of other adapters ({odd}): resume with the same lora")
    if not torch.equal(state[_BASE_HASH], _frozen_hash(model)):
        raise ValueError(
            "the checkpoint's adapters were trained beside other weights: resume with the init "
            "that the run was started with"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def _frozen_hash(model: JanusModel) -> Tensor:
    """Hash of what is frozen, of up to some thousand numbers a tensor: (32,) uint8.

    A checkpoint has only what is trained, so it must say what that was trained beside.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            flat = parameter.detach().flatten()
            some = flat[:: max(1, len(flat) // 1024)].float().cpu().contiguous()
            digest.update(name.encode())
            digest.update(some.numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
