"""How good the judge is: balanced verdicts on pictures whose truth is known.

Each true request is put beside one that is minimally wrong: a thing replaced, the count off by
one, a colour swapped, the relation mirrored. A judge that says yes to everything scores one half.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from openjanus.eval.geneval import TAGS, judge
from openjanus.worlds.emoji.asked_scenes import scene_for_cell
from openjanus.worlds.emoji.captions import metadata_for_cell
from openjanus.worlds.emoji.cells import Cell, evaluation_cells
from openjanus.worlds.emoji.concepts import COLOURS
from openjanus.worlds.emoji.draws import pick
from openjanus.worlds.emoji.judge import Judge
from openjanus.worlds.emoji.judge_peaks import overlap
from openjanus.worlds.emoji.scenes import OPPOSITE, Scene, Tag, render
from openjanus.worlds.emoji.sprites import Sprites
from openjanus.worlds.emoji.vocabulary import WorldName, world

Redraw = Callable[[np.ndarray], np.ndarray]
"""uint8 (B, S, S, 3) pictures -> the same after the image tokenizer and back."""

SAME_THING: Final = 0.5
"""Intersection over union from which a find is the thing that is there."""
ACCEPTED: Final = 0.95
"""Balanced accuracy that every tag must reach for the judge to be trusted."""
CHUNK: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A scene with one request that it fulfils and one that it just fails."""

    scene: Scene
    right: dict[str, Any]
    wrong: dict[str, Any]


def trials(tag: Tag, n: int, seed: int, sprites: Sprites) -> list[Trial]:
    """Scenes of the cells that drawing is judged on, in turn, with their two requests.

    Trial i of a tag is a function of (seed, i) and the sprites alone.
    """
    name = sprites.world.name
    cells = evaluation_cells(tag, name)
    made = []
    for i in range(n):
        rng = np.random.default_rng([seed, i, TAGS.index(tag)])
        cell = cells[i % len(cells)]
        scene = scene_for_cell(cell, rng, sprites)
        wrong = metadata_for_cell(minimally_wrong(cell, rng, name))
        made.append(Trial(scene=scene, right=metadata_for_cell(cell), wrong=wrong))
    return made


def minimally_wrong(cell: Cell, rng: np.random.Generator, name: WorldName = "v0") -> Cell:
    """A cell that differs from another of its world in one respect, that which its tag is about."""
    known = world(name)
    match cell.tag:
        case "counting":
            counts = [n for n in (cell.count - 1, cell.count + 1) if n <= known.max_count]
            return dataclasses.replace(cell, count=pick(rng, counts))
        case "colors":
            others = [colour for colour in COLOURS if colour != cell.colours[0]]
            return dataclasses.replace(cell, colours=(pick(rng, others),))
        case "color_attr":
            return dataclasses.replace(cell, colours=cell.colours[::-1])
        case "position":
            assert cell.relation is not None
            return dataclasses.replace(cell, relation=OPPOSITE[cell.relation])
        case _:
            shown = set(cell.concepts)
            shown.update(other for x in cell.concepts for other in known.also_shown.get(x, ()))
            concepts = list(cell.concepts)
            absent = [concept for concept in known.concepts if concept not in shown]
            concepts[int(rng.integers(len(concepts)))] = pick(rng, absent)
            return dataclasses.replace(cell, concepts=tuple(concepts))


@dataclass(frozen=True, kw_only=True, slots=True)
class TagMeasure:
    """The judge's figures in one tag, 0 to 1."""

    balanced_accuracy: float
    false_rejections: float
    """Share of true requests that it calls wrong."""
    false_acceptances: float
    """Share of minimally wrong requests that it calls right."""
    n: int
    """Pictures; each is judged twice."""

    @property
    def acceptance(self) -> float:
        """Share of true requests that it calls right: the ceiling for whoever draws."""
        return 1 - self.false_rejections


def measure(
    referee: Judge,
    sprites: Sprites,
    *,
    size: int,
    per_tag: int,
    seed: int,
    redraw: Redraw | None = None,
) -> dict[str, TagMeasure]:
    """Measure balanced verdicts in each tag.

    Args:
        referee: The judge.
        sprites: The artwork.
        size: Side of the pictures in pixels.
        per_tag: Pictures a tag.
        seed: Of the scenes; not one that the judge was trained on.
        redraw: None shows the renders themselves, else what comes back.

    Raises:
        ValueError: `per_tag` below 1.
    """
    if per_tag < 1:
        raise ValueError(f"a measurement needs at least 1 picture a tag, got {per_tag}")
    measured = {}
    for tag in TAGS:
        made = trials(tag, per_tag, seed, sprites)
        pictures = redrawn([render(trial.scene, size, sprites) for trial in made], redraw)
        found = referee.look(pictures)
        pairs = list(zip(found, made, strict=True))
        rejected = sum(not judge(things, trial.right).correct for things, trial in pairs)
        accepted = sum(judge(things, trial.wrong).correct for things, trial in pairs)
        measured[tag] = TagMeasure(
            balanced_accuracy=1 - (rejected + accepted) / (2 * per_tag),
            false_rejections=rejected / per_tag,
            false_acceptances=accepted / per_tag,
            n=per_tag,
        )
    return measured


def redrawn(pictures: Sequence[np.ndarray], redraw: Redraw | None) -> list[np.ndarray]:
    """Pictures after the image tokenizer and back, some at a time; as they are without one."""
    if redraw is None:
        return list(pictures)
    shown: list[np.ndarray] = []
    for start in range(0, len(pictures), CHUNK):
        shown += list(redraw(np.stack(pictures[start : start + CHUNK])))
    return shown


def as_record(measured: dict[str, TagMeasure]) -> dict[str, dict[str, float]]:
    """Measures as plain data, rounded to four places."""
    return {
        tag: {name: round(value, 4) for name, value in dataclasses.asdict(values).items()}
        for tag, values in measured.items()
    }


def matched(boxes: np.ndarray, concepts: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Which finds are right: of the right concept, in the place of a thing not yet found.

    Args:
        boxes: (n, 4) of the finds, the surest first.
        concepts: (n,) indices of their concepts.
        scene: What is there.

    Returns:
        (n,) index of each find's thing or -1, and (n,) the overlap with it (0 without).
    """
    names = tuple(world(scene.world).concepts)
    owners = np.full(len(boxes), -1)
    overlaps = np.zeros(len(boxes))
    for i, (box, concept) in enumerate(zip(boxes, concepts, strict=True)):
        for j, thing in enumerate(scene.objects):
            if j in owners or thing.concept != names[int(concept)]:
                continue
            shared = overlap(box, np.asarray(thing.box))
            if shared >= SAME_THING and shared > overlaps[i]:
                owners[i], overlaps[i] = j, shared
    return owners, overlaps
