"""How openjanus answers: through ``load`` and whatever a caller would use on top of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import openjanus
from openjanus.conformance.checkpoint import CONFIG, VARIANT
from openjanus.conformance.lessons import encode_lesson, to_batch
from openjanus.conformance.parts import loss_answers, weight_answers
from openjanus.conformance.pictures import pattern
from openjanus.conformance.vectors import Answers, Inputs
from openjanus.model.attention import padding_causal_mask
from openjanus.model.janus import JanusModel
from openjanus.model.vq import VQTokenizer
from openjanus.pipeline import Janus, load
from openjanus.processor.chat import Turn, render
from openjanus.processor.image import open_image, pad_to_square
from openjanus.processor.prompt import Processor
from openjanus.train.losses import compute_losses
from openjanus.weights.formats import open_checkpoint
from openjanus.weights.llama import parse_llama


class OpenjanusSubject:
    """This package, with the kit's checkpoint from the authors' layout.

    Args:
        folder: Of the kit.

    Raises:
        FileNotFoundError: A file of the checkpoint is missing.
        ValueError: A file is broken.
        KeyError: The tokenizer lacks a special token.
    """

    name = "openjanus"
    known: Mapping[str, str] = {}
    absent: Mapping[str, str] = {}
    notes: Mapping[str, str] = {}
    errors: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path) -> None:
        self.versions = {"openjanus": openjanus.__version__, "torch": torch.__version__}
        self.folder = folder
        self.janus = load(folder / "deepseek", device="cpu", dtype="float32")
        self.model: JanusModel = self.janus.model
        variant = open_checkpoint(folder / VARIANT / "deepseek")
        self.processors = {
            "main": self.janus.processor,
            VARIANT: Processor(variant.config, variant.tokenizer),
        }

    def knows(self, vector: str) -> bool:
        """Whether it has an answer."""
        return vector in _ANSWERS

    def answer(self, vector: str, inputs: Inputs) -> Answers:
        """What comes out of a vector's inputs."""
        return _ANSWERS[vector](self, inputs)

    @property
    def vq(self) -> VQTokenizer:
        """The generation tokenizer, of the kind that a kit has."""
        assert isinstance(self.model.vq, VQTokenizer)
        return self.model.vq


def _by_part(model: JanusModel, *, gradients: bool = False) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        tensor = parameter.grad if gradients else parameter
        if tensor is not None:
            found.setdefault(name.partition(".")[0], []).append(tensor)
    return found


def _weights_deepseek(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return weight_answers(inputs["parts"], _by_part(subject.model))  # which come from there


def _weights_transformers(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    checkpoint = open_checkpoint(subject.folder / "transformers")
    model = checkpoint.load(device="cpu", dtype=torch.float32)
    return weight_answers(inputs["parts"], _by_part(model))


# words


def _config_defaults(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    answers: dict[str, str | int | float] = {}
    for name, section in inputs["language_configs"].items():
        config = parse_llama(section, name)
        answers |= {f"{name}.{field}": getattr(config, field) for field in inputs["fields"]}
    return answers


def _special_ids(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    tokenizer = subject.janus.processor.tokenizer
    return {name: getattr(tokenizer, f"{name}_id") for name in inputs["tokens"]}


def turns_of(case: Mapping[str, Any]) -> list[Turn]:
    """The turns of a case of ``templates`` or ``prompt_ids``."""
    return [Turn(role=turn["role"], text=turn["text"]) for turn in case["turns"]]


def _templates(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {
        case["name"]: render(
            turns_of(case),
            config=subject.processors[case["processor"]].config.processor,
            system=case["system"],
        )
        for case in inputs["cases"]
    }


def _prompt_ids(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    processor = subject.janus.processor
    answers: dict[str, Tensor] = {}
    for case in inputs["cases"]:
        if case["task"] == "gen":
            ids = processor.gen_prompt(case["turns"][0]["text"])
        else:
            size = CONFIG.und_image_size
            images = [Image.new("RGB", (size, size))] * case["num_images"]
            ids = processor.und_prompt(turns_of(case), images).input_ids
        answers[case["name"]] = torch.tensor(ids)
    return answers


def _uncond_ids(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    ids = subject.janus.processor.drop_condition(inputs["prompt_ids"].tolist())
    return {"uncond_ids": torch.tensor(ids)}


def _training_ids(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    answers: dict[str, Tensor] = {}
    for case in inputs["cases"]:
        answers |= {
            f"{case['name']}.{key}": value
            for key, value in encode_lesson(subject.janus.processor, case).items()
        }
    return answers


# pictures


def _resize(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    config = subject.janus.config.processor
    answers: dict[str, str] = {}
    for case in inputs["cases"]:
        picture = Image.fromarray(pattern(case["index"], case["width"], case["height"]))
        square = np.asarray(pad_to_square(picture, inputs["size"], config))
        answers[case["name"]] = hashlib.sha256(square.tobytes()).hexdigest()
    return answers


def _pictures_of(inputs: Inputs) -> dict[str, np.ndarray]:
    """Pictures given by the rule of ``pattern``."""
    return {
        case["name"]: pattern(case["index"], case["width"], case["height"])
        for case in inputs["cases"]
    }


def _und_pixels(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {
        f"{kind}.{name}": processor.und_pixels([picture])[0]
        for kind, processor in subject.processors.items()
        for name, picture in _pictures_of(inputs).items()
    }


def _gen_pixels(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    gen_pixels = subject.janus.processor.gen_pixels
    return {name: gen_pixels([picture])[0] for name, picture in _pictures_of(inputs).items()}


def _opened(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {
        name: torch.from_numpy(np.array(open_image(file.numpy().tobytes())))
        for name, file in inputs.items()
    }


# understanding


@torch.no_grad()
def _siglip_features(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {"features": subject.model.und_encoder(inputs["pixel_values"])}


@torch.no_grad()
def _und_aligner(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {"embeddings": subject.model.und_aligner(inputs["features"])}


@torch.no_grad()
def _und_logits(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    model, mask = subject.model, inputs["attention_mask"]
    slots = inputs["input_ids"] == subject.janus.processor.tokenizer.image_pad_id
    embeds = model.embed_sequence(
        inputs["input_ids"], {"und": (slots, model.embed_und(inputs["pixel_values"]))}
    )
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    hidden_states = model.language_model.model(
        embeds, positions=positions, mask=padding_causal_mask(mask)
    )
    return {"logits": model.text_logits(hidden_states[mask])}  # (P, V), real tokens alone


def _answer_ids(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    reply = subject.janus.chat(
        inputs["question"],
        images=[inputs["picture"].numpy()],
        system=inputs["system"],
        max_new_tokens=inputs["max_new_tokens"],
    )
    return {"answer_ids": torch.tensor(reply.token_ids)}


# generation


@torch.no_grad()
def _vq_latents(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {"latents": subject.vq.encode_to_vectors(inputs["pixel_values"])}


@torch.no_grad()
def _vq_ids(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {"image_ids": subject.vq.encode_to_ids(inputs["pixel_values"])}


@torch.no_grad()
def _vq_pixels(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {"pixel_values": subject.vq.decode_ids(inputs["image_ids"])}


def _pixels(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    pictures = [np.array(subject.janus.decode_image(ids)) for ids in inputs["image_ids"]]
    return {"pictures": torch.from_numpy(np.stack(pictures))}


@torch.no_grad()
def _gen_embed(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {"embeddings": subject.model.embed_gen(inputs["image_ids"])}


@torch.no_grad()
def _gen_logits(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    return {
        row: image_logits(subject.model, inputs[f"{row}_ids"], inputs["image_ids"])
        for row in ("prompt", "uncond")
    }


@torch.no_grad()
def image_logits(model: JanusModel, prompt_ids: Tensor, image_ids: Tensor) -> Tensor:
    """Logits of every id of a picture, from one pass.

    Args:
        model: The model.
        prompt_ids: (T,) text ids, BOI last.
        image_ids: (N,) codebook ids.

    Returns:
        (N, C).
    """
    fed_in = model.embed_gen(image_ids[None, :-1])
    embeds = torch.cat([model.embed_text(prompt_ids[None]), fed_in], dim=1)
    hidden_states = model.language_model.model(embeds)
    return model.image_logits(hidden_states[0, -len(image_ids) :])


def draw_greedily(janus: Janus, prompts: Sequence[str], guidance_scale: float) -> Tensor:
    """(P, N) codebook ids of the likeliest pictures of P prompts."""
    drawings = janus.draw_batch(prompts, seed=0, temperature=0.0, guidance_scale=guidance_scale)
    return torch.cat([drawing.image_ids for drawing in drawings])


def _drawn_ids(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    scale = inputs["guidance_scale"]
    return {"image_ids": draw_greedily(subject.janus, inputs["prompts"], scale)}


# training


def _loss(subject: OpenjanusSubject, inputs: Inputs) -> Answers:
    model = subject.model
    model.zero_grad(set_to_none=True)
    loss = compute_losses(model, to_batch(inputs, subject.janus.processor)).total
    loss.backward()
    answers = loss_answers(inputs["parts"], loss, _by_part(model, gradients=True))
    model.zero_grad(set_to_none=True)
    return answers


_ANSWERS: Mapping[str, Callable[[OpenjanusSubject, Inputs], Answers]] = {
    "config_defaults": _config_defaults,
    "special_ids": _special_ids,
    "templates": _templates,
    "prompt_ids": _prompt_ids,
    "uncond_ids": _uncond_ids,
    "training_ids": _training_ids,
    "resize": _resize,
    "und_pixels": _und_pixels,
    "gen_pixels": _gen_pixels,
    "picture_modes": _opened,
    "picture_depths": _opened,
    "siglip_features": _siglip_features,
    "und_aligner": _und_aligner,
    "und_logits": _und_logits,
    "answer_ids": _answer_ids,
    "vq_latents": _vq_latents,
    "vq_ids": _vq_ids,
    "vq_pixels": _vq_pixels,
    "pixels": _pixels,
    "gen_embed": _gen_embed,
    "gen_logits": _gen_logits,
    "guided_ids": _drawn_ids,
    "unguided_ids": _drawn_ids,
    **{f"loss_{task}": _loss for task in ("text", "und", "gen", "mixed")},
    "weights_deepseek": _weights_deepseek,
    "weights_transformers": _weights_transformers,
}
