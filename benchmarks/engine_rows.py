"""What ``engine.py`` measures: a function for each kind of row."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm

import openjanus
from openjanus.bench.inputs import BenchOptions, Inputs, make_inputs
from openjanus.bench.machine import read_bandwidth
from openjanus.bench.measure import PROMPT, image_bytes, row_bytes, text_bytes
from openjanus.bench.ours import Ours
from openjanus.engine.engine import Engine, EngineOptions
from openjanus.engine.request import (
    ChatRequest,
    DrawRequest,
    FailedEvent,
    ImageIdEvent,
    Request,
    TokenEvent,
)
from openjanus.model.janus import build_model, quantize_model
from openjanus.pipeline.janus import Janus
from openjanus.presets import preset
from openjanus.processor.text import byte_tokenizer
from openjanus.quantization import QuantizationConfig

Row = dict[str, Any]

GOALS: dict[str, tuple[float, float]] = {
    "image_bf16": (1.5, 1.8),
    "image_int8": (1.6, 1.6),
    "image_int4": (2.3, 3.0),
    "text_int8": (2.3, 2.3),
    "text_int4": (3.8, 4.3),
    "image8_bf16": (1.6, 2.2),
    "vq_decode": (2.5, 4.0),
    "siglip": (1.5, 2.0),
    "mixed": (1.1, 1.1),
    "nano_parallel_calls": (4.0, 6.0),
    "nano_parallel_time": (2.0, 3.0),
}
"""Ratio that is wanted, and the aim beyond."""

KINDS = {
    "bf16": None,
    "int8": QuantizationConfig(kind="int8"),
    "int4": QuantizationConfig(kind="int4", group_size=64),
}
GUIDANCE_SCALE = 5.0
EACH = 4
"""Chats, and pictures, of the mixed load."""
BANDWIDTH_BYTES = 2**30
SEED = 0


class Size:
    """A random model of the full size, what it is given, and transformers' beside it."""

    def __init__(
        self,
        asked: argparse.Namespace,
        kind: str = "bf16",
        *,
        rival: bool = True,
        lm_head: bool = False,
    ) -> None:
        config = preset(asked.preset)
        if asked.layers is not None:
            language = dataclasses.replace(config.language, num_hidden_layers=asked.layers)
            config = dataclasses.replace(config, language=language)
        model = build_model(config, dtype=torch.bfloat16).to_empty(device="cpu").eval()
        model.init_weights(torch.Generator().manual_seed(SEED))
        self.janus = Janus(model, byte_tokenizer(config.processor))
        options = BenchOptions(steps=asked.steps, pictures=asked.pictures)
        made = make_inputs(
            config,
            self.janus.processor.tokenizer,
            options,
            device=torch.device("cpu"),
            dtype=torch.bfloat16,
        )
        self.inputs: Inputs = dataclasses.replace(made, guidance_scale=GUIDANCE_SCALE)
        self.theirs: Any = None
        self.plain_bytes = (image_bytes(model), text_bytes(model))
        if rival:  # before ours are laid out anew: theirs stay in the memory of the plain ones
            from openjanus.bench.transformers import Theirs

            self.theirs = Theirs(self.janus, self.inputs)
        quantization = KINDS[kind]
        if quantization is not None:
            quantize_model(model, dataclasses.replace(quantization, lm_head=lm_head))
        self.bytes = (image_bytes(model), text_bytes(model))
        self.row_bytes = row_bytes(model)
        self.janus.pack()
        self.ours = Ours(self.janus, self.inputs)


def race(
    key: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    *,
    warm: bool = True,
) -> Row:
    """Both take turns, after a round that is not counted."""
    from vs_transformers import Row as Race  # it needs transformers, which not every row does

    done = Race(key, None, 0).race(ours, theirs, rounds, warm=warm)
    return row_of(key, done.ours, done.theirs)


def row_of(key: str, ours: Sequence[float], theirs: Sequence[float], unit: str = "s") -> Row:
    """Medians, and the quotients' with their quartiles."""
    quotients = [b / a for a, b in zip(ours, theirs, strict=True)]
    low = high = quotients[0]
    if len(quotients) > 1:
        low, _, high = statistics.quantiles(quotients, n=4, method="inclusive")
    ratio, (goal, aim) = statistics.median(quotients), GOALS[key]
    return {
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "ratio": ratio,
        "low": low,
        "high": high,
        "rounds": len(quotients),
        "unit": unit,
        "goal": goal,
        "aim": aim,
        "reached": ratio >= goal,
    }


def step_row(key: str, asked: argparse.Namespace) -> Row:
    """A step of pictures or of words."""
    face, kind = key.split("_")
    size = Size(asked, kind, lm_head=face == "text")  # no picture's step reads it
    count = 8 if face == "image8" else 1
    index = 1 if face == "text" else 0
    if face == "text":
        ours, theirs = size.ours.write(), size.theirs.write()
        tokens = len(size.inputs.text_ids) + size.inputs.num_words // 2
    else:
        ours, theirs = size.ours.draw(count), size.theirs.draw(count)
        tokens = 2 * count * (len(size.inputs.draw_ids) + asked.steps // 2)
    row = race(key, ours, theirs, asked.steps)
    bandwidth = read_bandwidth(torch.device("cpu"), BANDWIDTH_BYTES)
    behind = tokens * size.row_bytes
    row["bandwidth_gb_per_s"] = bandwidth / 1e9
    row["share"] = (size.bytes[index] + behind) / row["ours"] / bandwidth
    row["their_share"] = (size.plain_bytes[index] + behind) / row["theirs"] / bandwidth
    if face == "image" and asked.whole > 0:
        row["whole"] = whole_picture(size, asked.whole)
    return row


def whole_picture(size: Size, rounds: int) -> Row:
    """From words to pixels: one id a step, for looking ahead is the model's doing alone."""
    from openjanus.bench.transformers import TheirDrawing

    janus, their = size.janus, size.theirs.model
    prompt_ids = janus.processor.gen_prompt(PROMPT)
    uncond_ids = janus.processor.uncond_prompt(len(prompt_ids))
    num_ids = janus.config.num_gen_image_tokens
    vq: Any = janus.model.vq

    def ours() -> None:
        engine = _engine(janus)
        engine.add(
            DrawRequest(
                prompt_ids=prompt_ids,
                uncond_ids=uncond_ids,
                seed=SEED,
                guidance_scale=GUIDANCE_SCALE,
            )
        )
        ids: list[int] = []
        while engine.has_work:
            ids += [event.image_id for event in engine.step() if isinstance(event, ImageIdEvent)]
        vq.decode_ids(torch.tensor([ids]))

    def theirs() -> None:
        drawing = TheirDrawing(
            their,
            prompt_ids,
            size.inputs.pad_id,
            num_images=1,
            room=num_ids + 8,
            guidance_scale=GUIDANCE_SCALE,
        )
        for _ in range(num_ids):
            drawing.step()
        their.model.vqmodel.decode(size.inputs.image_ids)

    return race("image_bf16", ours, theirs, rounds, warm=False)


def door_row(key: str, asked: argparse.Namespace) -> Row:
    """A picture through a door, and its distance from fp32."""
    from vs_transformers import distances

    size = Size(argparse.Namespace(**{**vars(asked), "layers": 1}))  # no door needs the decoder
    name = "decode" if key == "vq_decode" else "understand"
    ours, theirs = getattr(size.ours, name)(), getattr(size.theirs, name)()
    row = race(key, ours, theirs, asked.pictures)
    door = "VQ" if key == "vq_decode" else "SigLIP"
    far = distances(size.janus, size.theirs.model)
    row["from_fp32"] = {one: far[one] for one in far if one.startswith(door)}
    return row


def mixed_row(key: str, asked: argparse.Namespace) -> Row:
    """Words and pictures in one engine beside one engine for each."""
    size = Size(asked, rival=False)
    inputs = size.inputs
    limit = asked.steps * 2 + 8  # nobody ends while it is timed
    chats: list[Request] = [
        ChatRequest(input_ids=(*inputs.question_ids, 97 + index), max_new_tokens=limit)
        for index in range(EACH)
    ]
    pictures: list[Request] = [
        DrawRequest(
            prompt_ids=inputs.draw_ids,
            uncond_ids=inputs.uncond_ids,
            seed=SEED,
            image_index=index,
            guidance_scale=GUIDANCE_SCALE,
        )
        for index in range(EACH)
    ]
    loads = {"words": chats, "pictures": pictures, "mixed": [*chats, *pictures]}
    engines = {name: _engine(size.janus) for name in loads}
    for name, engine in engines.items():
        for request in loads[name]:
            engine.add(request)
        while engine.num_running < len(loads[name]) or engine.is_opening:
            engine.step()
    seconds = dict.fromkeys(loads, 0.0)
    counts = {name: {TokenEvent: 0, ImageIdEvent: 0} for name in loads}
    last: dict[int, float] = {}
    gap = 0.0
    for number in tqdm(range(asked.steps + 1), desc=key):
        for name, engine in engines.items():
            began = time.perf_counter()
            events = engine.step()
            if number == 0:
                continue
            seconds[name] += time.perf_counter() - began
            for event in events:
                if isinstance(event, FailedEvent):
                    raise event.error
                if type(event) in counts[name]:
                    counts[name][type(event)] += 1
                if name == "mixed" and isinstance(event, TokenEvent):
                    now = seconds["mixed"]  # the others' turns are not its own
                    gap = max(gap, now - last.get(event.request_id, 0.0))
                    last[event.request_id] = now
    rates = {
        (name, kind): number / seconds[name]
        for name, of in counts.items()
        for kind, number in of.items()
    }
    words = rates["mixed", TokenEvent] / rates["words", TokenEvent]
    drawn = rates["mixed", ImageIdEvent] / rates["pictures", ImageIdEvent]
    row = row_of(key, [1.0], [words + drawn], "sum of rates by separate rates")
    row["ours"], row["theirs"] = words + drawn, 1.0
    return row | {"words": words, "pictures": drawn, "gap": gap, "gap_reached": gap <= 1.0}


def _engine(janus: Janus, **options: Any) -> Engine:
    pad = janus.processor.tokenizer.image_pad_id
    chosen: dict[str, Any] = {"look_ahead": 1} | options
    return Engine(janus.model, image_pad_id=pad, options=EngineOptions(**chosen))


def nano_rows(asked: argparse.Namespace) -> dict[str, Row]:
    """What looking ahead saves the packaged nano, in calls and in time."""
    import parallel_decoding as ahead

    janus = openjanus.load(asked.model, device="cpu")
    janus.pack()
    prompts = [line["prompt"] for line in ahead.requests(asked.prompts)]
    drawing = argparse.Namespace(seed=SEED, temperature=1.0)
    courses = ahead.race(janus, prompts, asked.look_ahead, GUIDANCE_SCALE, drawing)
    theirs = courses["theirs"]
    rows: dict[str, Row] = {}
    for key, value in (
        ("nano_parallel_calls", lambda course: float(len(course.accepted))),
        ("nano_parallel_time", lambda course: course.seconds),
    ):
        unit = "s" if key.endswith("time") else "steps a drawing"
        by_width = {
            width: row_of(
                key,
                [value(one) for one in courses[f"ahead {width}"]],
                [value(one) for one in theirs],
                unit,
            )
            for width in asked.look_ahead
        }
        best = max(by_width, key=lambda width: by_width[width]["ratio"])
        ours = courses[f"ahead {best}"]
        rows[key] = by_width[best] | {
            "look_ahead": best,
            "by_look_ahead": {str(width): row["ratio"] for width, row in by_width.items()},
            "equal": [sum(a.ids == b.ids for a, b in zip(ours, theirs, strict=True)), len(ours)],
            "accepted": ahead.histogram(ours),
        }
    return rows


def calls_row(key: str, asked: argparse.Namespace) -> Row:
    """Seconds of a 1B's step by rows: one guided drawing, so many ids of it at a time."""
    size = Size(asked, rival=False)
    draw = {
        rows: Ours(size.janus, size.inputs, look_ahead=rows // 2).draw(1) for rows in asked.windows
    }
    times: dict[int, list[float]] = {rows: [] for rows in asked.windows}
    for number in tqdm(range(asked.steps // 4 + 2), desc=key):
        for rows, run in draw.items():
            began = time.perf_counter()
            run()
            if number > 0:
                times[rows].append(time.perf_counter() - began)
    return {"by_rows": {str(n): statistics.median(one) for n, one in times.items()}, "unit": "s"}


def predict(rows: dict[str, Row]) -> Row | None:
    """What looking ahead would save a 1B that guessed as well as the nano: no measurement."""
    calls, steps = rows.get("nano_parallel_calls"), rows.get("calls_1b")
    if calls is None or steps is None or "2" not in steps["by_rows"]:
        return None
    by_rows = steps["by_rows"]
    found = {
        width: saved * by_rows["2"] / by_rows[str(2 * int(width))]
        for width, saved in calls["by_look_ahead"].items()
        if str(2 * int(width)) in by_rows
    }
    return {"by_look_ahead": found, "unit": "times", "is": "a prediction, not a measurement"}
