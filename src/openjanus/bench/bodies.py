"""What the requests of a load ask: words and pictures that follow from a number."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from openjanus.bench.arrivals import Arrival, LoadOptions

CHAT_PATH = "/chat/completions"
DRAW_PATH = "/images/generations"
PICTURES = 16
"""Different ones; they are made once."""
SIDE = 256
CELLS = 8

QUESTIONS = (
    "What can you draw?",
    "Tell me about an apple.",
    "What is a cat?",
    "Which colour has the sky?",
    "Name three animals that can swim.",
    "How are you today?",
)
LOOKS = (
    "What is in the picture?",
    "Which colours do you see?",
    "How many things are there?",
    "Describe the picture in one sentence.",
)
DRAWINGS = (
    "a photo of a red car",
    "a photo of three apples",
    "a photo of a dog left of a cat",
    "a photo of a blue cup",
    "a photo of two clocks",
    "a photo of a green tree and a bird",
)


def body_of(arrival: Arrival, options: LoadOptions, model: str | None) -> tuple[str, Any]:
    """Path below ``/v1`` and body of a request.

    Args:
        arrival: Which.
        options: Of its load.
        model: As clients call it; None leaves it out.
    """
    body: dict[str, Any] = {} if model is None else {"model": model}
    number = arrival.content
    if arrival.kind in ("draw", "stream-draw"):
        body |= {"prompt": DRAWINGS[number % len(DRAWINGS)], "response_format": "b64_json"}
        if arrival.kind == "stream-draw":
            body |= {"stream": True, "partial_images": 2}
        return DRAW_PATH, body
    content: Any = QUESTIONS[number % len(QUESTIONS)]
    if arrival.kind == "vision":
        url = {"url": _picture(number // len(LOOKS) % PICTURES)}
        content = [
            {"type": "image_url", "image_url": url},
            {"type": "text", "text": LOOKS[number % len(LOOKS)]},
        ]
    body |= {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": options.max_new_tokens,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return CHAT_PATH, body


@lru_cache(PICTURES)
def _picture(number: int) -> str:
    """Squares of many colours, as a data: address of a PNG."""
    rng = np.random.Generator(np.random.Philox(key=number))
    cells = rng.integers(0, 256, (CELLS, CELLS, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
