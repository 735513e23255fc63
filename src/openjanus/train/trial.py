"""What a model can do in the middle of its training: drawings and answers at fixed seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from openjanus.data.encoding import encode_sample
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, Sample, Turn
from openjanus.engine.engine import Engine, EngineOptions
from openjanus.engine.request import ChatRequest, DrawRequest, FailedEvent, FinishedEvent, Request
from openjanus.model.doors import ImageTokenizer
from openjanus.model.janus import JanusModel
from openjanus.processor.image import crop_to_square, sheet
from openjanus.processor.prompt import Processor

SEED = 0
MAX_NEW_TOKENS = 64
COLUMNS = 8


def write_trial(
    model: JanusModel, processor: Processor, samples: Sequence[Sample], folder: Path, step: int
) -> None:
    """Let the model do what samples ask, in their own form.

    A document that draws asks for its first picture to draw, by the words before it.

    Writes ``step-NNNNNNNN.png``, the wanted pictures above the drawn ones, and ``.txt``, what was
    asked, wanted and written. What cannot be asked, as it is too long, is named there instead.

    Args:
        model: In any stage of training.
        processor: Of the model.
        samples: What is asked; targets and last answers are shown beside what comes.
        folder: Made when missing.
        step: Optimizer steps done, for the names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = EngineOptions(compile="off")  # weights are tried out once
    engine = Engine(model, image_pad_id=processor.tokenizer.image_pad_id, options=options)
    lines: list[str] = []
    asked: list[tuple[Sample, Request]] = []
    for sample in samples:
        try:
            request = _request(sample, processor)
            engine.check(request)
        except ValueError as error:  # as in training: named, and no reason to stop
            lines.append(f"{sample.key}: left out: {error}")
        else:
            asked.append((sample, request))
    results = _run(engine, [request for _, request in asked])
    above: list[Image.Image] = []
    below: list[Image.Image] = []
    side = model.config.gen_image_size
    for (sample, _), ids in zip(asked, results, strict=True):
        said = " | ".join(turn.text for turn in _asked(sample)).replace("\n", " ")
        if sample.kind == "gen":
            above.append(_wanted(sample, side))
            below += _decode(model, processor, ids)
            lines.append(f"{sample.key}: draw: {said}{_left_out(sample)}")
        else:
            answer = processor.tokenizer.decode(ids)
            lines.append(f"{sample.key}: {said} -> {answer.strip()!r}")
    (folder / f"step-{step:08d}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if above:
        rows: list[Image.Image] = []
        for start in range(0, len(above), COLUMNS):
            rows += [*above[start : start + COLUMNS], *below[start : start + COLUMNS]]
        columns = min(COLUMNS, len(above))
        sheet(rows, columns=columns).save(folder / f"step-{step:08d}.png")


def _request(sample: Sample, processor: Processor) -> Request:
    tokenizer = processor.tokenizer
    if sample.kind == "gen":
        prompt = _drawing_prompt(sample, processor)
        return DrawRequest(
            prompt_ids=prompt,
            uncond_ids=processor.uncond_prompt(len(prompt)),
            seed=SEED,
            guidance_scale=processor.config.drawing.guidance_scale,
            temperature=processor.config.drawing.temperature,
        )
    seen = sample.images
    if sample.form == "plain":
        ids, mask = processor.training_plain("".join(turn.text for turn in sample.turns))
        # What follows the first picture; plain text from its first word given.
        begin = ids.index(tokenizer.image_pad_id) if seen else 0
        first = mask.index(True, begin) + (0 if seen else 1)
        ids = tuple(ids[:first])
        seen = seen[: ids.count(tokenizer.image_pad_id) // processor.config.num_und_image_tokens]
    else:
        asked = sample.turns[:1]
        seen = seen[: asked[0].text.count(IMAGE_MARK)]  # others stand in later questions
        ids = processor.und_prompt(asked, seen, system=sample.system).input_ids
    images = processor.und_pixels(seen) if seen else None
    return ChatRequest(
        input_ids=ids, images=images, max_new_tokens=MAX_NEW_TOKENS, stop_ids=(tokenizer.eos_id,)
    )


def _asked(sample: Sample) -> tuple[Turn, ...]:
    """What a sample asks; of a document that draws, what comes before its first drawing.

    A drawing request holds no pictures, so those to understand are left out of it.
    """
    if not sample.targets:
        return sample.turns
    if sample.form == "chat":
        first = next(n for n, turn in enumerate(sample.turns) if DRAW_MARK in turn.text)
        texts = [turn.text.partition(DRAW_MARK)[0] for turn in sample.turns[: first + 1]]
    else:
        texts = ["".join(turn.text for turn in sample.turns).partition(DRAW_MARK)[0]]
    return tuple(
        Turn(role=turn.role, text=text.replace(IMAGE_MARK, ""))
        for turn, text in zip(sample.turns, texts, strict=False)
    )


def _left_out(sample: Sample) -> str:
    before = "".join(turn.text for turn in sample.turns).partition(DRAW_MARK)[0]
    number = before.count(IMAGE_MARK) if sample.targets else 0
    return f" (pictures before it that were left out: {number})" if number > 0 else ""


def _drawing_prompt(sample: Sample, processor: Processor) -> tuple[int, ...]:
    if sample.targets and sample.form == "chat":  # the template, then the answer until it draws
        words = tuple(
            replace(turn, text=turn.text.replace(IMAGE_MARK, "")) for turn in sample.turns
        )
        blind = replace(sample, turns=words, images=())
        encoded = encode_sample(blind, processor, max_length=sys.maxsize)
        return encoded.input_ids[: encoded.gen_starts[0]]
    (turn,) = _asked(sample)
    if not sample.targets:
        plain = sample.form == "plain"
        return (processor.gen_plain_prompt if plain else processor.gen_prompt)(turn.text)
    tokenizer = processor.tokenizer  # as trained: blanks at its ends stay, and it may be empty
    return (tokenizer.bos_id, *tokenizer.encode(turn.text), tokenizer.boi_id)


def _run(engine: Engine, requests: Sequence[Request]) -> list[tuple[int, ...]]:
    """Ids of each request, in order."""
    places = {engine.add(request): place for place, request in enumerate(requests)}
    results: list[tuple[int, ...]] = [() for _ in requests]
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, FinishedEvent):
                results[places[event.request_id]] = event.ids
            elif isinstance(event, FailedEvent):
                raise event.error
    return results


@torch.no_grad()
def _decode(model: JanusModel, processor: Processor, ids: tuple[int, ...]) -> list[Image.Image]:
    assert isinstance(model.vq, ImageTokenizer)
    device = model.language_model.model.embed_tokens.weight.device
    return processor.decode_picture(model.vq.decode_ids(torch.tensor([ids], device=device)))


def _wanted(sample: Sample, side: int) -> Image.Image:
    target = sample.targets[0] if sample.targets else sample.target
    assert target is not None
    if target.ndim == 1:  # ids alone are known
        return Image.new("RGB", (side, side), (128, 128, 128))
    return crop_to_square(Image.fromarray(target), side)
