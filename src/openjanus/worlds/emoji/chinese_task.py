"""Drawing from Chinese prompts, which no drawing data ever had, beside the English ones.

Every cell is asked for in both languages with the same seeds, and one judge judges both by
GenEval's rules on the emoji world.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from openjanus.eval.geneval import TAGS
from openjanus.eval.stats import bootstrap_macro_interval
from openjanus.eval.task import Prediction, Request
from openjanus.pipeline import Janus
from openjanus.worlds.emoji.cells import evaluation_cells
from openjanus.worlds.emoji.chinese import chinese_prompt
from openjanus.worlds.emoji.judge import Judge
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.task import EmojiTask
from openjanus.worlds.emoji.task_scores import drawing_scores

LANGUAGES: Final = ("english", "chinese")


class ChineseDrawingTask(EmojiTask):
    """The drawing half of `EmojiTask`, in two languages.

    Args:
        drawings_per_tag: Drawings a tag and language at least; every cell gets equally many.
        guidance_scale: Of every drawing; None is the model's own.
        temperature: Of every drawing; None is the model's own.
        batch_size: Prompts at once.
        folder: Of the artwork; None takes the shipped sprites.
        sprites: The artwork itself, instead of a folder.
        referee: The judge; None is the one that ships with the package.

    Raises:
        ValueError: As `EmojiTask`.
        FileNotFoundError: No artwork or no judge.
    """

    rules = "GenEval rules on the emoji world, Chinese prompts beside English ones, v1"

    def __init__(
        self,
        *,
        drawings_per_tag: int = 400,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        batch_size: int = 16,
        folder: str | Path | None = None,
        sprites: Sprites | None = None,
        referee: Judge | None = None,
    ) -> None:
        super().__init__(
            drawings_per_tag=drawings_per_tag,
            guidance_scale=guidance_scale,
            temperature=temperature,
            batch_size=batch_size,
            folder=folder,
            sprites=sprites,
            referee=referee,
        )

    def settings(self, janus: Janus) -> dict[str, Any]:
        """Options on which a score depends, and which judge judges."""
        asked = ("drawings_per_tag", "drawing", "judge_sha256", "sprites_sha256")
        every = super().settings(janus)
        return {name: every[name] for name in asked} | {"languages": list(LANGUAGES)}

    def requests(self, *, limit: int | None, seed: int) -> list[Request]:
        """Every cell in English, then the same in Chinese.

        Args:
            limit: Drawings a tag and language, over its cells in order.
            seed: Of the drawings: those of a cell are alike in both languages.
        """
        cells = {f"drawing/{cell.name}": cell for tag in TAGS for cell in evaluation_cells(tag)}
        english = self._drawing_requests(limit, seed)
        made = []
        for place, language in enumerate(LANGUAGES):
            for request in english:
                data = request.data | {"index": request.data["index"] + place * len(english)}
                prompt = request.prompt
                if language == "chinese":
                    prompt = chinese_prompt(cells[request.key])
                made.append(
                    dataclasses.replace(
                        request,
                        key=f"{language}/{request.key}",
                        group=f"{request.group}/{language}",
                        prompt=prompt,
                        data=data,
                    )
                )
        return made

    def summarise(
        self, janus: Janus, predictions: Sequence[Prediction], folder: Path, *, seed: int
    ) -> dict[str, Any]:
        """Scores of both languages, and what Chinese loses, by cell."""
        by_language = {
            language: [p for p in predictions if p["key"].startswith(f"{language}/")]
            for language in LANGUAGES
        }
        for language, drawn in by_language.items():
            place = folder / language
            place.mkdir(exist_ok=True)
            files = [p | {"files": [f"../{name}" for name in p["files"]]} for p in drawn]
            self._write_sheet(files, place)
        return {
            "drawing": {
                language: drawing_scores(drawn, seed) for language, drawn in by_language.items()
            },
            "chinese_minus_english": _difference(by_language, seed),
            "details": {"single_object": "seen concepts"},
        }


def _difference(by_language: dict[str, list[Prediction]], seed: int) -> dict[str, Any]:
    """Mean difference of cells that both languages have, macro over tags, with its interval."""
    cells = {
        language: {p["key"].removeprefix(f"{language}/"): p for p in drawn}
        for language, drawn in by_language.items()
    }
    groups: dict[str, tuple[list[float], list[str]]] = {tag: ([], []) for tag in TAGS}
    for key, english in cells["english"].items():
        chinese = cells["chinese"].get(key)
        if chinese is None:
            continue
        values, names = groups[english["tag"]]
        for in_chinese, in_english in zip(chinese["correct"], english["correct"], strict=True):
            values.append(float(in_chinese) - float(in_english))
            names.append(english["cell"])
    groups = {tag: group for tag, group in groups.items() if group[0]}
    mean = sum(sum(values) / len(values) for values, _ in groups.values()) / len(groups)
    low, high = bootstrap_macro_interval(groups, seed=seed)
    return {"overall": round(mean, 4), "ci": [round(low, 4), round(high, 4)]}
