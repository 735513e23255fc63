"""How much sooner than transformers' Janus a step, a picture and a first word are there, on a CPU.

    python benchmarks/vs_transformers.py [--steps N] [--pictures N] [--loads N] [--whole N]
        [--layers N] [--threads N] [--folder DIR] [--output FILE]

Both have the same random Janus-Pro-1B weights in bfloat16, from one folder in transformers' layout,
in one process; they take turns, step by step, and the medians are compared. `ours` and `theirs` are
medians, `ratio` how many times sooner ours is done. Beside them stands which share of the machine's
read bandwidth, measured here, ours and theirs take for the bytes of weights that a row must read.

Steps are taken with `--behind` tokens behind them, about the mean of a drawing. Their drawing steps
are the lines of `JanusForConditionalGeneration.generate`, with its static cache; a whole picture is
`generate` itself. A load is a fresh process with everything imported and the files in memory, until
the first word of an answer. `--layers`, `--steps` and `--whole 0` make it quick, and the figures
mean nothing then.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from full_size import IDS, write_checkpoint
from torch import Tensor, nn
from tqdm import tqdm
from transformers import JanusForConditionalGeneration

import openjanus
from openjanus.bench.machine import read_bandwidth
from openjanus.bench.transformers import TheirAnswer, TheirDrawing
from openjanus.engine.engine import Engine
from openjanus.engine.request import ChatRequest, DrawRequest
from openjanus.pipeline.janus import Janus

SIZE = "pro-1b"
BOS = 100000
GUIDANCE_SCALE = 5.0
BANDWIDTH_BYTES = 2**31
PROMPT = "a photo of a red apple on a wooden table"
FIRST_WORD_PROMPT = (BOS, *range(40, 80))


@dataclass(slots=True)
class Row:
    """One thing that both do."""

    name: str
    goal: float | None
    """The ratio that is wanted."""
    read_bytes: int
    """Weights that it reads at least."""
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def race(
        self,
        ours: Callable[[], object],
        theirs: Callable[[], object],
        rounds: int,
        *,
        warm: bool = True,
    ) -> Row:
        """Take turns, who begins as well; a first round, where there is one, is not counted."""
        entrants = [(ours, self.ours), (theirs, self.theirs)]
        for number in tqdm(range(0 if warm else 1, rounds + 1), desc=self.name, leave=False):
            for run, times in entrants[:: 1 if number % 2 else -1]:
                began = time.perf_counter()
                run()
                if number > 0:
                    times.append(time.perf_counter() - began)
        return self

    @property
    def ratio(self) -> float:
        """How many times sooner ours is done."""
        return statistics.median(self.theirs) / statistics.median(self.ours)


def text_prompt(length: int, last: int) -> tuple[int, ...]:
    """BOS, bytes, and a last id."""
    return (BOS, *(97 + i % 26 for i in range(length - 2)), last)


def our_drawing(janus: Janus, prompt: tuple[int, ...], num_images: int) -> Engine:
    """An engine that draws the images."""
    uncond = (prompt[0], *[IDS[SIZE].pad] * (len(prompt) - 2), prompt[-1])
    engine = Engine(janus.model, image_pad_id=IDS[SIZE].image)
    for index in range(num_images):
        engine.add(
            DrawRequest(
                prompt_ids=prompt,
                uncond_ids=uncond,
                seed=0,
                image_index=index,
                guidance_scale=GUIDANCE_SCALE,
            )
        )
    return engine


def our_answer(model: Any, prompt: tuple[int, ...], limit: int) -> Engine:
    """An engine that answers greedily."""
    engine = Engine(model, image_pad_id=IDS[SIZE].image)
    engine.add(ChatRequest(input_ids=prompt, max_new_tokens=limit))
    return engine


def num_bytes(*parts: nn.Module) -> int:
    """Of the parameters of some modules."""
    return sum(p.nbytes for part in parts for p in part.parameters())


def load_once(who: str, folder: Path) -> float:
    """Seconds from a folder to the first word, in this process."""
    began = time.perf_counter()
    with torch.inference_mode():
        if who == "ours":
            our_answer(openjanus.load(folder, dtype="bfloat16").model, FIRST_WORD_PROMPT, 1).step()
        else:
            TheirAnswer(load_theirs(folder), FIRST_WORD_PROMPT).step()
    return time.perf_counter() - began


def load_theirs(folder: Path) -> Any:
    """Their model, ready to be asked."""
    return JanusForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()


def load_apart(who: str, folder: Path, threads: int) -> float:
    """``load_once`` in a fresh process."""
    command = [sys.executable, __file__, "--folder", str(folder), "--threads", str(threads)]
    done = subprocess.run(
        [*command, "--load-once", who], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.split()[-1])


def race_loads(folder: Path, rounds: int, threads: int, read_bytes: int) -> Row:
    """Load and first word, in processes of their own."""
    row = Row("load and first word", 1.5, read_bytes)
    for number in range(2 * rounds + 2):  # the first pair brings the files into memory
        who = ("ours", "theirs")[number % 2]
        seconds = load_apart(who, folder, threads)
        if number >= 2:
            getattr(row, who).append(seconds)
    return row


def race_steps(janus: Janus, their: Any, steps: int, behind: int) -> Iterator[Row]:
    """Decode steps."""
    body = janus.model.language_model.model.layers
    image_bytes = num_bytes(body, janus.model.gen_head, janus.model.gen_aligner)
    prompt = text_prompt(behind, IDS[SIZE].boi)
    for name, count, goal in (("image step", 1, 1.3), ("image step, 4 images", 4, None)):
        ours = our_drawing(janus, prompt, count)
        theirs = TheirDrawing(
            their,
            prompt,
            IDS[SIZE].pad,
            num_images=count,
            room=576 + 32 - behind,
            guidance_scale=GUIDANCE_SCALE,
        )
        yield Row(name, goal, image_bytes).race(ours.step, theirs.step, steps)
    prompt = text_prompt(behind, 97)
    answer, their_answer = our_answer(janus.model, prompt, steps + 8), TheirAnswer(their, prompt)
    text_bytes = num_bytes(body, janus.model.language_model.lm_head)
    yield Row("text step", 1.6, text_bytes).race(answer.step, their_answer.step, steps)


def race_pictures(janus: Janus, their: Any, rounds: int) -> Iterator[Row]:
    """One picture through each tower."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(16384, (1, 576), generator=generator)
    pixels = torch.rand(1, 3, 384, 384, generator=generator, dtype=torch.bfloat16) * 2 - 1
    vq: Any = janus.model.vq
    und = (janus.model.und_encoder, janus.model.und_aligner)
    yield Row("VQ decode", 2.5, num_bytes(vq.decoder)).race(
        lambda: vq.decode_ids(ids), lambda: their.model.vqmodel.decode(ids), rounds
    )
    yield Row("SigLIP and aligner", 1.5, num_bytes(*und)).race(
        lambda: janus.model.embed_und(pixels),
        lambda: their.model.get_image_features(pixels),
        rounds,
    )


def race_whole(janus: Janus, their: Any, rounds: int) -> Row:
    """Four pictures of a prompt, from words to pixels."""
    prompt_ids = torch.tensor([janus.processor.gen_prompt(PROMPT)])

    def theirs() -> Tensor:
        ids = their.generate(
            prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            generation_mode="image",
            do_sample=True,
            num_return_sequences=4,
            guidance_scale=GUIDANCE_SCALE,
        )
        pictures = their.decode_image_tokens(ids).float()
        return ((pictures + 1) / 2 * 255).clamp(0, 255).to(torch.uint8)

    body = janus.model.language_model.model.layers
    image_bytes = num_bytes(body, janus.model.gen_head, janus.model.gen_aligner)
    row = Row("4 whole images", 1.5, 576 * image_bytes)
    for _ in range(rounds):
        for run, times in (
            (lambda: janus.draw(PROMPT, n=4, seed=0), row.ours),
            (theirs, row.theirs),
        ):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
    return row


def distances(janus: Janus, their: Any) -> dict[str, dict[str, Any]]:
    """How far from fp32 the towers are in bfloat16: ours and theirs."""
    generator = torch.Generator().manual_seed(1)
    config = janus.config
    ids = torch.randint(config.codebook_size, (2, config.num_gen_image_tokens), generator=generator)
    side = config.und_image_size
    pixels = torch.rand(2, 3, side, side, generator=generator) * 2 - 1
    wide: Any = copy.deepcopy(janus.model.vq).float()
    exact = wide.decode_ids(ids)
    vq: Any = janus.model.vq
    pictures = (vq.decode_ids(ids), their.model.vqmodel.decode(ids).clamp(-1, 1))
    errors = [(exact - picture.float()).abs() / 2 * 255 for picture in pictures]
    encoder, aligner = (
        copy.deepcopy(m).float() for m in (janus.model.und_encoder, janus.model.und_aligner)
    )
    features = aligner(encoder(pixels)).flatten()
    narrow = pixels.bfloat16()
    found = (janus.model.embed_und(narrow), their.model.get_image_features(narrow).pooler_output)
    cosines = [torch.cosine_similarity(features, f.float().flatten(), dim=0) for f in found]
    return {
        "VQ decode, mean distance from fp32": _entry([e.mean() for e in errors], "1/255"),
        "VQ decode, largest distance from fp32": _entry([e.max() for e in errors], "1/255"),
        "SigLIP, cosine with fp32": _entry(cosines, "cosine"),
    }


def _entry(values: list[Tensor], unit: str) -> dict[str, Any]:
    ours, theirs = (round(float(value), 5) for value in values)
    return {"ours": ours, "theirs": theirs, "ratio": round(theirs / ours, 3), "unit": unit}


def show(row: Row, bandwidth: float) -> dict[str, Any]:
    """Print a row; its plain data."""
    cells = [f"{row.name:22}"]
    for times in (row.ours, row.theirs):
        low, high = min(times), max(times)
        if len(times) >= 4:
            low, _, high = statistics.quantiles(times, n=4)
        middle = statistics.median(times)
        share = row.read_bytes / middle / bandwidth
        cells.append(f"{_ms(middle):>9} ({_ms(low)} to {_ms(high)}; {share:.0%} of bandwidth)")
    verdict = f"{row.ratio:.2f}x"
    if row.goal is not None:
        verdict += f", goal {row.goal}x {'' if row.ratio >= row.goal else 'not '}reached"
    print(" | ".join([*cells, verdict]), flush=True)
    ours, theirs = (round(statistics.median(times), 4) for times in (row.ours, row.theirs))
    return {"ours": ours, "theirs": theirs, "ratio": round(row.ratio, 2), "unit": "s"}


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"


@contextmanager
def checkpoint(folder: Path | None, layers: int | None) -> Iterator[Path]:
    """The folder given, written if it is not there; or one that is gone afterwards."""
    if folder is not None:
        if not folder.exists():
            write_checkpoint(folder, size=SIZE, layout="transformers", num_layers=layers)
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        write_checkpoint(Path(place) / SIZE, layout="transformers", num_layers=layers)
        yield Path(place) / SIZE


def main() -> None:
    """Print every row as it is known."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=64, help="of each kind")
    parser.add_argument("--behind", type=int, default=300, help="tokens before the steps")
    parser.add_argument("--pictures", type=int, default=16, help="through each tower")
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--whole", type=int, default=1, help="rounds of 4 whole images")
    parser.add_argument("--layers", type=int, help="of the decoder, for a trial")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="where the checkpoint is kept")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--load-once", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.load_once is not None:
        print(load_once(options.load_once, options.folder))
        return
    found: dict[str, dict[str, Any]] = {}
    bandwidth = read_bandwidth(torch.device("cpu"), BANDWIDTH_BYTES)
    print(f"{options.threads} threads, bfloat16, {bandwidth / 1e9:.1f} GB/s read; ours | theirs")
    with checkpoint(options.folder, options.layers) as folder, torch.inference_mode():
        if options.loads > 0:
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            row = race_loads(folder, options.loads, options.threads, size)
            found[row.name] = show(row, bandwidth)
        janus, their = openjanus.load(folder, dtype="bfloat16"), load_theirs(folder)
        for row in race_steps(janus, their, options.steps, options.behind):
            found[row.name] = show(row, bandwidth)
        for row in race_pictures(janus, their, options.pictures):
            found[row.name] = show(row, bandwidth)
        for name, entry in distances(janus, their).items():
            found[name] = entry
            print(f"{name}: ours {entry['ours']}, theirs {entry['theirs']} ({entry['unit']})")
        if options.whole > 0:
            row = race_whole(janus, their, options.whole)
            found[row.name] = show(row, bandwidth)
    found["read bandwidth"] = {
        "ours": round(bandwidth / 1e9, 1),
        "theirs": round(bandwidth / 1e9, 1),
        "ratio": 1.0,
        "unit": "GB/s",
    }
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
