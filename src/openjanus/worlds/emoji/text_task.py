"""The text task: how surprised a model is by words that it was never trained on.

Captions and told questions are of held-out scenes; glosses and dialogues are the held-out ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from openjanus.data.collate import collate
from openjanus.data.encoding import encode_sample
from openjanus.eval.task import Prediction, Request
from openjanus.pipeline import Janus
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.text import PARTS, EmojiText, Part, Prose


class EmojiTextTask:
    """Perplexity of held-out words.

    Args:
        pieces: Pieces of text a part; dialogues are as many as there are, at most.
        parts: Which parts, of `PARTS`; glosses and dialogues need fetched prose.
        batch_size: Pieces at once.
        folder: Of the artwork and the prose; None takes the shipped and the default one.
        sprites: The artwork itself.
        prose: Held-out prose itself.

    Raises:
        ValueError: A count below 1, or an unknown part.
        FileNotFoundError: No artwork or no prose.
    """

    rules = "perplexity of supervised tokens on the emoji world, v2"

    def __init__(
        self,
        *,
        pieces: int = 1000,
        parts: Sequence[Part] = ("captions", "told", "glosses", "dialogues"),
        batch_size: int = 32,
        folder: str | Path | None = None,
        sprites: Sprites | None = None,
        prose: Prose | None = None,
    ) -> None:
        if min(pieces, batch_size) < 1:
            raise ValueError(
                f"pieces and batch_size must be at least 1, got {pieces} and {batch_size}"
            )
        unknown = [part for part in parts if part not in PARTS]
        if unknown or not parts:
            raise ValueError(f"parts must be some of {', '.join(PARTS)}, got {list(parts)}")
        self.pieces = pieces
        self.parts = tuple(parts)
        self.batch_size = batch_size
        self.folder, self.sprites, self.prose = folder, sprites, prose

    def settings(self, janus: Janus) -> dict[str, Any]:
        """Options on which the figures depend."""
        return {"pieces": self.pieces, "parts": list(self.parts), "split": "held_out"}

    def requests(self, *, limit: int | None, seed: int) -> list[Request]:
        """Different pieces of each part.

        Args:
            limit: Pieces a part at most.
            seed: Of the scenes and the choice.
        """
        wanted = self.pieces if limit is None else min(limit, self.pieces)
        return [request for part in self.parts for request in self._of_part(part, wanted, seed)]

    def _of_part(self, part: Part, wanted: int, seed: int) -> list[Request]:
        source = EmojiText(
            self.folder,
            sprites=self.sprites,
            seed=seed,
            split="held_out",
            parts={part: 1.0},
            prose=self.prose,
        )
        made: dict[str, Request] = {}
        for index in range(20 * wanted):  # the same words may come twice
            sample = source[index]
            words = " / ".join(turn.text for turn in sample.turns)
            made.setdefault(
                words, Request(key=f"{part}/{index}", group=part, prompt=words, data=sample)
            )
            if len(made) == wanted:
                break
        return list(made.values())

    def answer(self, janus: Janus, batch: Sequence[Request], folder: Path) -> list[Prediction]:
        """Surprise of each piece, in nats, over its supervised tokens."""
        model, processor = janus.model, janus.processor
        context = janus.config.language.max_position_embeddings
        samples = [encode_sample(request.data, processor, max_length=context) for request in batch]
        tensors = collate(samples, processor).to(janus.device)
        with torch.inference_mode():
            embeds = model.embed_sequence(tensors.input_ids, {})
            hidden = model.language_model.model(embeds, positions=tensors.positions)
            logits = model.text_logits(hidden.flatten(0, 1)[tensors.text_places]).float()
            surprises = F.cross_entropy(logits, tensors.text_targets, reduction="none")
        rows = tensors.text_places // tensors.input_ids.shape[1]
        return [
            {
                "key": request.key,
                "part": request.group,
                "tokens": int((rows == row).sum()),
                "nats": round(float(surprises[rows == row].double().sum()), 5),
            }
            for row, request in enumerate(batch)
        ]

    def summarise(
        self, janus: Janus, predictions: Sequence[Prediction], folder: Path, *, seed: int
    ) -> dict[str, Any]:
        """exp(nats a token) by part."""
        summary: dict[str, Any] = {"perplexity": {}, "tokens": {}, "n": {}}
        for part in self.parts:
            found = [p for p in predictions if p["part"] == part]
            tokens = sum(p["tokens"] for p in found)
            summary["perplexity"][part] = round(math.exp(sum(p["nats"] for p in found) / tokens), 3)
            summary["tokens"][part] = tokens
            summary["n"][part] = len(found)
        return summary
