"""The public surface, written down: a change of it is deliberate, and has a CHANGELOG line."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import openjanus

DRAW = (
    "*, n: int = 1, seed: int | None = None, "
    "guidance_scale: float | Sequence[float] | None = None, "
    "temperature: float | None = None, top_k: int | None = None, top_p: float | None = None, "
    "negative_prompt: str | None = None, prefix_ids: Tensor | Sequence[int] | None = None"
)
BEST = "best_of: int = 1, judge_question: JudgeQuestion | None = None"
DRAW_BATCH = DRAW.replace("seed: int |", "seed: int | Sequence[int] |")
CHAT = (
    "system: str | None = None, max_new_tokens: int = 512, temperature: float = 0.0, "
    "top_k: int | None = None, top_p: float | None = None, stop: str | Sequence[str] = (), "
    "seed: int | None = None"
)
IMAGES = "images: Sequence[ImageLike] = ()"
COMPOSE = (
    "system: str | None = None, form: Form = chat, max_new_tokens: int = 512, max_images: int = 4, "
    "temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None, "
    "guidance_scale: float | None = None, "
    "image_temperature: float | None = None, image_top_k: int | None = None, "
    "image_top_p: float | None = None, seed: int | None = None"
)

SIGNATURES = {
    "draw": (
        f"(self, prompt: str, {DRAW}, {BEST}, on_progress: OnProgress | None = None) -> Drawing"
    ),
    "draw_batch": (f"(self, prompts: Sequence[str], {DRAW_BATCH}, {BEST}) -> list[Drawing]"),
    "draw_stream": (
        f"(self, prompt: str, {DRAW}, partial_images: int | None = None)"
        " -> Iterator[PartialDrawing]"
    ),
    "chat": f"(self, messages: Messages, *, {IMAGES}, {CHAT}) -> Reply",
    "chat_batch": f"(self, conversations: Sequence[Messages], *, {CHAT}) -> list[Reply]",
    "chat_stream": f"(self, messages: Messages, *, {IMAGES}, {CHAT}) -> Iterator[Piece]",
    "compose": f"(self, messages: Messages, *, {IMAGES}, {COMPOSE}) -> Composition",
    "compose_stream": (
        f"(self, messages: Messages, *, {IMAGES}, {COMPOSE}) -> Iterator[ComposedPiece]"
    ),
    "encode_image": "(self, image: ImageLike) -> Tensor",
    "decode_image": "(self, image_ids: Tensor | Sequence[int]) -> Image.Image",
    "score": (
        f"(self, messages: Messages, answer: str, *, {IMAGES}, system: str | None = None) -> Tensor"
    ),
    "score_image": (
        "(self, prompt: str, image_ids: Tensor | Sequence[int], *, "
        "guidance_scale: float | None = None) -> Tensor"
    ),
    "save": "(self, folder: Path | str) -> None",
    "pack": "(self) -> int",
    "forget": "(self) -> None",
    "export": (
        "(self, folder: Path | str, format: str, *, max_shard_bytes: int = 5000000000) -> None"
    ),
}

FIELDS = {
    "ComposeOptions": [
        *("form", "system", "max_new_tokens", "max_images", "temperature", "top_k", "top_p"),
        *("guidance_scale", "image_temperature", "image_top_k", "image_top_p"),
    ],
    "ComposedImage": ["image", "image_ids"],
    "ComposedPiece": ["text", "image", "composition"],
    "Composition": ["parts", "token_ids", "finish_reason", "usage", "seed", "options"],
    "Candidates": ["checks", "scores", "chosen", "image_ids"],
    "Check": ["question", "right", "wrong"],
    "Drawing": ["images", "image_ids", "prompt", "seed", "options", "candidates"],
    "DrawOptions": [
        *("guidance_scale", "temperature", "top_k", "top_p", "negative_prompt", "prefix_ids"),
    ],
    "PartialDrawing": ["image_index", "image", "image_ids", "seed", "options", "is_complete"],
    "Reply": ["text", "token_ids", "finish_reason", "usage", "seed"],
    "Sample": ["key", "kind", "turns", "images", "target", "targets", "form", "system", "branched"],
    "Turn": ["role", "text"],
    "Usage": ["prompt_tokens", "completion_tokens"],
    "Piece": ["text", "reply"],
    "EngineOptions": [
        *("rows_per_page", "max_pages", "max_prefill_tokens", "prefill_chunk"),
        *("kept_prompt_tokens", "max_cache_bytes", "look_ahead", "prefix_cache_size"),
        "compile",
    ],
}


def signature(function: object) -> str:
    assert callable(function)
    return str(inspect.signature(function)).replace("'", "")


def test_names() -> None:
    assert openjanus.__all__ == [
        "Candidates",
        "Check",
        "ComposeOptions",
        "ComposedImage",
        "ComposedPiece",
        "Composition",
        "DrawOptions",
        "Drawing",
        "EngineOptions",
        "Janus",
        "JanusConfig",
        "JanusModel",
        "PartialDrawing",
        "Piece",
        "Reply",
        "Sample",
        "Turn",
        "Usage",
        "__version__",
        "build",
        "collate",
        "compute_losses",
        "encode_sample",
        "load",
    ]
    assert dir(openjanus) == openjanus.__all__
    for name in openjanus.__all__:
        assert getattr(openjanus, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Januss'"):
        getattr(openjanus, "Januss")


def test_functions() -> None:
    assert signature(openjanus.load) == (
        "(source: str | Path, *, device: torch.device | str = auto, "
        "dtype: torch.dtype | str = auto, revision: str | None = None, "
        "adapter: str | Path | None = None, "
        "quantize: str | QuantizationConfig | None = None, "
        "engine_options: EngineOptions | None = None) -> Janus"
    )
    assert signature(openjanus.build) == (
        "(config_or_preset: JanusConfig | str, *, device: torch.device | str = meta, "
        "dtype: torch.dtype | None = None) -> JanusModel"
    )
    assert signature(openjanus.collate) == (
        "(samples: Sequence[EncodedSample], processor: Processor, *, pack_length: int | None = "
        "None, row_sizes: Sequence[int] | None = None) -> Batch"
    )
    assert signature(openjanus.compute_losses) == (
        "(model: JanusModel, batch: Batch, *, decoder: Callable[..., Tensor] | None = None, "
        "encoder: Callable[[Tensor], Tensor] | None = None, num_supervised: float | None = None, "
        "isolation: Backend | None = None, within: Within | None = None, z_loss: float = 0.0, "
        "und_images: bool = False, weights: LossWeights = LossWeights(und=1.0, text=1.0, gen=1.0, "
        "und_image=1.0)) -> Losses"
    )
    assert signature(openjanus.encode_sample) == (
        "(sample: Sample, processor: Processor, *, max_length: int, mask_prompt: bool = True, "
        "drop_condition: bool = False, learn_image_start: bool = False, "
        "kept_picture: int = 0) -> EncodedSample"
    )


def test_methods() -> None:
    members = {name for name in vars(openjanus.Janus) if not name.startswith("_")}
    assert members == {*SIGNATURES, "config", "device"}
    for name, expected in SIGNATURES.items():
        assert signature(getattr(openjanus.Janus, name)) == expected


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    cls = getattr(openjanus, name)
    assert [field.name for field in dataclasses.fields(cls)] == FIELDS[name]
    assert cls.__dataclass_params__.frozen


def test_every_public_thing_is_documented() -> None:
    things = [getattr(openjanus, name) for name in openjanus.__all__ if name != "__version__"]
    things += [getattr(openjanus.Janus, name) for name in SIGNATURES]
    assert all((thing.__doc__ or "").strip() for thing in things)


def test_import_costs_nothing() -> None:
    code = (
        "import sys, openjanus; openjanus.__version__; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'PIL', 'tokenizers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_version() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    assert data["project"]["dynamic"] == ["version"]
    assert data["tool"]["hatch"]["version"]["path"] == "src/openjanus/__init__.py"
