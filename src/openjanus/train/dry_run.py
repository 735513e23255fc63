"""``openjanus train --dry-run``: a recipe's runs as tables, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from openjanus.config import JanusConfig
from openjanus.data.samples import KINDS
from openjanus.model.janus import JanusModel, build_model
from openjanus.pipeline.load import NANO, packaged_models
from openjanus.presets import PRESETS, preset
from openjanus.train.config import JanusTrainConfig
from openjanus.train.door_estimate import (
    DoorConfig,
    DoorWork,
    advise_door,
    estimate_door,
)
from openjanus.train.estimate import (
    GB,
    MFU,
    PEAK_TFLOPS,
    Memory,
    advise,
    estimate_flops,
    estimate_memory,
    part_sizes,
    seconds,
    work_of,
)
from openjanus.train.recipes import read_configs
from openjanus.train.runs import TrainConfig
from openjanus.train.semantic_config import SemanticTrainConfig
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.start import beside, donor
from openjanus.train.text_tokenizer_config import TokenizerTrainConfig
from openjanus.train.trained import mark_trained
from openjanus.weights.formats import detect_format

MANY = 8
"""Devices that share a run, beside one alone."""

DEVICES = ((1, 24), (1, 80), (MANY, 80))
"""Numbers of devices and their gigabytes that the answer is given for."""

DAY = 86_400
HOUR = 3_600


def describe_recipe(
    name_or_path: str,
    overrides: Sequence[str] = (),
    *,
    peak_tflops: float = PEAK_TFLOPS,
    mfu: float = MFU,
) -> str:
    """Tables of what a recipe trains and takes; no weights and no data are read.

    Args:
        name_or_path: As ``run_recipe``'s; of ``all``, a table a run.
        overrides: Likewise; ``run.dir`` may be left out.
        peak_tflops: Of a device, in bf16.
        mfu: Share of it that is reached.

    Raises:
        FileNotFoundError: No such recipe; or a run names no architecture.
        ValueError: A wrong key or value.
    """
    if not (0 < mfu <= 1 and peak_tflops > 0):
        raise ValueError(f"mfu must be in (0, 1] and the peak > 0, got {mfu} and {peak_tflops}")
    configs = read_configs(name_or_path, overrides)
    known: dict[str, JanusConfig] = {}
    encoders: dict[str, JanusConfig] = {}
    tables = []
    for name, config in configs:
        if isinstance(config, JanusTrainConfig):
            architecture = _architecture(config, known)
            known[Path(config.run.dir).name] = architecture
            tables.append(_janus_table(name, config, architecture, peak_tflops, mfu))
        elif isinstance(config, TokenizerTrainConfig):
            tables.append(_tokenizer_table(name, config))
        else:
            teacher, told = _teacher(config, encoders)
            if isinstance(config, SiglipTrainConfig):
                encoders[Path(config.run.dir).name] = preset(config.preset)
            tables.append(_door_table(name, config, teacher, told, peak_tflops, mfu))
    return "\n\n".join(tables)


def _architecture(config: JanusTrainConfig, known: dict[str, JanusConfig]) -> JanusConfig:
    """Of the preset, of what lies there already, or of the run that will have been before."""
    if config.preset is not None:
        return preset(config.preset)
    packaged = packaged_models()
    for name in config.init:
        folder = packaged[NANO] if name == NANO else beside(config.run.dir, name)
        if (folder / "config.json").is_file():
            found = detect_format(folder).read(folder)[0]
            found.require_plain(folder)
            return found
        if name.split("/")[0] in known:
            return known[name.split("/")[0]]
        if name in PRESETS:
            return preset(name)
    raise FileNotFoundError(
        f"nothing says of which architecture this run is: none of {', '.join(config.init)} is "
        f"there; add --preset, one of {', '.join(PRESETS)}"
    )


def _janus_table(
    name: str,
    config: JanusTrainConfig,
    architecture: JanusConfig,
    peak_tflops: float,
    mfu: float,
) -> str:
    model = build_model(architecture)
    mark_trained(model, config)
    sizes = part_sizes(model)
    rows = [(part, f"{size.total:,}", f"{size.trained:,}") for part, size in sizes.items()]
    total = sum(size.total for size in sizes.values())
    rows.append(("all", f"{total:,}", f"{sum(size.trained for size in sizes.values()):,}"))
    what = (
        f"stage {config.stage}" if config.lora is None else f"adapters of rank {config.lora.rank}"
    )
    blocks = [
        f"{name}: {what}, told from shapes; no weights and no data were read",
        _columns(("part", "parameters", "trained"), rows),
        _steps(config, model.config.num_gen_image_tokens),
        _memory(model, config),
    ]
    flops = estimate_flops(model, config)
    run = sum(flops.values()) * config.run.last_step
    blocks.append(_flops(flops, run, peak_tflops, mfu))
    blocks.append(
        _fits(lambda devices, size: advise(model, config, devices=devices, capacity=size))
    )
    return "\n\n".join(blocks)


def _flops(
    flops: Mapping[str, float],
    run: float,
    peak_tflops: float,
    mfu: float,
    numbers: Sequence[int] = (1, MANY),
) -> str:
    """Operations of a step, by where they are spent, and of a run; and what time that is."""
    whole = sum(flops.values())
    spent = ", ".join(f"{part} {n / whole:.0%}" for part, n in flops.items() if n > 0)
    times = [
        f"{devices} device{'s' * (devices > 1)} "
        + _duration(seconds(run, devices=devices, peak_tflops=peak_tflops, mfu=mfu))
        for devices in numbers
    ]
    return (
        f"FLOPs      at most {whole:.3g} a step, {run:.3g} in all: {spent}"
        f"\ntime       an estimate, at {mfu:.0%} of {peak_tflops:g} TFLOP/s: {', '.join(times)}"
    )


def _fits(answer: Callable[[int, float], str]) -> str:
    """What there is to say of each number of devices and their capacity in bytes."""
    rows = [(f"{devices} x {size} GB", answer(devices, size * GB)) for devices, size in DEVICES]
    return "fits\n" + "\n".join(f"  {name:<9}  {told}" for name, told in rows)


def _steps(config: JanusTrainConfig, num_image_tokens: int) -> str:
    work, run = work_of(config), config.run
    steps = f"{run.last_step:,}"
    if run.early_stop is not None:
        steps += f", then complete, of a schedule of {run.steps:,}"
    unit = "samples"
    if config.batch_unit == "packs":
        unit = f"packs of {work.row_length:,} tokens"
    ratio = " : ".join(f"{share:g}" for share in config.ratio)
    supervised = "known when the data is read"
    drawn = config.ratio[KINDS.index("gen")] / sum(config.ratio) * config.batch_size
    if drawn > 0:
        supervised += f"; {num_image_tokens:,} a drawing"
    if config.batch_unit == config.ratio_unit == "samples" and drawn > 0:
        supervised += f", {round(drawn * num_image_tokens):,} a step in drawings"
    return "\n".join(
        [
            f"steps      {steps}",
            (
                f"batch      {config.batch_size:,} {unit}, und : text : gen {ratio} in "
                f"{config.ratio_unit}"
            ),
            f"tokens     at most {work.tokens_per_step:,} a step, {work.tokens:,} in all",
            f"supervised {supervised}",
        ]
    )


def _memory(model: JanusModel, config: JanusTrainConfig) -> str:
    """Gigabytes a device, alone and as one of eight, plain and with checkpointing."""
    cases = [(1, False), (1, True), (8, False), (8, True)]
    found = [
        estimate_memory(model, config, devices=devices, checkpointing=checkpointing)
        for devices, checkpointing in cases
    ]
    names = {
        "weights": "weights, fp32",
        "gradients": "gradients, fp32",
        "optimizer": "optimizer states",
        "copies": "weights in bf16",
        "activations": "activations of these",
        "logits": "logits, all supervised",
        "encoding": "(tokenizing pictures)",
        "peak": "peak",
    }
    length = work_of(config).row_length
    title = f"rows of {length:,} tokens; ckpt: activation checkpointing; of 8: FSDP"
    return _memory_table(title, "rows", ("1", "1, ckpt", "of 8", "of 8, ckpt"), found, names)


def _memory_table(
    title: str,
    items: str,
    cases: Sequence[str],
    found: Sequence[Memory],
    names: Mapping[str, str],
) -> str:
    unit, size = ("GB", GB) if found[0].peak >= GB else ("MB", GB / 1000)
    rows = [
        (told, *(f"{getattr(memory, name) / size:.2f}" for memory in found))
        for name, told in names.items()
    ]
    rows.insert(0, (f"{items} at a time", *(f"{memory.rows:,}" for memory in found)))
    return f"{title}\n" + _columns((f"{unit} a device", *cases), rows)


def _tokenizer_table(name: str, config: TokenizerTrainConfig) -> str:
    return f"{name}: a text tokenizer from {config.samples:,} samples; nothing runs on a device"


def _teacher(
    config: TrainConfig, known: Mapping[str, JanusConfig]
) -> tuple[JanusConfig | None, str | None]:
    """Whose encoder teaches, where there is one and its architecture is known; and who says so.

    It is that of the folder, of the run that will have been before, or of the preset that is
    called as the folder.
    """
    if not isinstance(config, SemanticTrainConfig):
        return None, None
    folder = donor(config.run.dir, config.teacher)
    if (folder / "config.json").is_file():
        return detect_format(folder).read(folder)[0], "as it lies there"
    first, last = config.teacher.split("/")[0], folder.name
    if first in known:
        return known[first], "of the run before"
    if last in PRESETS:
        return preset(last), "is not there: taken for the preset of that name"
    return None, None


def _door_table(
    name: str,
    config: DoorConfig,
    teacher: JanusConfig | None,
    told: str | None,
    peak_tflops: float,
    mfu: float,
) -> str:
    """A training of one door, whose weights every device has."""
    work = estimate_door(config, teacher)
    rows = [(part, f"{size.total:,}", f"{size.trained:,}") for part, size in work.parts.items()]
    total = sum(size.total for size in work.parts.values())
    trained = sum(size.trained for size in work.parts.values())
    rows.append(("all", f"{total:,}", f"{trained:,}"))
    what = "und_encoder" if isinstance(config, SiglipTrainConfig) else "gen_tokenizer"
    blocks = [
        f"{name}: {what} of {config.preset}, told from shapes; no weights and no data were read",
        _columns(("part", "parameters", "trained"), rows),
        _door_steps(config, work, told),
    ]
    names = {
        "weights": "weights, fp32",
        "gradients": "gradients, fp32",
        "optimizer": "optimizer states",
        "copies": "weights in bf16",
        "activations": "activations of these",
        "logits": "logits of the pairs",
        "peak": "peak",
    }
    if not isinstance(config, SiglipTrainConfig):
        del names["logits"]
    refused, cases = work.refused(MANY), {1: "1", MANY: f"of {MANY}"}
    title = f"of {MANY}: each has all weights, and its part of the batch"
    if refused is not None:
        title = f"of one device: {refused}"
        del cases[MANY]
    found = [work.memory(devices) for devices in cases]
    blocks.append(_memory_table(title, "pictures", [*cases.values()], found, names))
    dearest = max(work.phases, key=lambda phase: sum(phase.flops.values()))
    blocks.append(_flops(dearest.flops, work.flops, peak_tflops, mfu, list(cases)))
    blocks.append(_fits(lambda devices, size: advise_door(work, devices=devices, capacity=size)))
    return "\n\n".join(blocks)


def _door_steps(config: DoorConfig, work: DoorWork, told: str | None) -> str:
    steps = f"{config.run.last_step:,}"
    if config.run.early_stop is not None:
        steps += f", then complete, of a schedule of {config.run.steps:,}"
    batches = [f"{p.batch:,} pictures of {p.side} pixels" for p in work.phases]
    batch = " and then ".join(
        text if len(batches) == 1 else f"{phase.steps:,} steps of {text}"
        for phase, text in zip(work.phases, batches, strict=True)
    )
    lines = [f"steps      {steps}", f"batch      {batch}"]
    pictures = sum(phase.steps * phase.batch for phase in work.phases)
    lines.append(f"pictures   {pictures:,} in all")
    if isinstance(config, SiglipTrainConfig):
        lines.append(
            f"captions   as many, of {config.max_text_length} tokens at most; regions have more, "
            "known when the data is read"
        )
    if told is not None and isinstance(config, SemanticTrainConfig):
        lines.append(f"teacher    {config.teacher}, {told}")
    if work.untold is not None:
        lines.append(f"left out   {work.untold}")
    return "\n".join(lines)


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [header, *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def _duration(time: float) -> str:
    if time >= DAY:
        return f"{time / DAY:,.1f} days"
    return f"{time / HOUR:.1f} hours" if time >= HOUR else f"{time:.1f} seconds"
