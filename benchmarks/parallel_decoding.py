"""What looking ahead saves a drawing, and whether its ids are those of one id at a time.

    python benchmarks/parallel_decoding.py [--prompts N] [--look-ahead W ...] [--guidance G ...]
        [--temperature T] [--model MODEL] [--dtype D] [--plain] [--threads N] [--seed S]
        [--output FILE] [--picture FILE]

Prompts are those of ``best_of.py``: held-out cells, as many of each of GenEval's six tags. Each is
drawn by itself, its weights packed, one id a step and with each W, in turn: all meet one machine.
`ours` and `theirs` are median seconds a drawing with look-ahead and one id a step, `ratio` the
median over the prompts of the quotients; `steps` are mean decode steps, `accepted` how often a step
took so many ids. `equal` counts drawings, and `ids` ids, that are those of one id a step in steps
of as many rows: more than 16 where W is above 8, which `theirs` is not charged for. `--picture`
draws the histograms of `accepted`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from best_of import requests
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

import openjanus
from openjanus.engine.engine import Engine, EngineOptions
from openjanus.engine.request import DrawRequest, ImageIdEvent


@dataclass(frozen=True, slots=True)
class Course:
    """How a drawing was made."""

    ids: tuple[int, ...]
    seconds: float
    accepted: tuple[int, ...]
    """Ids that each decode step took."""


def run(engine: Engine, request: DrawRequest) -> Course:
    """Draw alone."""
    engine.add(request)
    ids: list[int] = []
    accepted: list[int] = []
    began = time.perf_counter()
    while engine.has_work:
        found = [event.image_id for event in engine.step() if isinstance(event, ImageIdEvent)]
        ids += found
        accepted.append(len(found))
    seconds = time.perf_counter() - began
    accepted[0] -= 1  # the first id is the prefill's
    return Course(tuple(ids), seconds, tuple(accepted))


def figures(ours: list[Course], theirs: list[Course], same_rows: list[Course]) -> dict[str, Any]:
    """Seconds, steps and equality, of the same prompts."""
    pairs = list(zip(ours, theirs, strict=True))
    equal = [one.ids == other.ids for one, other in zip(ours, same_rows, strict=True)]
    flat = [
        a == b
        for one, other in zip(ours, same_rows, strict=True)
        for a, b in zip(one.ids, other.ids, strict=True)
    ]
    steps = [statistics.fmean(len(one.accepted) for one in side) for side in (ours, theirs)]
    return {
        "ours": round(statistics.median(one.seconds for one in ours), 4),
        "theirs": round(statistics.median(one.seconds for one in theirs), 4),
        "ratio": round(statistics.median(b.seconds / a.seconds for a, b in pairs), 3),
        "unit": "seconds a drawing",
        "steps": {
            "ours": round(steps[0], 1),
            "theirs": round(steps[1], 1),
            "ratio": round(steps[1] / steps[0], 2),
        },
        "accepted": histogram(ours),
        "equal": [sum(equal), len(equal)],
        "ids": [sum(flat), len(flat)],
    }


def histogram(courses: list[Course]) -> dict[str, int]:
    """How often a step took so many ids."""
    counted = Counter(number for one in courses for number in one.accepted)
    return {str(number): counted[number] for number in sorted(counted)}


def race(
    janus: openjanus.Janus, prompts: list[str], widths: list[int], scale: float, asked: Any
) -> dict[str, list[Course]]:
    """Every prompt drawn one id a step (`theirs`), and with each width (`ahead W`), in turn.

    `rows R` is one id a step again, in steps of as many rows as those of a width that has more.
    """

    def engine(**options: Any) -> Engine:
        pad = janus.processor.tokenizer.image_pad_id
        return Engine(janus.model, image_pad_id=pad, options=EngineOptions(**options))

    rows = EngineOptions().rows_per_page
    engines = {"theirs": engine(look_ahead=1)}
    for width in widths:
        engines[f"ahead {width}"] = engine(look_ahead=width)
        if 2 * width > rows:
            engines[f"rows {2 * width}"] = engine(look_ahead=1, rows_per_page=2 * width)
    courses: dict[str, list[Course]] = {name: [] for name in engines}
    for index, prompt in enumerate(tqdm(prompts, desc=f"guidance {scale:g}")):
        prompt_ids = janus.processor.gen_prompt(prompt)
        request = DrawRequest(
            prompt_ids=prompt_ids,
            uncond_ids=janus.processor.uncond_prompt(len(prompt_ids)),
            seed=asked.seed + index,
            guidance_scale=scale,
            temperature=asked.temperature,
        )
        # Whose turn is first moves on, and nobody finds the prompt prefilled by another.
        names = list(engines)[index % len(engines) :] + list(engines)[: index % len(engines)]
        for name in names:
            courses[name].append(run(engines[name], request))
    return courses


def measure(
    janus: openjanus.Janus, prompts: list[str], widths: list[int], scale: float, asked: Any
) -> dict[str, dict[str, Any]]:
    """The figures of every width at one guidance scale."""
    rows = EngineOptions().rows_per_page
    courses = race(janus, prompts, widths, scale, asked)
    return {
        f"look-ahead {width}, guidance {scale:g}": figures(
            courses[f"ahead {width}"],
            courses["theirs"],
            courses[f"rows {2 * width}" if 2 * width > rows else "theirs"],
        )
        for width in widths
    }


def draw_histograms(found: dict[str, dict[str, Any]], output: Path) -> None:
    """A panel each: the share of the steps that took so many ids."""
    figure = Figure(figsize=(3.2 * len(found), 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (name, one) in zip(panels, found.items(), strict=True):
        counts = {int(taken): count for taken, count in one["accepted"].items()}
        total = sum(counts.values())
        axes.bar(list(counts), [count / total for count in counts.values()], color="C0")
        mean = sum(taken * count for taken, count in counts.items()) / total
        axes.axvline(mean, color="C1", label=f"mean {mean:.2f}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("ids that a step took")
        axes.legend(fontsize=8)
    panels[0].set_ylabel("share of the steps")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description="Several ids of a drawing in one step.")
    parser.add_argument("--prompts", type=int, default=24, help="a multiple of six")
    parser.add_argument("--look-ahead", type=int, nargs="+", default=[8, 16], metavar="W")
    parser.add_argument(
        "--guidance", type=float, nargs="+", help="5 and the model's own by default"
    )
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--plain", action="store_true", help="weights as they lie, not packed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    janus = openjanus.load(asked.model, device="cpu", dtype=asked.dtype)
    if not asked.plain:
        janus.pack()
    prompts = [line["prompt"] for line in requests(asked.prompts)]
    scales = asked.guidance or [5.0, janus.config.drawing.guidance_scale]
    found: dict[str, Any] = {}
    for scale in scales:
        found |= measure(janus, prompts, asked.look_ahead, scale, asked)
    for name, one in found.items():
        steps = one["steps"]
        print(
            f"{name}: {one['theirs']} s -> {one['ours']} s ({one['ratio']}x), "
            f"steps {steps['theirs']} -> {steps['ours']} ({steps['ratio']}x), "
            f"equal {one['equal'][0]} of {one['equal'][1]}"
        )
    if asked.picture is not None:
        draw_histograms(found, asked.picture)
    if asked.output is not None:
        settings = {
            name: getattr(asked, name)
            for name in ("model", "dtype", "plain", "threads", "seed", "temperature", "prompts")
        }
        record = found | {"settings": settings}
        asked.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
