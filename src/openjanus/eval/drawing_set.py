"""Draw a benchmark's prompts into the folders that its own programs read.

Prompts are read as a stream, and a prompt whose pictures all exist is passed over: a run that was
stopped is gone on with, and loses at most the batch it was drawing.
"""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from PIL import Image
from tqdm import tqdm

from openjanus.config import DrawingConfig
from openjanus.engine.request import check_sampling
from openjanus.eval.geneval import check_metadata
from openjanus.eval.layouts import (
    TEXT,
    WrongLayout,
    files_hash,
    need_file,
    read_json,
    read_text,
    readable,
)
from openjanus.eval.record import template_hash, weights_hash, write_json
from openjanus.eval.runner import NAMED_BROKEN, SETTINGS_NAME, claimed
from openjanus.folders import require_no_file
from openjanus.pipeline import Janus
from openjanus.pipeline.results import Drawing, DrawOptions
from openjanus.processor.image import sheet
from openjanus.rules import near

FORMAT_VERSION: Final = 1
"""Of a set's `settings.json` and `summary.json`."""
SUMMARY_NAME: Final = "summary.json"
EXPECTED: Final = {
    "geneval": "GenEval's evaluation_metadata.jsonl: a line of tag, include and prompt each",
    "dpg": "DPG-Bench's folder of prompts, ITEM.txt each, or its .csv with item_id and text",
    "flat": "a text file with a prompt on each line",
}
"""Layout -> what its prompts look like."""
SAMPLES: Final = {"geneval": 4, "dpg": 4, "flat": 1}
"""Pictures a prompt, unless an option says otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A prompt of a set."""

    name: str
    """Of its folder or file."""
    prompt: str
    line: str
    """What stands in the set's own file."""
    error: str | None = None
    """Why it cannot be drawn."""


def read_prompts(path: Path, layout: str) -> Iterator[Job]:
    """The prompts of a set, one after the other.

    Raises:
        WrongLayout: The path holds something else.
    """
    if layout == "dpg":
        yield from _dpg_prompts(path)
        return
    expected = EXPECTED[layout]
    with readable(path, expected), need_file(path, expected).open(encoding=TEXT) as lines:
        for index, line in enumerate(lines):
            text = line.rstrip("\n")
            if layout == "geneval":
                yield _geneval_job(index, text)
            else:
                error = None if text.strip() else f"line {index + 1} is empty"
                yield Job(name=f"{index:06d}", prompt=text.strip(), line=text, error=error)


def _geneval_job(index: int, line: str) -> Job:
    name = f"{index:05d}"
    try:
        metadata = json.loads(line)
        check_metadata(metadata)
        if not isinstance(metadata.get("prompt"), str):
            raise TypeError(f"prompt must be words, got {metadata.get('prompt')!r}")
        return Job(name=name, prompt=metadata["prompt"], line=line)
    except (ValueError, TypeError) as error:
        return Job(name=name, prompt="", line=line, error=f"line {index + 1}: {error}")


def _dpg_prompts(path: Path) -> Iterator[Job]:
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise WrongLayout(path, "has no .txt files", EXPECTED["dpg"])
        for file in files:
            text = read_text(file, EXPECTED["dpg"]).strip()
            yield Job(name=file.stem, prompt=text, line=text, error=None if text else "is empty")
        return
    expected = EXPECTED["dpg"]
    with (
        readable(path, expected),
        need_file(path, expected).open(encoding=TEXT, newline="") as file,
    ):
        rows = csv.DictReader(file)
        if not {"item_id", "text"} <= set(rows.fieldnames or ()):
            raise WrongLayout(path, "has no columns item_id and text", EXPECTED["dpg"])
        before = None
        for row in rows:  # a row a question: those of an item follow each other
            if row["item_id"] != before:
                before = row["item_id"]
                text = (row["text"] or "").strip()
                error = None if text else "is empty"
                yield Job(name=before, prompt=text, line=text, error=error)


def read_settings(folder: Path) -> dict[str, Any]:
    """How a set was drawn: model, prompts, options.

    Raises:
        WrongLayout: Nothing was drawn into the folder.
    """
    expected = "a folder that openjanus eval --generate-set drew into"
    settings = read_json(folder / SETTINGS_NAME, expected)
    if not isinstance(settings, dict) or "layout" not in settings:
        raise WrongLayout(folder / SETTINGS_NAME, "is of no drawings", expected)
    return settings


def seed_of(seed: int, prompt: str) -> int:
    """A prompt's own drawing seed; its pictures are told apart by their index.

    One seed for a whole set would give every prompt the same noise, and so the same luck.
    """
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def pictures_of(folder: Path, layout: str, name: str, n: int) -> list[Path]:
    """Files that a prompt's pictures go to; DPG-Bench's four are tiles of one."""
    if layout == "geneval":
        return [folder / name / "samples" / f"{i:04d}.png" for i in range(n)]
    if layout == "dpg" or n == 1:
        return [folder / "images" / f"{name}.png"]
    return [folder / "images" / f"{name}_{i:04d}.png" for i in range(n)]


class DrawingSet:
    """How a set is drawn.

    Args:
        prompts: Path of the benchmark's own file of prompts.
        layout: "geneval", "dpg" or "flat".
        n: Pictures a prompt; None is the benchmark's own.
        batch_size: Prompts at once; never changes a picture.
        guidance_scale: None is the model's own, and so below.
        temperature: Of sampling.
        top_k: Of sampling.
        top_p: Of sampling.

    Raises:
        ValueError: An unknown layout, a number below 1, or an option of sampling against its rule.
    """

    def __init__(
        self,
        *,
        prompts: str | Path,
        layout: str,
        n: int | None = None,
        batch_size: int = 4,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> None:
        if layout not in SAMPLES:
            raise ValueError(f"unknown layout {layout!r}; {near(layout, list(SAMPLES))}")
        n = SAMPLES[layout] if n is None else n
        if min(n, batch_size) < 1:
            raise ValueError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
        self.prompts, self.layout, self.n, self.batch_size = Path(prompts), layout, n, batch_size
        self._asked: dict[str, Any] = {
            "guidance_scale": guidance_scale,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
        }
        given = {"guidance_scale": guidance_scale, "temperature": temperature}
        own = DrawingConfig(**{name: value for name, value in given.items() if value is not None})
        # Now, and not when the first prompt is drawn: then the folder is claimed already, and what
        # is wrong would be said of the prompt.
        check_sampling(temperature=own.temperature, top_k=top_k, top_p=top_p, seed=0)

    def check(self) -> None:
        """See that the prompts can be read, before any weights are.

        Raises:
            WrongLayout: They cannot.
        """
        if next(read_prompts(self.prompts, self.layout), None) is None:
            raise WrongLayout(self.prompts, "is empty", EXPECTED[self.layout])

    def settings(self, janus: Janus, seed: int) -> dict[str, Any]:
        """Everything that two runs into one folder must share; a limit is not among it."""
        folder = self.prompts.is_dir()
        files = sorted(self.prompts.glob("*.txt")) if folder else [self.prompts]
        drawing = DrawOptions.resolve(janus.config.drawing, negative_prompt=None, **self._asked)
        told = asdict(drawing)
        assert not told.pop("prefix_ids"), "a set draws whole pictures"
        return {
            "format_version": FORMAT_VERSION,
            "layout": self.layout,
            "prompts_file": self.prompts.name,
            "prompts_sha256": files_hash(files),
            "n": self.n,
            "seed": seed,
            "drawing": told,
            "template": janus.config.processor.template,
            "template_sha256": template_hash(janus.config.processor),
            "checkpoint_sha256": weights_hash(janus.model),
            "dtype": str(next(janus.model.parameters()).dtype).removeprefix("torch."),
            "device": janus.device.type,
        }

    def draw(
        self, janus: Janus, output: str | Path, *, seed: int = 0, limit: int | None = None
    ) -> dict[str, Any]:
        """Draw what is not there yet.

        Args:
            janus: The model.
            output: The set's folder; one of the same settings is gone on with.
            seed: Of all pictures, together with each prompt and index.
            limit: The first so many prompts; None is all.

        Returns:
            What is written to `summary.json`: numbers, and what could not be drawn.

        Raises:
            WrongLayout: No such prompts.
            ValueError: A limit below 1, an output that is a file, a folder with another set or with
                another process at work in it, or no prompt can be drawn.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}: leave it out for everything")
        folder = Path(output)
        require_no_file(folder, "output")
        self.check()
        settings = self.settings(janus, seed)
        with claimed(folder, settings):
            counts, broken = self._draw_all(janus, folder, seed, limit)
            named = dict(list(broken.items())[:NAMED_BROKEN])
            for name, error in named.items():
                warnings.warn(f"{name} cannot be drawn and is left out: {error}", stacklevel=2)
            summary = settings | counts | {"broken": {"n": len(broken), "items": named}}
            write_json(folder / SUMMARY_NAME, summary)
        return summary

    def _draw_all(
        self, janus: Janus, folder: Path, seed: int, limit: int | None
    ) -> tuple[dict[str, int], dict[str, str]]:
        """Draw what is not there yet; numbers, and why what could not be drawn was not."""
        (folder / "images" if self.layout != "geneval" else folder).mkdir(exist_ok=True)
        broken: dict[str, str] = {}
        counts = {"prompts": 0, "pictures": 0, "drawn": 0}
        batch: list[Job] = []
        with tqdm(desc="draw", unit="prompt") as bar:
            for job in islice(read_prompts(self.prompts, self.layout), limit):
                counts["prompts"] += 1
                if job.error is not None:
                    broken[job.name] = job.error
                elif all(path.is_file() for path in self._files(folder, job)):
                    counts["pictures"] += len(self._files(folder, job))
                else:
                    batch.append(job)
                if len(batch) == self.batch_size:
                    self._draw(janus, batch, folder, seed, broken, counts)
                    batch = []
                bar.update()
            self._draw(janus, batch, folder, seed, broken, counts)
        if broken and not counts["pictures"]:
            name, error = next(iter(broken.items()))
            raise ValueError(f"no prompt of {self.prompts} can be drawn; {name}: {error}")
        return counts, broken

    def _files(self, folder: Path, job: Job) -> list[Path]:
        return pictures_of(folder, self.layout, job.name, self.n)

    def _draw(
        self,
        janus: Janus,
        batch: Sequence[Job],
        folder: Path,
        seed: int,
        broken: dict[str, str],
        counts: dict[str, int],
    ) -> None:
        for job, drawing in self._drawings(janus, batch, seed, broken):
            files = self._files(folder, job)
            self._write(job, drawing, files)
            counts["pictures"] += len(files)
            counts["drawn"] += len(files)

    def _drawings(
        self, janus: Janus, batch: Sequence[Job], seed: int, broken: dict[str, str]
    ) -> Iterator[tuple[Job, Drawing]]:
        """Drawings of a batch; prompts past the context are named and left out."""
        if not batch:
            return
        try:
            drawings = janus.draw_batch(
                [job.prompt for job in batch],
                n=self.n,
                seed=[seed_of(seed, job.prompt) for job in batch],
                **self._asked,
            )
        except ValueError as error:  # nothing was drawn
            if len(batch) == 1:
                broken[batch[0].name] = str(error)
                return
            for job in batch:
                yield from self._drawings(janus, [job], seed, broken)
            return
        yield from zip(batch, drawings, strict=True)

    def _write(self, job: Job, drawing: Drawing, files: Sequence[Path]) -> None:
        images: Mapping[Path, Image.Image]
        if self.layout == "dpg":
            images = {files[0]: sheet(list(drawing.images), gap=0)}
        else:
            images = dict(zip(files, drawing.images, strict=True))
        if self.layout == "geneval":
            files[0].parent.mkdir(parents=True, exist_ok=True)
            line = files[0].parents[1] / "metadata.jsonl"
            line.write_text(f"{job.line}\n", encoding="utf-8")
        for path, image in images.items():
            # A stop leaves a whole picture or none.
            draft = path.with_name(f"{path.name}.part")
            image.save(draft, format="PNG")
            draft.replace(path)
