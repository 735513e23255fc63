"""How transformers answers: the port's own classes, opened on the kit's folder of its layout.

The only module that imports transformers; nothing imports this one but the command that needs it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from openjanus.conformance.checkpoint import CONFIG, VARIANT
from openjanus.conformance.lessons import IGNORED
from openjanus.conformance.parts import loss_answers, weight_answers
from openjanus.conformance.pictures import pattern
from openjanus.conformance.vectors import Answers, Inputs

try:
    import transformers
    from transformers import AutoProcessor, JanusForConditionalGeneration, LlamaConfig
    from transformers.image_utils import load_image
    from transformers.utils import logging
except ImportError as error:
    raise ImportError(
        f"checking against transformers needs one that has Janus ({error}): "
        "pip install 'transformers>=5'"
    ) from error

LAYOUT = "transformers"

KNOWN: Mapping[str, str] = {
    "resize": "it takes round(side * (S / longest)), the authors int(side / longest * S): "
    "one pixel more for some sizes",
    "picture_depths": "it drops alpha instead of laying it over white, and clips 16 bits to 8 "
    "instead of scaling them",
    "vq_ids": "it looks for the nearest row without normalising z and the codebook: its ids are "
    "the authors' where all rows have norm 1",
    "unguided_ids": "at guidance_scale <= 1 it doubles the batch and does not halve it again",
}

ABSENT: Mapping[str, str] = {
    "weights_deepseek": "it opens its own layout alone",
    "training_ids": "it makes no training ids and labels of dialogues",
    "gen_pixels": "it has no preprocessing of what is to be drawn",
}

_COMPOSED = "it has no loss of codebook ids: made here of its parts"

NOTES: Mapping[str, str] = {
    "pixels": "from vqmodel.decode: its postprocess with Pillow cannot take the (S, S, 3) of "
    "decode_image_tokens",
    "loss_gen": _COMPOSED,
    "loss_mixed": _COMPOSED,
}

PREFIXES = {
    "language_model": ("lm_head.", "model.language_model."),
    "und_encoder": ("model.vision_model.",),
    "und_aligner": ("model.aligner.",),
    "gen_embed": ("model.generation_embeddings.",),
    "gen_aligner": ("model.generation_aligner.",),
    "gen_head": ("model.generation_head.",),
    "vq": ("model.vqmodel.",),
}
"""Our parts by the names of their parameters."""


class TransformersSubject:
    """The installed transformers.

    Args:
        folder: Of the kit.
    """

    name = "transformers"
    known = KNOWN
    absent = ABSENT
    notes = NOTES
    errors: tuple[type[Exception], ...] = (
        *(RuntimeError, ValueError, TypeError, AttributeError, LookupError),
    )

    def __init__(self, folder: Path) -> None:
        self.versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        with _quiet():
            # Its classes are made on the fly, so their types say nothing.
            self.model: Any = JanusForConditionalGeneration.from_pretrained(
                folder / LAYOUT, dtype=torch.float32
            )
            self.processors: dict[str, Any] = {
                kind: AutoProcessor.from_pretrained(place / LAYOUT, backend="pil")
                for kind, place in (("main", folder), (VARIANT, folder / VARIANT))
            }
        self.model.eval()

    def knows(self, vector: str) -> bool:
        """Whether it has an answer, or a word on why there is none."""
        return vector in _ANSWERS or vector in self.absent

    def answer(self, vector: str, inputs: Inputs) -> Answers:
        """What comes out of a vector's inputs; raises whatever transformers raises."""
        with _quiet():
            return _ANSWERS[vector](self, inputs)

    @property
    def processor(self) -> Any:
        """Of the checkpoint itself."""
        return self.processors["main"]

    @property
    def vq(self) -> Any:
        """The generation tokenizer."""
        return self.model.model.vqmodel


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice: a report says what matters."""
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _by_part(model: Any, *, gradients: bool = False) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        part = next(part for part, starts in PREFIXES.items() if name.startswith(starts))
        tensor = parameter.grad if gradients else parameter
        if tensor is not None:
            found.setdefault(part, []).append(tensor)
    return found


def _weights(subject: TransformersSubject, inputs: Inputs) -> Answers:
    return weight_answers(inputs["parts"], _by_part(subject.model))


# words


def _config_defaults(subject: TransformersSubject, inputs: Inputs) -> Answers:
    answers: dict[str, str | int | float] = {}
    for name, section in inputs["language_configs"].items():
        config = LlamaConfig(**section)
        rope: Any = config.rope_parameters
        values = {**config.to_dict(), "rope_theta": rope["rope_theta"]}
        answers |= {f"{name}.{field}": values[field] for field in inputs["fields"]}
    return answers


def _special_ids(subject: TransformersSubject, inputs: Inputs) -> Answers:
    to_id = subject.processor.tokenizer.convert_tokens_to_ids
    return {name: to_id(token) for name, token in inputs["tokens"].items()}


def _render(processor: Any, case: Mapping[str, Any], system: str) -> str:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": turn["role"], "content": turn["text"]} for turn in case["turns"]]
    is_open = messages[-1] == {"role": "assistant", "content": ""}
    return processor.apply_chat_template(
        messages[:-1] if is_open else messages, add_generation_prompt=is_open
    )


def _templates(subject: TransformersSubject, inputs: Inputs) -> Answers:
    return {
        case["name"]: _render(subject.processors[case["processor"]], case, case["system"])
        for case in inputs["cases"]
    }


def _prompt_ids(subject: TransformersSubject, inputs: Inputs) -> Answers:
    answers: dict[str, Tensor] = {}
    for case in inputs["cases"]:
        is_gen = case["task"] == "gen"
        turns = [*case["turns"], {"role": "assistant", "text": ""}]
        text = _render(subject.processor, {"turns": turns}, system="")
        size = CONFIG.und_image_size
        images = [Image.new("RGB", (size, size))] * case["num_images"]
        asked = subject.processor(
            text=text,
            images=images if images else None,
            generation_mode="image" if is_gen else "text",
            return_tensors="pt",
        )
        answers[case["name"]] = asked["input_ids"][0]
    return answers


def _uncond_ids(subject: TransformersSubject, inputs: Inputs) -> Answers:
    seen: list[Tensor] = []
    table = subject.model.get_input_embeddings()
    hook = table.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    try:
        _draw(subject, inputs["prompt_ids"], guidance_scale=5.0)
    finally:
        hook.remove()
    return {"uncond_ids": seen[0][1]}  # its batch is the prompt and what it leads away from


# pictures


def _pictures_of(inputs: Inputs) -> dict[str, Image.Image]:
    return {
        case["name"]: Image.fromarray(pattern(case["index"], case["width"], case["height"]))
        for case in inputs["cases"]
    }


def _resize(subject: TransformersSubject, inputs: Inputs) -> Answers:
    answers: dict[str, str] = {}
    for name, picture in _pictures_of(inputs).items():
        done = subject.processor.image_processor(
            picture,
            size={"height": inputs["size"], "width": inputs["size"]},
            do_rescale=False,
            do_normalize=False,
            return_tensors="pt",
        )
        square = done["pixel_values"][0].to(torch.uint8).permute(1, 2, 0).contiguous()
        answers[name] = hashlib.sha256(square.numpy().tobytes()).hexdigest()
    return answers


def _und_pixels(subject: TransformersSubject, inputs: Inputs) -> Answers:
    return {
        f"{kind}.{name}": processor.image_processor(picture, return_tensors="pt")["pixel_values"][0]
        for kind, processor in subject.processors.items()
        for name, picture in _pictures_of(inputs).items()
    }


def _opened(subject: TransformersSubject, inputs: Inputs) -> Answers:
    answers: dict[str, Tensor] = {}
    for name, file in inputs.items():
        with Image.open(io.BytesIO(file.numpy().tobytes())) as picture:
            answers[name] = torch.from_numpy(np.array(load_image(picture)))
    return answers


# understanding


@torch.no_grad()
def _siglip_features(subject: TransformersSubject, inputs: Inputs) -> Answers:
    found = subject.model.model.vision_model(inputs["pixel_values"])
    return {"features": found.last_hidden_state}


@torch.no_grad()
def _und_aligner(subject: TransformersSubject, inputs: Inputs) -> Answers:
    return {"embeddings": subject.model.model.aligner(inputs["features"])}


@torch.no_grad()
def _und_logits(subject: TransformersSubject, inputs: Inputs) -> Answers:
    mask = inputs["attention_mask"]
    found = subject.model(
        input_ids=inputs["input_ids"],
        pixel_values=inputs["pixel_values"],
        attention_mask=mask.long(),
    )
    return {"logits": found.logits[mask]}


def _answer_ids(subject: TransformersSubject, inputs: Inputs) -> Answers:
    input_ids = inputs["input_ids"][None]
    found = subject.model.generate(
        input_ids,
        pixel_values=inputs["pixel_values"],
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=inputs["max_new_tokens"],
        do_sample=False,
    )
    return {"answer_ids": found[0, input_ids.shape[1] :]}


# generation


@torch.no_grad()
def _vq_latents(subject: TransformersSubject, inputs: Inputs) -> Answers:
    return {"latents": subject.vq.quant_conv(subject.vq.encoder(inputs["pixel_values"]))}


@torch.no_grad()
def _vq_ids(subject: TransformersSubject, inputs: Inputs) -> Answers:
    pixel_values = inputs["pixel_values"]
    ids = subject.vq.encode(pixel_values, return_dict=True).image_tokens
    return {"image_ids": ids.view(len(pixel_values), -1)}


@torch.no_grad()
def _vq_pixels(subject: TransformersSubject, inputs: Inputs) -> Answers:
    return {"pixel_values": subject.vq.decode(inputs["image_ids"]).clamp(-1, 1)}


@torch.no_grad()
def _pixels(subject: TransformersSubject, inputs: Inputs) -> Answers:
    decoded = subject.vq.decode(inputs["image_ids"])
    done = subject.processor.postprocess(list(decoded), return_tensors="PIL.Image.Image")
    pictures = [np.array(picture) for picture in done["pixel_values"]]
    return {"pictures": torch.from_numpy(np.stack(pictures))}


@torch.no_grad()
def _gen_embed(subject: TransformersSubject, inputs: Inputs) -> Answers:
    embed = subject.model.prepare_embeddings_for_image_generation
    return {"embeddings": embed(inputs["image_ids"])}


@torch.no_grad()
def _gen_logits(subject: TransformersSubject, inputs: Inputs) -> Answers:
    model, image_ids = subject.model, inputs["image_ids"]
    fed_in = model.prepare_embeddings_for_image_generation(image_ids[None, :-1])
    answers: dict[str, Tensor] = {}
    for row in ("prompt", "uncond"):
        words = model.get_input_embeddings()(inputs[f"{row}_ids"][None])
        embeds = torch.cat([words, fed_in], dim=1)
        hidden_states = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        answers[row] = model.model.generation_head(hidden_states[0, -len(image_ids) :])
    return answers


def _draw(subject: TransformersSubject, prompt_ids: Tensor, guidance_scale: float) -> Tensor:
    """(N,) ids of the likeliest picture."""
    input_ids = prompt_ids[None]
    found = subject.model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        generation_mode="image",
        guidance_scale=guidance_scale,
        do_sample=False,
    )
    return found[0]


def _drawn_ids(subject: TransformersSubject, inputs: Inputs) -> Answers:
    prompts = [inputs[f"prompt_ids_{row}"] for row in range(len(inputs["prompts"]))]
    return {
        "image_ids": torch.stack([_draw(subject, ids, inputs["guidance_scale"]) for ids in prompts])
    }


# training


def _text_loss(subject: TransformersSubject, inputs: Inputs) -> Tensor:
    return subject.model(
        input_ids=inputs["input_ids"],
        pixel_values=inputs.get("pixel_values"),
        attention_mask=inputs["attention_mask"].long(),
        labels=inputs["labels"],
    ).loss


def _mixed_loss(subject: TransformersSubject, inputs: Inputs) -> Tensor:
    model, gen_slots = subject.model, inputs["gen_slots"]
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    filled: Sequence[tuple[Tensor, Tensor]] = [
        (gen_slots, model.prepare_embeddings_for_image_generation(inputs["image_ids"]))
    ]
    if "pixel_values" in inputs:
        features = model.model.get_image_features(inputs["pixel_values"]).pooler_output
        slots = (inputs["input_ids"] == model.config.image_token_id) & ~gen_slots
        filled = [*filled, (slots, features)]
    for mask, values in filled:
        embeds = embeds.masked_scatter(mask[..., None], values.reshape(-1, embeds.shape[-1]))
    hidden_states = model.model.language_model(
        inputs_embeds=embeds, attention_mask=inputs["attention_mask"].long()
    ).last_hidden_state[:, :-1]
    labels, drawn = inputs["labels"][:, 1:], gen_slots[:, 1:]
    told = labels != IGNORED
    total = F.cross_entropy(
        model.model.generation_head(hidden_states[drawn]),
        inputs["image_ids"].flatten(),
        reduction="sum",
    )
    if told.any():
        logits = model.lm_head(hidden_states[told])
        total = total + F.cross_entropy(logits, labels[told], reduction="sum")
    return total / (told.sum() + drawn.sum())


def _loss(
    compute: Callable[[TransformersSubject, Inputs], Tensor],
) -> Callable[[TransformersSubject, Inputs], Answers]:
    def answer(subject: TransformersSubject, inputs: Inputs) -> Answers:
        model = subject.model
        model.zero_grad(set_to_none=True)
        loss = compute(subject, inputs)
        loss.backward()
        answers = loss_answers(inputs["parts"], loss, _by_part(model, gradients=True))
        model.zero_grad(set_to_none=True)
        return answers

    return answer


_ANSWERS: Mapping[str, Callable[[TransformersSubject, Inputs], Answers]] = {
    "weights_transformers": _weights,
    "config_defaults": _config_defaults,
    "special_ids": _special_ids,
    "templates": _templates,
    "prompt_ids": _prompt_ids,
    "uncond_ids": _uncond_ids,
    "resize": _resize,
    "und_pixels": _und_pixels,
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
    "loss_text": _loss(_text_loss),
    "loss_und": _loss(_text_loss),
    "loss_gen": _loss(_mixed_loss),
    "loss_mixed": _loss(_mixed_loss),
}
