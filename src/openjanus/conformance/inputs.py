"""What a kit asks. Whatever ends in ids is chosen so that no rounding can turn one into another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.config import UND_SYSTEM_PROMPT
from openjanus.conformance.checkpoint import VARIANT
from openjanus.conformance.lessons import IGNORED, encode, lesson, to_inputs
from openjanus.conformance.openjanus import OpenjanusSubject, draw_greedily, image_logits
from openjanus.conformance.parts import PARTS, TRAINED_PARTS
from openjanus.conformance.pictures import PATTERN_RULE, depth_files, mode_files
from openjanus.conformance.vectors import Inputs
from openjanus.engine.sampling import guide
from openjanus.processor.chat import IMAGE_MARK, Turn

LEAST_MARGIN = 0.02
"""Between the first and the second logit of every greedy step: a hundred times what fp32 rounds."""
LEAST_DISTANCE = 1e-3
"""Between the nearest and the next row of the codebook, in squared distance."""

GUIDANCE_SCALE = 5.0
ANSWER_LENGTH = 8
NUM_DRAWN = 2
CANDIDATES = 64

RESIZE_SIZE = 384
"""The released models' picture side: the trap shows at some sizes alone."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who makes the inputs: the checkpoint, opened, and a source of noise."""

    subject: OpenjanusSubject
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise."""
        return torch.randn(shape, generator=self.generator)

    def ids(self, *shape: int) -> Tensor:
        """Codebook ids."""
        high = self.subject.janus.config.codebook_size
        return torch.randint(high, shape, generator=self.generator)

    def picture(self, size: int) -> Tensor:
        """(3, S, S) in [-1, 1]: broad shades under noise, reaching both ends."""
        shades = F.interpolate(self.normal(1, 3, 4, 4), size, mode="bilinear")[0]
        return (shades + 0.3 * self.normal(3, size, size)).clamp(-1, 1)

    def picture_uint8(self) -> np.ndarray:
        """(S, S, 3) of the understanding encoder's side, which no resizing changes."""
        size = self.subject.janus.config.und_image_size
        values = ((self.picture(size) + 1) / 2 * 255).to(torch.uint8)
        return values.permute(1, 2, 0).contiguous().numpy()


def _too_close(what: str) -> ValueError:
    return ValueError(
        f"this seed makes a model of which {what} is too close to call: give another --seed"
    )


def _weights(asker: Asker) -> Inputs:
    return {"parts": list(PARTS)}


# words


def _config_defaults(asker: Asker) -> Inputs:
    own = {"model_type": "llama", "torch_dtype": "bfloat16", "max_position_embeddings": 16384}
    return {
        "language_configs": {
            "1b": own
            | {
                "hidden_size": 2048,
                "intermediate_size": 5632,
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "num_key_value_heads": 16,
                "vocab_size": 102400,
            },
            "7b": own | {"num_hidden_layers": 30, "vocab_size": 102400},
        },
        "fields": [
            *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("num_key_value_heads", "vocab_size", "rms_norm_eps", "rope_theta"),
            "max_position_embeddings",
        ],
    }


def _special_ids(asker: Asker) -> Inputs:
    names = asker.subject.janus.config.processor
    kinds = ("bos", "eos", "pad", "boi", "eoi")
    tokens = {kind: getattr(names, f"{kind}_token") for kind in kinds}
    return {"tokens": tokens | {"image_pad": names.image_token}}


def _turns(*texts: str) -> list[dict[str, str]]:
    """What the user and the assistant say in turn."""
    return [
        {"role": "assistant" if number % 2 else "user", "text": text}
        for number, text in enumerate(texts)
    ]


_ASK = f"{IMAGE_MARK}\nWhat is it?"
_TWO = f"{IMAGE_MARK} is the first.\n{IMAGE_MARK} is the second.\nWhich is brighter?"

_DIALOGUES: Mapping[str, tuple[str, list[dict[str, str]]]] = {
    "draw": ("", _turns("  a photo of a cat ", "")),
    "ask_one_image": (UND_SYSTEM_PROMPT, _turns(_ASK, "")),
    "two_images": (UND_SYSTEM_PROMPT, _turns(_TWO, "")),
    "two_turns": (UND_SYSTEM_PROMPT, _turns(_ASK, "A cat.", "What colour?", "")),
    "text_only": (UND_SYSTEM_PROMPT, _turns("Hello", "")),
    "finished_answer": (UND_SYSTEM_PROMPT, _turns(_ASK, "A cat.")),
    "no_system_two_turns": ("", _turns("Hi", "Hello.", "Draw?", "")),
}
"""By name: the system prompt and the turns; an empty last one is where the model goes on."""


def _templates(asker: Asker) -> Inputs:
    return {
        "cases": [
            {"name": f"{kind}.{name}", "processor": kind, "system": system, "turns": turns}
            for kind in asker.subject.processors
            for name, (system, turns) in _DIALOGUES.items()
        ],
        "processors": {"main": "roles of Janus-Pro", VARIANT: "roles of Janus-1.3B"},
    }


def _prompt_ids(asker: Asker) -> Inputs:
    drawn = ("a photo of a cat", "the cat on the photo of a cat")
    told = (("one_image", _ASK), ("two_images", _TWO), ("no_image", "What is the time?"))
    asked = [
        {"name": name, "task": "und", "turns": _turns(text), "num_images": text.count(IMAGE_MARK)}
        for name, text in told
    ]
    drawings = [
        {"name": f"draw_{number}", "task": "gen", "turns": _turns(text), "num_images": 0}
        for number, text in enumerate(drawn)
    ]
    return {"cases": asked + drawings, "system": UND_SYSTEM_PROMPT}


def _uncond_ids(asker: Asker) -> Inputs:
    prompt = asker.subject.janus.processor.gen_prompt("a photo of the cat")
    return {"prompt_ids": torch.tensor(prompt)}


_CAPTION = "a photo of a cat"


def _training_ids(asker: Asker) -> Inputs:
    ask = [("user", _ASK), ("assistant", "A cat."), ("user", "What?"), ("assistant", "It is.")]
    return {
        "cases": [
            lesson("answers_alone", "und", ask),
            lesson("all_words", "und", ask, mask_prompt=False),
            lesson("chat", "text", [("user", "Hello"), ("assistant", " Hi there. ")]),
            lesson("plain", "und", [("assistant", IMAGE_MARK + _CAPTION)], form="plain"),
            lesson("draw", "gen", [("user", _CAPTION)]),
            lesson("draw_plain", "gen", [("user", _CAPTION)], form="plain"),
            lesson("draw_dropped", "gen", [("user", _CAPTION)], drop_condition=True),
        ]
    }


# pictures


def _cases(*sizes: tuple[int, int, int]) -> Inputs:
    cases = [
        {"name": f"{width}x{height}", "index": index, "width": width, "height": height}
        for index, width, height in sizes
    ]
    return {"rule": PATTERN_RULE, "cases": cases}


def _resize(asker: Asker) -> Inputs:
    cases = _cases(
        *((0, 384, 384), (1, 385, 704), (2, 704, 385), (3, 14, 14), (4, 1, 900), (13, 118, 36)),
        *((28, 125, 429), (32, 25, 943), (63, 123, 95), (94, 121, 588), (98, 269, 173)),
    )
    return {**cases, "size": RESIZE_SIZE, "hash": "sha256 of the padded uint8 (S, S, 3) bytes"}


def _und_pixels(asker: Asker) -> Inputs:
    # Sizes at which int and round agree: what else can go wrong is to be seen by itself.
    return _cases((1, 36, 24), (2, 32, 32), (3, 48, 24), (4, 5, 30), (5, 32, 23))


def _gen_pixels(asker: Asker) -> Inputs:
    # Whole factors: nobody has published how other sizes are to be rounded.
    return _cases((1, 16, 16), (2, 32, 16), (3, 16, 48), (4, 64, 32), (5, 48, 96))


def _picture_modes(asker: Asker) -> Inputs:
    return mode_files(asker.generator)


def _picture_depths(asker: Asker) -> Inputs:
    return depth_files(asker.generator)


# understanding


def _siglip_features(asker: Asker) -> Inputs:
    size = asker.subject.janus.config.und_image_size
    return {"pixel_values": torch.stack([asker.picture(size) for _ in range(2)])}


def _und_aligner(asker: Asker) -> Inputs:
    width = asker.subject.model.und_encoder.output_size
    assert isinstance(width, int)
    return {"features": asker.normal(2, 5, width)}


def _und_logits(asker: Asker) -> Inputs:
    processor = asker.subject.janus.processor
    texts = (_ASK, f"{IMAGE_MARK}\nWhat is on the photo, and what is in the cat?")
    images = [asker.picture_uint8() for _ in texts]
    prompts = [
        processor.und_prompt([Turn(role="user", text=text)], [image], system="")
        for text, image in zip(texts, images, strict=True)
    ]
    longest = max(len(prompt.input_ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), processor.tokenizer.pad_id)
    for row, prompt in enumerate(prompts):
        input_ids[row, -len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
    return {
        "input_ids": input_ids,
        "attention_mask": input_ids != processor.tokenizer.pad_id,
        "pixel_values": processor.und_pixels(images),
        "order": "logits of the real tokens, row by row: (P, V)",
    }


def _answer_ids(asker: Asker) -> Inputs:
    """A question whose answer has no near rival and is another one about another picture."""
    janus = asker.subject.janus
    processor = janus.processor
    for question in _questions():
        picture, other = asker.picture_uint8(), asker.picture_uint8()
        reply, about_other = (
            janus.chat(question, images=[image], system="", max_new_tokens=ANSWER_LENGTH)
            for image in (picture, other)
        )
        turn = Turn(role="user", text=f"{IMAGE_MARK}\n{question}")
        prompt = processor.und_prompt([turn], [picture], system="")
        margin = _least_gap(_text_logits(asker, prompt.input_ids, prompt.images, reply.token_ids))
        matters = reply.token_ids[0] != about_other.token_ids[0]
        if matters and reply.finish_reason == "length" and margin >= LEAST_MARGIN:
            return {
                "question": question,
                "system": "",
                "picture": torch.from_numpy(picture),
                "max_new_tokens": ANSWER_LENGTH,
                "input_ids": torch.tensor(prompt.input_ids),
                "pixel_values": prompt.images,
                "least_margin": margin,
            }
    raise _too_close("every answer")


def _questions() -> list[str]:
    return [f"What is {i}?" for i in range(CANDIDATES)]


@torch.no_grad()
def _text_logits(
    asker: Asker, prompt_ids: tuple[int, ...], images: Tensor | None, answer_ids: tuple[int, ...]
) -> Tensor:
    """(A, V) logits of every id of an answer."""
    model, tokenizer = asker.subject.model, asker.subject.janus.processor.tokenizer
    assert images is not None
    input_ids = torch.tensor([*prompt_ids, *answer_ids[:-1]])[None]
    slots = input_ids == tokenizer.image_pad_id
    slots[:, len(prompt_ids) :] = False  # a model of noise may say anything
    embeds = model.embed_sequence(input_ids, {"und": (slots, model.embed_und(images))})
    hidden_states = model.language_model.model(embeds)
    return model.text_logits(hidden_states[0, -len(answer_ids) :])


def _least_gap(logits: Tensor) -> float:
    """How far the largest logit is from the next, where it is least."""
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return round(float((first - second).min()), 4)


# generation


def _vq_latents(asker: Asker) -> Inputs:
    size = asker.subject.janus.config.gen_image_size
    return {"pixel_values": torch.stack([asker.picture(size) for _ in range(2)])}


@torch.no_grad()
def _vq_ids(asker: Asker) -> Inputs:
    vq, size = asker.subject.vq, asker.subject.janus.config.gen_image_size
    codebook = vq.quantize.normalised_codebook()
    chosen: list[Tensor] = []
    for _ in range(CANDIDATES):
        picture = asker.picture(size)
        z = vq.encode_to_vectors(picture[None]).flatten(2).transpose(1, 2)[0]  # (N, d)
        distances = 2 - 2 * F.normalize(z, dim=-1) @ codebook.T
        if _least_gap(-distances) >= LEAST_DISTANCE:
            chosen.append(picture)
        if len(chosen) == NUM_DRAWN:
            return {"pixel_values": torch.stack(chosen), "least_distance": LEAST_DISTANCE}
    raise _too_close("the nearest row of the codebook")


def _some_ids(asker: Asker) -> Inputs:
    return {"image_ids": asker.ids(2, asker.subject.janus.config.num_gen_image_tokens)}


def _gen_logits(asker: Asker) -> Inputs:
    processor = asker.subject.janus.processor
    prompt = processor.gen_prompt("the photo of a cat")
    return {
        "prompt_ids": torch.tensor(prompt),
        "uncond_ids": torch.tensor(processor.uncond_prompt(len(prompt))),
        "image_ids": asker.ids(asker.subject.janus.config.num_gen_image_tokens),
    }


def _drawn(guidance_scale: float) -> Callable[[Asker], Inputs]:
    """Prompts whose likeliest pictures have no near rivals, and many ids."""

    def ask(asker: Asker) -> Inputs:
        janus = asker.subject.janus
        inputs: dict[str, Any] = {"prompts": [], "guidance_scale": guidance_scale}
        margins: list[float] = []
        for number in range(CANDIDATES):
            prompt = f"a photo of {number} cats{' in the house' * (number % 2)}"
            prompt_ids = torch.tensor(janus.processor.gen_prompt(prompt))
            uncond_ids = torch.tensor(janus.processor.uncond_prompt(len(prompt_ids)))
            image_ids = draw_greedily(janus, [prompt], guidance_scale)[0]
            cond, uncond = (
                image_logits(asker.subject.model, ids, image_ids)
                for ids in (prompt_ids, uncond_ids)
            )
            scale = torch.full((len(image_ids),), guidance_scale)
            margin = _least_gap(guide(cond, uncond, scale))
            if margin < LEAST_MARGIN or len(image_ids.unique()) < len(image_ids) / 2:
                continue
            row = len(margins)
            margins.append(margin)
            inputs["prompts"].append(prompt)
            inputs |= {f"prompt_ids_{row}": prompt_ids, f"uncond_ids_{row}": uncond_ids}
            if len(margins) == NUM_DRAWN:
                return inputs | {"least_margins": margins}
        raise _too_close("every drawing")

    return ask


# training


_LESSONS: tuple[dict[str, Any], ...] = (
    lesson("text_0", "text", [("user", "What is the time?"), ("assistant", "It is one.")]),
    lesson(
        "text_1",
        "text",
        [
            ("user", "Hi"),
            ("assistant", "Hello."),
            ("user", "And?"),
            ("assistant", "The cat is on the photo."),
        ],
    ),
    lesson("und_0", "und", [("user", _ASK), ("assistant", "A cat.")]),
    lesson("und_1", "und", [("assistant", IMAGE_MARK + _CAPTION)], form="plain"),
    lesson("gen_0", "gen", [("user", "a photo of a cat")]),
    lesson("gen_1", "gen", [("user", "the house on the photo")]),
)


def _loss(task: str) -> Callable[[Asker], Inputs]:
    def ask(asker: Asker) -> Inputs:
        processor = asker.subject.janus.processor
        samples = []
        for case in _LESSONS:
            if task not in ("mixed", case["kind"]):
                continue
            marks = sum(turn["text"].count(IMAGE_MARK) for turn in case["turns"])
            images = [asker.picture_uint8() for _ in range(marks)]
            is_gen = case["kind"] == "gen"
            ids = asker.ids(processor.config.num_gen_image_tokens) if is_gen else None
            samples.append(encode(processor, case, images, None if ids is None else ids.numpy()))
        told = {
            "parts": list(TRAINED_PARTS),
            "ignored_label": IGNORED,
            "image_pad_id": processor.tokenizer.image_pad_id,
        }
        return {**told, **to_inputs(samples, processor)}

    return ask


INPUTS: Mapping[str, Callable[[Asker], Inputs]] = {
    "config_defaults": _config_defaults,
    "special_ids": _special_ids,
    "templates": _templates,
    "prompt_ids": _prompt_ids,
    "uncond_ids": _uncond_ids,
    "training_ids": _training_ids,
    "resize": _resize,
    "und_pixels": _und_pixels,
    "gen_pixels": _gen_pixels,
    "picture_modes": _picture_modes,
    "picture_depths": _picture_depths,
    "siglip_features": _siglip_features,
    "und_aligner": _und_aligner,
    "und_logits": _und_logits,
    "answer_ids": _answer_ids,
    "vq_latents": _vq_latents,
    "vq_ids": _vq_ids,
    "vq_pixels": _some_ids,
    "pixels": _some_ids,
    "gen_embed": _some_ids,
    "gen_logits": _gen_logits,
    "guided_ids": _drawn(GUIDANCE_SCALE),
    "unguided_ids": _drawn(1.0),
    **{f"loss_{task}": _loss(task) for task in ("text", "und", "gen", "mixed")},
    "weights_deepseek": _weights,
    "weights_transformers": _weights,
}
"""By vector: who makes its inputs."""
