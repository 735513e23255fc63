"""``openjanus train --dry-run``: a recipe's runs as tables, from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openjanus.config import JanusConfig
from openjanus.data.samples import KINDS
from openjanus.model.janus import JanusModel, build_model
from openjanus.pipeline.load import NANO, packaged_models
from openjanus.presets import PRESETS, preset
from openjanus.train.config import JanusTrainConfig
from openjanus.train.estimate import (
    GB,
    MFU,
    PEAK_TFLOPS,
    advise,
    estimate_flops,
    estimate_memory,
    part_sizes,
    seconds,
    work_of,
)
from openjanus.train.recipes import read_configs
from openjanus.train.runs import TrainConfig
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.start import beside
from openjanus.train.text_tokenizer_config import TokenizerTrainConfig
from openjanus.train.trained import mark_trained
from openjanus.train.vq_config import VQTrainConfig
from openjanus.weights.formats import detect_format

DEVICES = ((1, 24), (1, 80), (8, 80))
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
    tables = []
    for name, config in configs:
        if isinstance(config, JanusTrainConfig):
            architecture = _architecture(config, known)
            known[Path(config.run.dir).name] = architecture
            tables.append(_janus_table(name, config, architecture, peak_tflops, mfu))
        else:
            tables.append(_other_table(name, config))
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
    whole = sum(flops.values())
    spent = ", ".join(f"{part} {n / whole:.0%}" for part, n in flops.items() if n > 0)
    times = [
        f"{devices} device{'s' * (devices > 1)} "
        + _duration(
            seconds(whole * config.run.last_step, devices=devices, peak_tflops=peak_tflops, mfu=mfu)
        )
        for devices in (1, 8)
    ]
    blocks.append(
        f"FLOPs      at most {whole:.3g} a step, {whole * config.run.last_step:.3g} in all: {spent}"
        f"\ntime       an estimate, at {mfu:.0%} of {peak_tflops:g} TFLOP/s: {', '.join(times)}"
    )
    fits = [
        (
            f"{devices} x {size} GB",
            advise(model, config, devices=devices, capacity=size * GB),
        )
        for devices, size in DEVICES
    ]
    blocks.append("fits\n" + "\n".join(f"  {device:<9}  {answer}" for device, answer in fits))
    return "\n\n".join(blocks)


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
    unit, size = ("GB", GB) if found[0].peak >= GB else ("MB", GB / 1000)
    rows = [
        (told, *(f"{getattr(memory, name) / size:.2f}" for memory in found))
        for name, told in names.items()
    ]
    rows.insert(0, ("rows at a time", *(str(memory.rows) for memory in found)))
    header = (f"{unit} a device", "1", "1, ckpt", "of 8", "of 8, ckpt")
    length = work_of(config).row_length
    return f"rows of {length:,} tokens; ckpt: activation checkpointing; of 8: FSDP\n" + _columns(
        header, rows
    )


def _other_table(name: str, config: TrainConfig) -> str:
    """Trainings of one door or of the text tokenizer: what is trained, and for how long."""
    if isinstance(config, TokenizerTrainConfig):
        return f"{name}: a text tokenizer from {config.samples:,} samples; nothing runs on a device"
    assert isinstance(config, VQTrainConfig | SiglipTrainConfig)
    model = build_model(preset(config.preset))
    part = "vq" if isinstance(config, VQTrainConfig) else "und_encoder"
    count = sum(parameter.numel() for parameter in getattr(model, part).parameters())
    kept = 16 * count / GB
    return "\n".join(
        [
            f"{name}: {part} of {config.preset}, told from shapes; no data was read",
            f"trained    {count:,} parameters, and what the training alone needs beside them",
            f"steps      {config.run.last_step:,} of {config.batch_size:,} pictures",
            (
                f"memory     {kept:.2f} GB of weights, gradients and AdamW's states of these; "
                "activations are not estimated for this kind"
            ),
        ]
    )


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
