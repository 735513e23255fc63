"""Run everything that is measured, by turns where there is somebody to be measured against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from tqdm import tqdm

from openjanus.bench.inputs import BenchOptions, Contestant, Inputs, make_inputs
from openjanus.bench.machine import describe_machine, peak_bytes, read_bandwidth, wait_for
from openjanus.bench.ours import Ours
from openjanus.bench.result import Figure, Result
from openjanus.model.attention import KVCache
from openjanus.model.janus import JanusModel
from openjanus.model.packed import count_packed
from openjanus.model.quantized import count_weights
from openjanus.pipeline.janus import Janus
from openjanus.weights.formats import main_dtype

PROMPT = "a photo of a red apple on a wooden table"

Rival = Callable[[Janus, Inputs], Contestant]
"""Makes who is measured beside us of our model."""


@dataclass(frozen=True, slots=True)
class _Event:
    """One thing that everybody does."""

    name: str
    prepare: Callable[[Contestant], Callable[[], object]]
    rounds: int
    read_bytes: int | None = None
    """That a round must read; None where reading is not what it waits for."""


@dataclass(slots=True)
class _Times:
    """Seconds of the rounds of an event."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)


def measure(
    janus: Janus,
    options: BenchOptions,
    *,
    name: str,
    random_weights: bool = False,
    rival: Rival | None = None,
    against: str | None = None,
) -> Result:
    """Measure a model.

    Args:
        janus: The model, on its device.
        options: How much is measured.
        name: Of the model.
        random_weights: Whether the weights are.
        rival: Who is measured beside it, by turns; None is nobody.
        against: The rival's name and version.

    Raises:
        ValueError: The model's context is too short, or the rival cannot hold the model.
    """
    model, device = janus.model, janus.device
    dtype = main_dtype(model)
    inputs = make_inputs(
        janus.config, janus.processor.tokenizer, options, device=device, dtype=dtype
    )
    events = _events(model, inputs, options)
    with torch.inference_mode():
        contestants: list[Contestant] = [Ours(janus, inputs, steps=options.compile)]
        for event in tqdm(events, desc="once each", leave=False, disable=None):
            event.prepare(contestants[0])()
        peak = peak_bytes(device)  # before there is anybody else, and before the block of memory
        bandwidth = read_bandwidth(device, options.bandwidth_bytes)
        if rival is not None:
            contestants.append(rival(janus, inputs))
        times = {event.name: _race(event, contestants, device) for event in events}
    figures = [_figure(event, times[event.name], bandwidth) for event in events]
    figures += _derived(figures, options, janus.config.num_gen_image_tokens)
    if options.whole > 0:
        figures.append(_whole(janus, options.whole))
    if peak is not None:
        figures.append(Figure(name="peak memory", value=peak / 1e9, unit="GB"))
    figures.append(Figure(name="read bandwidth", value=bandwidth / 1e9, unit="GB/s"))
    return Result(
        model=name,
        random_weights=random_weights,
        num_parameters=count_weights(model),
        dtype=str(dtype).removeprefix("torch."),
        quantization=None if (how := janus.config.quantization) is None else str(how),
        device=device.type,
        against=against,
        machine=describe_machine(device),
        options=options,
        figures=tuple(figures),
        packed_layers=count_packed(model),
    )


def _events(model: JanusModel, inputs: Inputs, options: BenchOptions) -> list[_Event]:
    steps, pictures = options.steps, options.pictures
    row = row_bytes(model)
    drawn = len(inputs.draw_ids) + min(steps, inputs.image_ids.shape[1]) // 2
    written = len(inputs.text_ids) + inputs.num_words // 2
    of_image, of_text = image_bytes(model), text_bytes(model)
    guided = 1 if inputs.guidance_scale == 1 else 2
    batch = options.batch
    return [
        _Event("image step", lambda who: who.draw(1), steps, of_image + guided * drawn * row),
        _Event(
            f"image step, {batch} at once",
            lambda who: who.draw(batch),
            steps,
            of_image + guided * batch * drawn * row,
        ),
        _Event("text step", lambda who: who.write(), steps, of_text + written * row),
        _Event("first word", lambda who: who.answer(picture=False), pictures),
        _Event("first word about a picture", lambda who: who.answer(picture=True), pictures),
        _Event("understanding", lambda who: who.understand(), pictures),
        _Event("VQ decode", lambda who: who.decode(), pictures),
    ]


def image_bytes(model: JanusModel) -> int:
    """Weights that a step of a drawing must read."""
    language_model = model.language_model
    if model.config.one_vocabulary:
        return _num_bytes(language_model.model.layers, language_model.lm_head)
    return _num_bytes(language_model.model.layers, model.gen_head, model.gen_aligner)


def text_bytes(model: JanusModel) -> int:
    """Weights that a step of a reply must read."""
    return _num_bytes(model.language_model.model.layers, model.language_model.lm_head)


def _num_bytes(*parts: nn.Module) -> int:
    return sum(
        tensor.nbytes
        for part in parts
        for tensors in (part.parameters(), part.buffers())
        for tensor in tensors
    )


def row_bytes(model: JanusModel) -> int:
    """Keys and values of one token."""
    cache = KVCache.allocate(
        model.config.language, 1, 1, device="meta", dtype=main_dtype(model), zeroed=False
    )
    return cache.keys.nbytes + cache.values.nbytes


def _race(event: _Event, contestants: list[Contestant], device: torch.device) -> _Times:
    """Take turns, who begins as well; the first round gets ready and is not counted."""
    times = _Times()
    entrants = list(
        zip([event.prepare(who) for who in contestants], (times.ours, times.theirs), strict=False)
    )
    for number in tqdm(range(event.rounds + 1), desc=event.name, leave=False, disable=None):
        for run, seconds in entrants[:: 1 if number % 2 else -1]:
            wait_for(device)
            began = time.perf_counter()
            run()
            wait_for(device)
            if number > 0:
                seconds.append(time.perf_counter() - began)
    return times


def _figure(event: _Event, times: _Times, bandwidth: float) -> Figure:
    figure = _median(event.name, times.ours)
    value = figure.value
    if times.theirs:
        theirs = statistics.median(times.theirs)
        figure = replace(figure, theirs=theirs, ratio=theirs / value)
    if event.read_bytes is not None:
        rate = event.read_bytes / value
        figure = replace(figure, read_gb_per_s=rate / 1e9, share=rate / bandwidth)
    return figure


def _median(name: str, seconds: list[float]) -> Figure:
    """With its quartiles."""
    low = high = value = statistics.median(seconds)
    if len(seconds) > 1:
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Figure(name=name, value=value, unit="s", low=low, high=high)


def _derived(figures: list[Figure], options: BenchOptions, num_ids: int) -> Iterator[Figure]:
    """What follows from steps: pictures and words, of whoever has run."""
    by_name = {figure.name: figure for figure in figures}
    step, decode = by_name["image step"], by_name["VQ decode"]
    together = by_name[f"image step, {options.batch} at once"]
    batch = options.batch
    yield _combine(
        "one picture", "s", lambda a, b: num_ids * a + b, step, decode, more_is_better=False
    )
    yield _combine(
        "pictures in a batch",
        "pictures/s",
        lambda a, b: batch / (num_ids * a + batch * b),
        together,
        decode,
        more_is_better=True,
    )
    text = by_name["text step"]
    yield _combine("words", "tokens/s", lambda a, _: 1 / a, text, text, more_is_better=True)


def _combine(
    name: str,
    unit: str,
    of: Callable[[float, float], float],
    first: Figure,
    second: Figure,
    *,
    more_is_better: bool,
) -> Figure:
    figure = Figure(name=name, value=of(first.value, second.value), unit=unit)
    if first.theirs is None or second.theirs is None:
        return figure
    theirs = of(first.theirs, second.theirs)
    ratio = figure.value / theirs if more_is_better else theirs / figure.value
    return replace(figure, theirs=theirs, ratio=ratio)


def _whole(janus: Janus, number: int) -> Figure:
    """Pictures of a prompt, one after another, from words to pixels; the first is not counted."""
    times = []
    for seed in tqdm(range(number + 1), desc="whole pictures", leave=False, disable=None):
        began = time.perf_counter()
        janus.draw(PROMPT, seed=seed)
        times.append(time.perf_counter() - began)
    return _median("one whole picture", times[1:])
