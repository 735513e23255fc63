"""The wide world's task, with a figure of its own: it is not the emoji task made larger.

Questions are of held-out scenes of the wide world, counts go to six, and names are one of some five
hundred. Drawing is asked for only beside a judge of the wide world, which has to be trained
(`python -m openjanus.worlds.emoji.judge_training --world wide`): none ships.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openjanus.worlds.emoji.cells import Cell, evaluation_cells
from openjanus.worlds.emoji.indexed import read_artwork
from openjanus.worlds.emoji.judge import Judge
from openjanus.worlds.emoji.scenes import Tag
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.task import EmojiTask


class EmojiWideTask(EmojiTask):
    """Understanding of the wide emoji world, and drawing where a judge is given.

    Args:
        judge: Folder of a judge of the wide world; None leaves drawing out.
        drawings_per_tag: Drawings a tag: of the first so many cells of the tag's lot, each once;
            of all, as often as reaches the number, where the lot is smaller.
        folder: Of the artwork; None is where `data fetch emoji --wide` put it.

    Everything else is as in `EmojiTask`.

    Raises:
        FileNotFoundError: No artwork, or no judge in the folder.
        ValueError: As `EmojiTask`; or artwork or a judge of another world.
    """

    rules = "GenEval rules on the wide emoji world, v1; exact match, v1"

    def __init__(
        self,
        *,
        judge: str | Path | None = None,
        drawings_per_tag: int = 400,
        questions: int = 1000,
        judge_scenes: int = 200,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        batch_size: int = 16,
        folder: str | Path | None = None,
        sprites: Sprites | None = None,
        referee: Judge | None = None,
    ) -> None:
        if folder is not None and sprites is not None:
            raise ValueError("the task takes a folder or sprites, got both: leave one out")
        if judge is not None and referee is not None:
            raise ValueError("the task takes a judge's folder or a judge, got both: leave one out")
        shown = read_artwork(folder, "wide") if sprites is None else sprites
        super().__init__(
            drawings_per_tag=drawings_per_tag,
            questions=questions,
            judge_scenes=judge_scenes,
            guidance_scale=guidance_scale,
            temperature=temperature,
            batch_size=batch_size,
            sprites=shown,
            referee=Judge.load(judge) if judge is not None else referee,
        )

    def default_judge(self) -> Judge | None:
        """None: no judge of the wide world ships."""
        return None

    def cells(self, tag: Tag) -> Sequence[Cell]:
        """The first cells of the tag's lot."""
        return evaluation_cells(tag, "wide")[: self.drawings_per_tag]
