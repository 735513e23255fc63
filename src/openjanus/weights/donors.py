"""One part of a model out of somebody else's checkpoint: a decoder, an encoder, a tokenizer.

A Janus is put together from models that were trained by themselves: a Llama, a SigLIP, LlamaGen's
VQ-16 (Janus, section 3.1). Each part may come from its own publisher's files, or from a whole
Janus in any layout. Names and shapes must agree with the module exactly, whatever the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from openjanus.config import DecoderConfig, JanusConfig, SiglipConfig
from openjanus.config_file import load_config
from openjanus.rules import require
from openjanus.weights import deepseek, llama, own, published, transformers
from openjanus.weights.formats import DTYPES, FORMATS, detect_format
from openjanus.weights.keys import KeyTable, check_names
from openjanus.weights.shards import Assembly, StoredTensors, open_tensors

Part = Literal["language_model", "und_encoder", "vq"]

LLAMA_TYPE = "llama"
SIGLIP_TYPES = ("siglip", "siglip_vision_model")
PICKLES = (".pt", ".pth", ".bin")

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

LLAMA_TABLE = KeyTable(
    owner="a Llama in transformers' layout",
    rules=(("model.", "model."), ("lm_head.", "lm_head.")),
    dropped=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # old buffers
)

_LAYER = "encoder.layers.{}."
SIGLIP_TABLE = KeyTable(
    owner="a SigLIP in transformers' layout",
    rules=(
        ("patch_embed.proj.", "embeddings.patch_embedding."),
        ("pos_embed", "embeddings.position_embedding.weight"),
        ("norm.", "post_layernorm."),
        ("blocks.{}.norm1.", _LAYER + "layer_norm1."),
        ("blocks.{}.norm2.", _LAYER + "layer_norm2."),
        ("blocks.{}.mlp.", _LAYER + "mlp."),
        ("blocks.{}.attn.proj.", _LAYER + "self_attn.out_proj."),
        (
            "blocks.{}.attn.qkv.",
            (
                _LAYER + "self_attn.q_proj.",
                _LAYER + "self_attn.k_proj.",
                _LAYER + "self_attn.v_proj.",
            ),
        ),
    ),
    unbatched=("pos_embed",),
    dropped=(
        r"head\..*",  # the pooling, which a Janus never uses
        r"embeddings\.position_ids",  # a buffer of older versions
        r"text_model\..*|logit_scale|logit_bias",  # the other tower
    ),
)
"""The vision tower's names, without the prefix that most versions give it."""

SIGLIP_PREFIX = "vision_model."

LLAMAGEN_TABLE = KeyTable(
    owner="LlamaGen's tokenizer",
    rules=(("", ""),),  # the authors of Janus and we kept its names
    dropped=(r"quantize\.codebook_used",),  # a buffer of its training
)

_SIGLIP_FIXED: Mapping[str, tuple[Any, ...]] = {
    "num_channels": (3,),
    # Stock weights were trained with the approximation; the Janus models run them with the exact
    # one (model.siglip), whose values differ by less than 5e-4.
    "hidden_act": ("gelu_pytorch_tanh", "gelu"),
}
_SIGLIP_DEFAULTS: Mapping[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-6,
}
"""transformers' SiglipVisionConfig: published files leave out what equals these."""


@dataclass(frozen=True, slots=True)
class Donor:
    """Where a part lies, understood, its weights not yet read."""

    source: Path
    """Folder or file, for messages."""
    part: Part
    config: Any
    """Of the part, as the donor says it; None where the file says none."""
    table: KeyTable
    prefix: str
    """What our names have before those of the part."""
    stored: StoredTensors | Mapping[str, Tensor]
    their_prefix: str = ""
    """What the donor's names have before those of the table."""

    @torch.no_grad()
    def fill(self, module: nn.Module) -> None:
        """Copy the part's tensors into a module, whatever dtype they are stored in.

        Args:
            module: The part, as a model has it, with real weights.

        Raises:
            ValueError: Names or shapes are not the module's, or a file is broken.
        """
        own_state = module.state_dict()
        self.read(_shapes_of(own_state), lambda key, whole: own_state[key].copy_(whole))

    def read(
        self, own_shapes: Mapping[str, tuple[int, ...]], put: Callable[[str, Tensor], Any]
    ) -> None:
        """Hand over the part's tensors one by one.

        Args:
            own_shapes: What the part has in the model, by its names there.
            put: Gets each name with its whole tensor, in whatever dtype, to be copied.

        Raises:
            ValueError: Names or shapes are not the model's, or a file is broken.
        """
        stored = self.stored
        shapes = stored.shapes if isinstance(stored, StoredTensors) else _shapes_of(stored)
        places = self._places(own_shapes, shapes)
        expected = {
            name: self.table.stored_shape(self.prefix + key, own_shapes[key])
            for name, (key, _) in places.items()
        }
        check_names(self.source, expected, self._of_part(shapes))
        lacks_head = (
            self.part == "language_model" and HEAD in own_shapes and not self._has_head(shapes)
        )

        def put_whole(key: str, whole: Tensor) -> None:
            put(key, whole)
            if key == EMBEDDING and lacks_head:
                put(HEAD, whole)  # tied in the donor: it begins as the table

        assembly = Assembly(put_whole)

        def take(name: str, tensor: Tensor) -> None:
            require(
                tensor.dtype in DTYPES,
                f"{self.source}: {name} is {tensor.dtype}: weights are of "
                f"{', '.join(map(str, DTYPES))}",
            )
            key, part = places[name]
            count = len(self.table.names(self.prefix + key))
            assembly.take(key, own_shapes[key], tensor, part=part, count=count)

        if isinstance(stored, StoredTensors):
            stored.read(places, take)
        else:
            for name in places:
                take(name, stored[name])

    def _places(
        self, own_shapes: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[str, int]]:
        """Their names -> our name, and which of its parts."""
        keys = [
            key
            for key in own_shapes
            if not (self.part == "language_model" and key == HEAD and not self._has_head(shapes))
        ]
        return {
            self.their_prefix + name: (key, part)
            for key in keys
            for part, name in enumerate(self.table.names(self.prefix + key))
        }

    def _has_head(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        return self.their_prefix + self.table.names(self.prefix + HEAD)[0] in shapes

    def _of_part(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """What the donor holds of the part: the rest of a Janus is left where it is."""
        found = {}
        for name, shape in shapes.items():
            bare = name.removeprefix(self.their_prefix)
            if self.table.is_dropped(bare) or self.table.is_dropped(name):
                continue
            if self.prefix and not self.table.key(name)[0].startswith(self.prefix):
                continue
            found[name] = shape
        return found


def open_donor(path: Path, part: Part) -> Donor:
    """Understand where a part comes from.

    Args:
        path: A whole Janus in any layout; for a decoder a Llama's folder, for an encoder a
            SigLIP's, for a tokenizer LlamaGen's file.
        part: Which.

    Raises:
        FileNotFoundError: Nothing lies there.
        ValueError: A file is broken, or of a model that has no such part.
    """
    if part == "vq" and path.is_file() and path.suffix in PICKLES:
        return Donor(path, part, None, LLAMAGEN_TABLE, "", _read_llamagen(path))
    if not path.is_dir():
        raise FileNotFoundError(f"no {part} at {path}: check the path")
    data = published.read_json(path / published.CONFIG_FILE)
    kind = data.get("model_type")
    where = str(path / published.CONFIG_FILE)
    if part == "language_model" and kind == LLAMA_TYPE:
        config = llama.parse_llama(data, where)
        return Donor(path, part, config, LLAMA_TABLE, "", open_tensors(path))
    if part == "und_encoder" and kind in SIGLIP_TYPES:
        stored = open_tensors(path)
        prefixed = any(name.startswith(SIGLIP_PREFIX) for name in stored.shapes)
        config = parse_siglip(data, where)
        prefix = SIGLIP_PREFIX if prefixed else ""
        return Donor(path, part, config, SIGLIP_TABLE, "", stored, prefix)
    if "format_version" not in data and kind not in (deepseek.MODEL_TYPE, transformers.MODEL_TYPE):
        theirs = {
            "language_model": f"a Llama has {LLAMA_TYPE!r}",
            "und_encoder": f"a SigLIP has {' or '.join(map(repr, SIGLIP_TYPES))}",
            "vq": "LlamaGen's tokenizer is a .pt file",
        }
        raise ValueError(
            f"{where} is of model_type {kind!r}, which gives no {part}: {theirs[part]}, and a "
            "whole Janus serves as well"
        )
    layout = detect_format(path)
    whole = _janus_config(path, data)
    if part == "language_model":
        whole.require_plain(path)
    config = getattr(whole, _FIELDS[part])
    return Donor(path, part, config, FORMATS[layout.name].table, f"{part}.", open_tensors(path))


_FIELDS: Mapping[Part, str] = {
    "language_model": "language",
    "und_encoder": "und_encoder",
    "vq": "gen_tokenizer",
}
"""Where a part's configuration stands in a ``JanusConfig``."""


def _janus_config(path: Path, data: Mapping[str, Any]) -> JanusConfig:
    """A folder's sizes: its tokenizer and processor files are not needed for a part."""
    where = str(path / published.CONFIG_FILE)
    if "format_version" in data:
        return load_config(path / own.CONFIG_FILE)
    if data["model_type"] == deepseek.MODEL_TYPE:
        return deepseek.parse_config(data, where)
    head = transformers.TABLE.names(own.TIED_KEY)[0]
    return transformers.parse_config(data, where, has_head=head in open_tensors(path).shapes)


def parse_siglip(data: Mapping[str, Any], where: str) -> SiglipConfig:
    """The vision tower's sizes from a SigLIP's ``config.json``.

    Raises:
        ValueError: Something that our encoder has not.
    """
    vision = data
    if data.get("model_type") == "siglip":
        vision = published.section(data, "vision_config", where)
    published.check_fixed(vision, _SIGLIP_FIXED, where)
    published.warn_unknown(
        vision, {*_SIGLIP_DEFAULTS, *_SIGLIP_FIXED, "vision_use_head", "attention_dropout"}, where
    )
    values = {key: vision.get(key, default) for key, default in _SIGLIP_DEFAULTS.items()}
    return published.build(SiglipConfig, values, where)


def require_same_sizes(donor: Donor, config: Any) -> None:
    """Refuse a donor whose sizes are not the model's.

    A decoder's context is a promise, not a size, and a tied head is copied; a tokenizer of
    pictures is convolutional, and runs at any side. These may differ.

    Args:
        donor: Understood.
        config: The part's in the model.

    Raises:
        ValueError: One differs; the message names it.
    """
    if donor.config is None:
        return
    theirs, ours = (_sizes(it, donor.part) for it in (donor.config, config))
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"{donor.source} has a {donor.part} with {name} {theirs.get(name)!r}, the model "
                f"wants {ours.get(name)!r}: take another preset or another {donor.part}"
            )


def _sizes(config: Any, part: Part) -> dict[str, Any]:
    sizes = {"type": getattr(config, "type", LLAMA_TYPE), **asdict(config)}
    if isinstance(config, DecoderConfig):
        sizes["head_dim"] = config.head_size
    for name in _FREE[part]:
        sizes.pop(name, None)
    return sizes


_FREE: Mapping[Part, tuple[str, ...]] = {
    "language_model": ("max_position_embeddings", "tie_word_embeddings"),
    "und_encoder": (),
    "vq": ("image_size",),
}
"""Fields that may differ between a donor and the model."""


def _shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _read_llamagen(path: Path) -> dict[str, Tensor]:
    """The state of LlamaGen's file: under ``ema``, ``model`` or ``state_dict``, or by itself."""
    try:
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} is broken or not PyTorch weights ({reason})") from error
    for key in ("ema", "model", "state_dict"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
            break
    if not isinstance(data, Mapping) or not all(isinstance(t, Tensor) for t in data.values()):
        raise ValueError(f"{path} holds no table of tensors: give vq_ds16_c2i.pt of LlamaGen")
    return dict(data)
