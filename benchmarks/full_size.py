"""Random checkpoints of the released sizes, in the layouts that people have on their disks.

    python benchmarks/full_size.py FOLDER [--size pro-1b|pro-7b] [--layout deepseek|transformers]
        [--weights safetensors|bin] [--layers N]

The files are laid out as the released ones: shards and their index, a config.json that leaves out
what equals LlamaConfig's defaults, tensors that no Janus uses. The weights are bfloat16 noise of a
sensible scale; equal sizes have equal weights in every layout. One shard is in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from openjanus.model.janus import build_model
from openjanus.presets import preset
from openjanus.weights import deepseek, transformers

Size = Literal["pro-1b", "pro-7b"]
Layout = Literal["deepseek", "transformers"]
Weights = Literal["safetensors", "bin"]

SHARD_BYTES = 2 * 10**9
NOISE_LENGTH = 16_777_213
"""A prime: the rows of a matrix then begin at different places of the noise."""

EMBEDDINGS = ("embed_tokens.weight", "gen_embed.weight", "quantize.embedding.weight")
"""Tables of vectors: our names of what has no inputs to be scaled by."""

LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}
"""What the released 1B says of its decoder; the 7B, which has LlamaConfig's own widths, nothing."""

POOLING = {
    "latent": (1, 1, 1024),
    "q.weight": (1024, 1024),
    "q.bias": (1024,),
    "kv.weight": (2048, 1024),
    "kv.bias": (2048,),
    "proj.weight": (1024, 1024),
    "proj.bias": (1024,),
    "norm.weight": (1024,),
    "norm.bias": (1024,),
    "mlp.fc1.weight": (4096, 1024),
    "mlp.fc1.bias": (4096,),
    "mlp.fc2.weight": (1024, 4096),
    "mlp.fc2.bias": (1024,),
}
"""SigLIP's pooling, which lies in the authors' files and which no Janus uses."""


@dataclass(frozen=True, slots=True)
class Ids:
    """Where the released vocabularies have their special tokens."""

    pad: int
    boi: int
    eoi: int
    image: int

    def tokens(self) -> dict[str, int]:
        """Every special token and its id."""
        return {
            "<｜begin▁of▁sentence｜>": 100000,
            "<｜end▁of▁sentence｜>": 100001,
            "<｜▁pad▁｜>": self.pad,
            "<begin_of_image>": self.boi,
            "<end_of_image>": self.eoi,
            "<image_placeholder>": self.image,
            "<|User|>": self.image + 10,
            "<|Assistant|>": self.image + 11,
        }


IDS: dict[Size, Ids] = {
    "pro-1b": Ids(pad=100002, boi=100003, eoi=100004, image=100581),
    "pro-7b": Ids(pad=100015, boi=100016, eoi=100593, image=100594),
}


def write_checkpoint(
    folder: Path,
    *,
    size: Size = "pro-1b",
    layout: Layout = "deepseek",
    weights: Weights = "safetensors",
    num_layers: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a whole folder.

    Args:
        folder: New.
        size: Of which released model.
        layout: The authors' or transformers'.
        weights: ``model*.safetensors`` or ``pytorch_model*.bin``.
        num_layers: Of the decoder; None is the released number.
        shard_bytes: About as much is in memory at a time.
    """
    folder.mkdir(parents=True)
    config = _deepseek_config(size) if layout == "deepseek" else _transformers_config(size)
    language = config["language_config" if layout == "deepseek" else "text_config"]
    if num_layers is not None:
        language["num_hidden_layers"] = num_layers
    _write_json(folder / "config.json", config)
    _write_processor(folder, layout)
    _write_tokenizer(folder, size, layout)
    _write_weights(
        folder, _specs(size, layout, language["num_hidden_layers"]), weights, shard_bytes
    )


def weight_bytes(size: Size, *, num_layers: int | None = None) -> int:
    """Bytes of such a checkpoint's tensors, to ask for room before writing it."""
    layers = (
        preset(f"janus-{size}").language.num_hidden_layers if num_layers is None else num_layers
    )
    return sum(2 * spec.numel for spec in _specs(size, "deepseek", layers))


def _deepseek_config(size: Size) -> dict[str, Any]:
    width, layers = _width_and_layers(size)

    def aligner(kind: str, input_size: int) -> dict[str, Any]:
        sizes = {"depth": 2, "input_dim": input_size, "n_embed": width}
        params = sizes | {"projector_type": "mlp_gelu"}
        return {"cls": "MlpProjector", "model_type": kind, "params": params}

    head = {"image_token_embed": width, "image_token_size": 16384, "n_embed": width}
    vision = {
        "image_size": 384,
        "model_name": "siglip_large_patch16_384",
        "select_feature": "same",
        "select_layer": -1,
    }
    return {
        "aligner_config": aligner("aligner", 1024),
        "architectures": ["MultiModalityCausalLM"],
        "gen_aligner_config": aligner("gen_aligner", 8),
        "gen_head_config": {"cls": "vision_head", "model_type": "gen_head", "params": head},
        "gen_vision_config": {
            "cls": "VQ-16",
            "model_type": "gen_vision",
            "params": {"image_token_size": 16384, "n_embed": 8},
        },
        "language_config": {
            "max_position_embeddings": 16384,
            "model_type": "llama",
            "num_hidden_layers": layers,
            "torch_dtype": "bfloat16",
            "vocab_size": 102400,
            **(LLAMA_1B if size == "pro-1b" else {}),
        },
        "model_type": "multi_modality",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1",
        "vision_config": {"cls": "CLIPVisionTower", "model_type": "vision", "params": vision},
    }


def _transformers_config(size: Size) -> dict[str, Any]:
    width, layers = _width_and_layers(size)
    return {
        "architectures": ["JanusForConditionalGeneration"],
        "image_token_id": IDS[size].image,
        "model_type": "janus",
        "text_config": {
            "max_position_embeddings": 16384,
            "model_type": "llama",
            "num_hidden_layers": layers,
            "torch_dtype": "bfloat16",
            "vocab_size": 102400,
            **(LLAMA_1B if size == "pro-1b" else {}),
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": {"model_type": "janus_vision_model", "projection_dim": width},
        "vq_config": {
            "image_token_embed_dim": width,
            "model_type": "janus_vqgan",
            "projection_dim": width,
        },
    }


def _width_and_layers(size: Size) -> tuple[int, int]:
    language = preset(f"janus-{size}").language
    return language.hidden_size, language.num_hidden_layers


def _write_processor(folder: Path, layout: Layout) -> None:
    pixels: dict[str, Any] = {
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "min_size": 14,
        "rescale_factor": 0.00392156862745098,
    }
    if layout == "deepseek":
        pixels |= {
            "background_color": [127, 127, 127],
            "image_processor_type": "VLMImageProcessor",
            "image_size": 384,
            "processor_class": "VLChatProcessor",
        }
        processor = {
            "add_special_token": False,
            "ignore_id": -100,
            "image_tag": "<image_placeholder>",
            "mask_prompt": True,
            "num_image_tokens": 576,
            "processor_class": "VLChatProcessor",
            "sft_format": "deepseek",
        }
    else:
        pixels |= {
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "JanusImageProcessor",
            "processor_class": "JanusProcessor",
            "resample": 3,
            "size": {"height": 384, "width": 384},
        }
        processor = {
            "num_image_tokens": 576,
            "processor_class": "JanusProcessor",
            "use_default_system_prompt": True,
        }
    _write_json(folder / "preprocessor_config.json", pixels)
    _write_json(folder / "processor_config.json", processor)


def _write_tokenizer(folder: Path, size: Size, layout: Layout) -> None:
    """Bytes, with the special tokens where a released vocabulary has them."""
    special = IDS[size].tokens()
    by_id = {i: token for token, i in special.items()}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {
        by_id.get(i, letters[i] if i < len(letters) else f"<unused_{i}>"): i
        for i in range(max(special.values()) + 1)
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    bos = by_id[100000]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, 100000)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names: dict[str, Any] = {
        "bos_token": bos,
        "eos_token": by_id[100001],
        "pad_token": by_id[IDS[size].pad],
    }
    settings = names | {"model_max_length": 16384, "tokenizer_class": "LlamaTokenizerFast"}
    if layout == "transformers":
        images = {
            "image_token": "<image_placeholder>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        }
        settings |= images | {"extra_special_tokens": images, "processor_class": "JanusProcessor"}
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        generation = {
            "bos_token_id": 100000,
            "eos_token_id": 100001,
            "generation_kwargs": {"boi_token_id": IDS[size].boi},
            "guidance_scale": 5,
            "pad_token_id": IDS[size].pad,
        }
        _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", names)


@dataclass(frozen=True, slots=True)
class _Spec:
    """A tensor that is not there yet."""

    name: str
    shape: tuple[int, ...]
    key: str
    """Our name of the tensor, which gives it its scale."""
    begin: int
    """Where in the noise it begins: the same for the same part of our model in every layout."""

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


def _specs(size: Size, layout: Layout, num_layers: int) -> list[_Spec]:
    """All tensors of a checkpoint, in the order of its files."""
    config = preset(f"janus-{size}")
    whole = build_model(config)
    table = deepseek.TABLE if layout == "deepseek" else transformers.TABLE
    specs = []
    for key, tensor in whole.state_dict().items():
        if key.startswith("language_model.model.layers.") and int(key.split(".")[3]) >= num_layers:
            continue
        names = table.names(key)
        shape = table.stored_shape(key, tuple(tensor.shape))
        numel = tensor.numel() // len(names)
        # A part of a fused tensor goes on where the part before it ends.
        begin = zlib.crc32(key.encode())
        specs += [_Spec(name, shape, key, begin + part * numel) for part, name in enumerate(names)]
    if layout == "deepseek":
        unused = {f"vision_model.vision_tower.attn_pool.{k}": shape for k, shape in POOLING.items()}
        unused["gen_vision_model.quantize.codebook_used"] = (65536,)
        specs += [_Spec(name, shape, name, 0) for name, shape in unused.items()]
    return specs


def _write_weights(folder: Path, specs: list[_Spec], weights: Weights, shard_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(NOISE_LENGTH, generator=generator)
    shards: list[list[_Spec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + 2 * spec.numel > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += 2 * spec.numel
    stem = "model" if weights == "safetensors" else "pytorch_model"
    whole = f"{stem}.{weights}"
    table: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.{weights}" if len(shards) > 1 else whole
        tensors = {spec.name: _fill(spec, noise) for spec in shard}
        if weights == "safetensors":
            save_file(tensors, folder / file, metadata={"format": "pt"})
        else:
            torch.save(tensors, folder / file)
        table |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        total = sum(2 * spec.numel for spec in specs)
        index = {"metadata": {"total_size": total}, "weight_map": table}
        _write_json(folder / f"{whole}.index.json", index)


def _fill(spec: _Spec, noise: Tensor) -> Tensor:
    """A tensor's weights: signals stay near 1, no bias or gain is at its neutral value."""
    flat = torch.empty(spec.numel, dtype=torch.bfloat16)
    scale, centre = 0.1, 0.0
    if spec.key.endswith(EMBEDDINGS):
        scale = 1.0
    elif len(spec.shape) > 1 and not spec.key.endswith("pos_embed"):
        scale = (spec.numel // spec.shape[0]) ** -0.5
    elif "norm" in spec.key and spec.key.endswith("weight"):
        centre = 1.0
    for start, piece in _pieces(spec.begin % NOISE_LENGTH, spec.numel, noise):
        flat[start : start + len(piece)] = (piece * scale).add_(centre)
    return flat.view(spec.shape)


def _pieces(begin: int, length: int, noise: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Where each piece goes, and the piece: the noise from a place on, again and again."""
    done = 0
    while done < length:
        piece = noise[(begin + done) % NOISE_LENGTH :][: length - done]
        yield done, piece
        done += len(piece)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Write the checkpoint that the options describe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=("pro-1b", "pro-7b"), default="pro-1b")
    parser.add_argument("--layout", choices=("deepseek", "transformers"), default="deepseek")
    parser.add_argument("--weights", choices=("safetensors", "bin"), default="safetensors")
    parser.add_argument("--layers", type=int)
    options = parser.parse_args()
    write_checkpoint(
        options.folder,
        size=options.size,
        layout=options.layout,
        weights=options.weights,
        num_layers=options.layers,
    )


if __name__ == "__main__":
    main()
