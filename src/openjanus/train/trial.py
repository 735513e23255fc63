"""What a model can do in the middle of its training: drawings and answers at fixed seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from openjanus.data.samples import Sample
from openjanus.engine.engine import Engine
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

    Writes ``step-NNNNNNNN.png``, the wanted pictures above the drawn ones, and ``.txt``, what was
    asked, wanted and written.

    Args:
        model: In any stage of training.
        processor: Of the model.
        samples: What is asked; targets and last answers are shown beside what comes.
        folder: Made when missing.
        step: Optimizer steps done, for the names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = [sample for sample in samples if not sample.targets]  # a document asks for nothing
    results = _run(model, processor, [_request(sample, processor) for sample in samples])
    above: list[Image.Image] = []
    below: list[Image.Image] = []
    lines: list[str] = []
    side = model.config.gen_image_size
    for sample, ids in zip(samples, results, strict=True):
        said = " | ".join(turn.text.replace("\n", " ") for turn in sample.turns)
        if sample.kind == "gen":
            above.append(_wanted(sample, side))
            below += _decode(model, processor, ids)
            lines.append(f"{sample.key}: draw: {said}")
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
        text = sample.turns[0].text
        make = processor.gen_plain_prompt if sample.form == "plain" else processor.gen_prompt
        prompt = make(text)
        return DrawRequest(
            prompt_ids=prompt,
            uncond_ids=processor.uncond_prompt(len(prompt)),
            seed=SEED,
            guidance_scale=processor.config.drawing.guidance_scale,
            temperature=processor.config.drawing.temperature,
        )
    images = processor.und_pixels(sample.images) if sample.images else None
    if sample.form == "plain":
        ids, mask = processor.training_plain("".join(turn.text for turn in sample.turns))
        # A picture's caption from its first word on; plain text from its first word given.
        first = mask.index(True) + (0 if sample.images else 1)
        ids = tuple(ids[:first])
    else:
        prompt = processor.und_prompt(sample.turns[:1], sample.images)
        ids = prompt.input_ids
    return ChatRequest(
        input_ids=ids, images=images, max_new_tokens=MAX_NEW_TOKENS, stop_ids=(tokenizer.eos_id,)
    )


def _run(
    model: JanusModel, processor: Processor, requests: Sequence[Request]
) -> list[tuple[int, ...]]:
    """Ids of each request, in order."""
    engine = Engine(model, image_pad_id=processor.tokenizer.image_pad_id)
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
    assert sample.target is not None
    if sample.target.ndim == 1:  # ids alone are known
        return Image.new("RGB", (side, side), (128, 128, 128))
    return crop_to_square(Image.fromarray(sample.target), side)
