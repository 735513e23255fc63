"""Low-rank adapters in peft's layout: ``adapter_config.json`` and ``adapter_model.safetensors``.

An adapter is a difference to a model: for some matrices two thin ones, whose scaled product is
added (LoRA, Hu et al., 2021), and for some doors their whole weights. Its tensors are called after
the modules of the model that it is for: ours, or transformers' ``JanusForConditionalGeneration``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from openjanus.model.adapted import add_pairs, replace_tensors, share
from openjanus.model.janus import JanusModel, build_model
from openjanus.rules import require
from openjanus.weights import transformers
from openjanus.weights.published import read_json, write_json
from openjanus.weights.shards import save_tensors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
LAYOUTS = ("openjanus", "transformers")
"""Whose names an adapter's tensors may carry."""

DOOR_WEIGHTS = {
    "und_aligner": "layers.0.weight",
    "gen_aligner": "layers.0.weight",
    "gen_head": "vision_head.weight",
}
"""Doors that an adapter may hold whole, and a weight of each, by which its name is found."""

_PREFIX = "base_model.model."
_SHARED_PAIRS = ("language_model.model.layers.", *DOOR_WEIGHTS)
_PAIR = re.compile(r"(.+)\.lora_([AB])\.weight")
_SHOWN = 3

_FIXED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "fan_in_fan_out": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "lora_bias": (False,),
    "init_lora_weights": (True, False, "gaussian"),
}
"""Settings of peft under which an adapter is more, or other, than scaled products to add."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A difference to a model, by our names."""

    rank: int
    alpha: float
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    """Module -> A (rank, in) and B (out, rank)."""
    whole: Mapping[str, Tensor]
    """Parameter -> what takes its place."""
    base: str = ""
    """The model that it was trained on, as it was named then."""
    by_root: bool = False
    """Whether the scale is alpha over the rank's root (rsLoRA), not over the rank."""

    @property
    def scale(self) -> float:
        """What each product is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.by_root else self.rank)

    @property
    def num_parameters(self) -> int:
        """Numbers in all."""
        thin = sum(a.numel() + b.numel() for a, b in self.pairs.values())
        return thin + sum(tensor.numel() for tensor in self.whole.values())


def save_adapter(folder: Path, adapter: Adapter, *, layout: str) -> None:
    """Write an adapter as peft does.

    Args:
        folder: Made if need be.
        adapter: Trained.
        layout: Whose names its tensors get, one of ``LAYOUTS``.

    Raises:
        ValueError: Another layout.
    """
    require(layout in LAYOUTS, f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    tensors: dict[str, Tensor] = {}
    for module, pair in adapter.pairs.items():
        name = _their_name(f"{module}.weight", layout).removesuffix(".weight")
        for letter, tensor in zip("AB", pair, strict=True):
            tensors[f"{_PREFIX}{name}.lora_{letter}.weight"] = tensor
    for key, tensor in adapter.whole.items():
        tensors[_PREFIX + _their_name(key, layout)] = tensor
    doors = sorted({key.partition(".")[0] for key in adapter.whole})
    roots = [
        _their_name(f"{door}.{DOOR_WEIGHTS[door]}", layout).rsplit(".", 2)[0] for door in doors
    ]
    if layout == "openjanus":
        roots = doors
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": adapter.by_root,
        "target_modules": [
            _their_name(f"{module}.weight", layout).removesuffix(".weight")
            for module in adapter.pairs
        ],
        "modules_to_save": roots if roots else None,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_tensors(kept, folder / WEIGHTS_FILE)
    write_json(config, folder / CONFIG_FILE)


def _their_name(key: str, layout: str) -> str:
    """Our parameter's name in a layout; what adapters are for is one tensor in each of them."""
    if layout == "openjanus":
        return key
    (name,) = transformers.TABLE.names(key)
    return name


def read_adapter(folder: Path | str) -> Adapter:
    """Read an adapter by our names, whichever it carries.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: A broken file, another kind of adapter, or names of no Janus.
    """
    folder = Path(folder).expanduser()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}: give the folder that a LoRA run wrote, such as "
                "RUN/final/adapter"
            )
    config = read_json(folder / CONFIG_FILE)
    for key, allowed in _FIXED.items():
        value = config.get(key)
        require(
            value is None or value in allowed,
            f"{folder / CONFIG_FILE}: {key} is {value!r}, and an adapter here has "
            f"{' or '.join(map(repr, allowed))}: merge it with peft and load the result",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    require(
        type(rank) is int and rank >= 1 and type(alpha) in (int, float),
        f"{folder / CONFIG_FILE}: r and lora_alpha must be numbers, got {rank!r} and {alpha!r}",
    )
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} is broken ({error}): fetch it again") from error
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix(_PREFIX)
        match = _PAIR.fullmatch(plain)
        if match is None:
            whole[_our_name(plain, folder)] = tensor
        else:
            key = _our_name(f"{match[1]}.weight", folder).removesuffix(".weight")
            halves.setdefault(key, {})[match[2]] = tensor
    alone = [module for module, pair in halves.items() if set(pair) != {"A", "B"}]
    require(
        not alone, f"{folder / WEIGHTS_FILE}: only one half of {alone[:1]} is there: fetch it again"
    )
    return Adapter(
        rank=int(str(rank)),
        alpha=float(str(alpha)),
        pairs={module: (pair["A"], pair["B"]) for module, pair in halves.items()},
        whole=whole,
        base=str(config.get("base_model_name_or_path") or ""),
        by_root=bool(config.get("use_rslora")),
    )


def _our_name(name: str, folder: Path) -> str:
    """Our name of a parameter of ours or of transformers'."""
    if not name.startswith("model."):  # ours begin with the part that they belong to
        return name
    try:
        key, _ = transformers.TABLE.key(name)
    except KeyError as error:
        raise ValueError(f"{folder / WEIGHTS_FILE}: {error.args[0]}") from error
    require(
        len(transformers.TABLE.names(key)) == 1,
        f"{folder / WEIGHTS_FILE}: {name} is a part of our {key}, and an adapter is for whole "
        "matrices: merge it with peft and load the result",
    )
    return key


def check_adapter(model: JanusModel, adapter: Adapter, source: object) -> None:
    """See that an adapter is for a model, which may be on the meta device.

    Raises:
        ValueError: It is another's; one message says what does not fit. Or the model is quantized,
            or packed.
    """
    require(
        not model.is_packed,
        f"the adapter in {source} is for plain weights, and the model is packed: load the model "
        "again with the adapter, and pack it then",
    )
    require(
        model.config.quantization is None,
        f"the adapter in {source} is for plain weights, and the model is quantized: load the model "
        "that it was made from, with the adapter and quantize",
    )
    shapes = {key: tuple(tensor.shape) for key, tensor in model.named_parameters()}
    wanted = {f"{m}.weight": (len(b), a.shape[1]) for m, (a, b) in adapter.pairs.items()}
    wanted |= {key: tuple(tensor.shape) for key, tensor in adapter.whole.items()}
    faults = [f"it has no {key}" for key in wanted if key not in shapes]
    faults += [
        f"its {key} is {shapes[key]}, the adapter's {shape}"
        for key, shape in wanted.items()
        if key in shapes and shapes[key] != shape
    ]
    faults += [
        f"{module} has rank {len(a)}, the configuration {adapter.rank}"
        for module, (a, b) in adapter.pairs.items()
        if len(a) != adapter.rank or b.shape[1] != adapter.rank
    ]
    trained_on = f" ({adapter.base})" if adapter.base else ""
    more = " ..." if len(faults) > _SHOWN else ""
    require(
        not faults,
        f"the adapter in {source} is for another model: {'; '.join(faults[:_SHOWN])}{more}: load "
        f"it with the model that it was trained on{trained_on}",
    )


@torch.no_grad()
def merge_adapter(model: JanusModel, adapter: Adapter, source: object) -> None:
    """Add an adapter to a model's weights in place; products are taken in fp32.

    Args:
        model: With weights.
        adapter: For it.
        source: Where the adapter comes from, for messages.

    Raises:
        ValueError: As ``check_adapter``; nothing is changed then.
    """
    check_adapter(model, adapter, source)
    weights = dict(model.named_parameters())
    for module, (a, b) in adapter.pairs.items():
        weight = weights[f"{module}.weight"]
        delta = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
        weight.copy_(weight.float() + adapter.scale * delta)
    for key, tensor in adapter.whole.items():
        weights[key].copy_(tensor)


@torch.no_grad()
def share_with_adapter(model: JanusModel, adapter: Adapter, source: object) -> JanusModel:
    """A model of the same weights, in the same memory, with an adapter beside them.

    Its results are a merged model's but for the last bits, and so, in fp32, but for a rare id.

    Args:
        model: Plain or packed; it is not changed, and must not be as long as the other is used.
        adapter: For it.
        source: Where the adapter comes from, for messages.

    Raises:
        ValueError: As ``check_adapter``, or the adapter is for more than the decoder's layers and
            the doors.
    """
    check_adapter(build_model(model.config), adapter, source)
    # What else there is may be used from more than one place, which all would have to know.
    others = [module for module in adapter.pairs if not module.startswith(_SHARED_PAIRS)]
    others += [key for key in adapter.whole if not key.startswith(tuple(DOOR_WEIGHTS))]
    require(
        not others,
        f"the adapter in {source} changes {others[:1]}, and beside others it may change the "
        "decoder's layers, the aligners and gen_head alone: serve it by itself",
    )
    device = model.language_model.model.embed_tokens.weight.device
    found = share(model)
    replace_tensors(found, adapter.whole)
    add_pairs(
        found,
        {
            module: (a.to(device), (b.float() * adapter.scale).to(device))
            for module, (a, b) in adapter.pairs.items()
            if f"{module}.weight" not in adapter.whole  # merging lets the whole win
        },
    )
    return found
