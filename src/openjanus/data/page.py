"""A page of samples as the model sees them: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from itertools import groupby

from PIL import Image

from openjanus.data.encoding import EncodedSample, encode_sample
from openjanus.data.samples import Sample
from openjanus.processor.image import crop_to_square, pad_to_square
from openjanus.processor.prompt import Processor

NO_LIMIT = 2**31

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }
section { border-top: 1px solid #ccc; padding: 1em 0 }
h2 { font-size: 1em; margin: 0 } h2 small { color: #666; font-weight: normal }
figure { display: inline-block; margin: .5em 1em .5em 0 } img { border: 1px solid #ccc }
figcaption { color: #666; font-size: .85em }
.tokens { font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere }
.tokens span { border-radius: 2px; box-shadow: 0 0 0 1px #fff }
.read { background: #eee } .learnt { background: #b7e4b0 }
.und { background: #bcd7f5 } .gen { background: #f8cf9c } .pad { background: #ddd; color: #777 }
.bad { color: #a00 }
"""

_LEGEND = (
    '<p class="tokens"><span class="read">read</span> <span class="learnt">learnt</span> '
    '<span class="und">picture understood</span> <span class="gen">picture drawn: its ids are '
    'learnt</span> <span class="pad">pad</span></p>'
)


def sample_page(
    samples: Sequence[Sample | str],
    processor: Processor,
    *,
    title: str,
    mask_prompt: bool = True,
    drop_condition: bool = False,
    learn_image_start: bool = False,
) -> str:
    """Samples as HTML.

    Args:
        samples: Each a sample, or what is wrong with it.
        processor: Its tokens and preprocessing are shown.
        title: Of the page.
        mask_prompt: As in training.
        drop_condition: Show drawings with their prompts hidden, as guidance is trained; of a
            document its first picture.
        learn_image_start: As in training.
    """
    parts = [
        _section(sample, processor, mask_prompt, drop_condition, learn_image_start)
        if isinstance(sample, Sample)
        else f'<section><p class="bad">{html.escape(sample)}</p></section>'
        for sample in samples
    ]
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        f"<style>{_STYLE}</style></head><body>\n<h1>{name}</h1>\n{_LEGEND}\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _section(
    sample: Sample,
    processor: Processor,
    mask_prompt: bool,
    drop_condition: bool,
    learn_image_start: bool,
) -> str:
    try:
        encoded = encode_sample(
            sample,
            processor,
            max_length=NO_LIMIT,
            mask_prompt=mask_prompt,
            drop_condition=drop_condition and sample.kind == "gen",
            learn_image_start=learn_image_start,
        )
    except ValueError as error:
        return f'<section><p class="bad">{html.escape(str(error))}</p></section>'
    config = processor.config
    figures = [
        _figure(
            pad_to_square(Image.fromarray(image), config.und_image_size, config.processor),
            f"understood, from {image.shape[1]} x {image.shape[0]}",
        )
        for image in encoded.images
    ]
    for _, target in encoded.drawings:
        if target is not None and target.ndim == 3:
            picture = crop_to_square(Image.fromarray(target), config.gen_image_size)
            size = f"{target.shape[1]} x {target.shape[0]}"
            figures.append(_figure(picture, f"drawn, from {size}"))
    num_ids = config.num_gen_image_tokens * len(encoded.drawings)
    learnt = sum(encoded.loss_mask) + num_ids
    return (
        f"<section><h2>{html.escape(sample.key)} <small>{sample.kind}, {sample.form}, "
        f"{len(encoded.input_ids)} tokens, {learnt} learnt</small></h2>\n"
        f'{"".join(figures)}\n<p class="tokens">{_tokens(encoded, processor)}</p></section>'
    )


def _figure(picture: Image.Image, caption: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="" width="{picture.width}" height="{picture.height}" '
        f'src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}, as '
        f"{picture.width} x {picture.height}</figcaption></figure>"
    )


def _tokens(encoded: EncodedSample, processor: Processor) -> str:
    """Tokens in runs: words one by one, slots and pads as one box with their number."""
    tokenizer = processor.tokenizer
    num_ids = processor.config.num_gen_image_tokens
    drawn = {at + n: at for at, _ in encoded.drawings for n in range(num_ids)}

    def what(place: int) -> tuple[str, int]:
        if place in drawn:
            return "gen", drawn[place]
        if encoded.input_ids[place] == tokenizer.image_pad_id:
            return "und", 0
        if encoded.input_ids[place] == tokenizer.pad_id:
            return "pad", 0
        return ("learnt" if encoded.loss_mask[place] else "read"), 0

    spans: list[str] = []
    for (name, _), places in groupby(range(len(encoded.input_ids)), what):
        run = list(places)
        if name in ("gen", "und", "pad"):
            unit = {"gen": "ids", "und": "slots", "pad": "pads"}[name]
            spans.append(f'<span class="{name}">[{len(run)} {unit}]</span>')
            continue
        # A character may be of several tokens: a run is decoded as a whole where they disagree.
        words = [tokenizer.decode([encoded.input_ids[p]], skip_special=False) for p in run]
        whole = tokenizer.decode([encoded.input_ids[p] for p in run], skip_special=False)
        if "".join(words) != whole:
            words = [whole]
        spans += [f'<span class="{name}">{html.escape(word)}</span>' for word in words]
    return "".join(spans)
