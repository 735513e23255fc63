"""One run from its typed configuration: build, train, write what comes after it needs."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from tqdm import tqdm

from openjanus.config import DoorConfig, SemanticConfig, SiglipConfig, VQConfig
from openjanus.data.fetching import first_readable
from openjanus.data.mixture import Mixture
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, Sample
from openjanus.data.sources import build_source
from openjanus.folders import held, require_no_file
from openjanus.model.semantic import SemanticTokenizer
from openjanus.model.siglip import SiglipEncoder
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.processor.text import TextTokenizer, train_tokenizer
from openjanus.train.best import best_steps, ended_early
from openjanus.train.checkpoint import checkpoint_path, checkpoint_steps, load_checkpoint
from openjanus.train.config import JanusTrainConfig
from openjanus.train.loop import Task, run_loop
from openjanus.train.lora import take_adapter
from openjanus.train.parallel import ALONE, World, is_restart, open_world
from openjanus.train.parts import load_door, save_door
from openjanus.train.run_config import RunConfig
from openjanus.train.same_run import check_moves, check_same_run, plain
from openjanus.train.semantic_config import SemanticTrainConfig
from openjanus.train.semantic_trainer import SemanticTrainer, init_semantic
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.siglip_regions import pair_of
from openjanus.train.siglip_trainer import SiglipTrainer
from openjanus.train.stages import count_by_part
from openjanus.train.start import (
    beside,
    choose_init,
    donor,
    read_tokenizer,
    start_encoder,
    start_model,
    start_shapes,
)
from openjanus.train.teacher import load_teacher
from openjanus.train.text_tokenizer_config import TokenizerTrainConfig
from openjanus.train.trainer import JanusTrainer
from openjanus.train.vq_config import VQTrainConfig
from openjanus.train.vq_data import EpochPictures, PictureSource
from openjanus.train.vq_trainer import VQTrainer
from openjanus.weights.adapters import save_adapter
from openjanus.weights.own import save_model

TrainConfig = (
    VQTrainConfig
    | SemanticTrainConfig
    | SiglipTrainConfig
    | TokenizerTrainConfig
    | JanusTrainConfig
)

TOKENIZER_TIMEOUT_S = 24 * 3600.0
"""How long others wait for the first process, which alone reads the words of a tokenizer; of its
end they hear at once."""

LOCK_NAME = "train.lock"
"""File of a run's folder that keeps a second process out of it."""

FINAL = "final"
"""Folder of a complete run that holds its result."""


def is_complete(config: TrainConfig) -> bool:
    """Whether a run's folder holds its result."""
    return (Path(config.run.dir) / FINAL).is_dir()


def run_training(config: TrainConfig) -> None:
    """Train until the end or ``run.stop_at``; the result of a complete run goes into ``final``.

    Raises:
        FileNotFoundError: Nothing to start from.
        ValueError: No ``run.dir``, one that another process is at work in, a source's refusal, or a
            loss that is not finite.
    """
    if not config.run.dir:
        raise ValueError("run.dir must name a folder: add --run.dir DIR")
    if isinstance(config, TokenizerTrainConfig):
        with (
            open_world("cpu", name=config.run.dir, timeout_s=TOKENIZER_TIMEOUT_S) as world,
            _held_by_main(config.run, world),
        ):
            world.on_main(lambda: _run_tokenizer(config))
        return
    if is_restart() and not config.run.resume and checkpoint_steps(Path(config.run.dir)):
        # torchrun repeats the command of the start; what it means now is to go on.
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, resume=True))
    timeout_s = config.process_timeout_s
    with (
        open_world(config.device, name=config.run.dir, timeout_s=timeout_s) as world,
        _held_by_main(config.run, world),
    ):
        if isinstance(config, JanusTrainConfig):
            _run_janus(config, world)
        elif isinstance(config, SemanticTrainConfig):  # which is a VQTrainConfig too
            _run_semantic(config, world)
        elif isinstance(config, VQTrainConfig):
            _run_vq(config, world)
        else:
            _run_siglip(config, world)


@contextmanager
def _held_by_main(run: RunConfig, world: World) -> Iterator[None]:
    """Keep other runs out of the folder; the first process holds it, for all of this one.

    Raises:
        OtherProcessFailed: In the others, where the first one was refused.
        ValueError: Another run holds it, or it is a file.
    """
    folder = Path(run.dir)
    refusal = (
        f"another process is at work in {folder}: wait for it, or stop it, or give another "
        "--run.dir"
    )
    with ExitStack() as stack:

        def hold() -> None:
            require_no_file(folder, "run.dir")
            stack.enter_context(held(folder, LOCK_NAME, refusal=refusal))

        world.on_main(hold)
        yield


def _write_config(config: TrainConfig, facts: Mapping[str, Any] | None = None) -> None:
    """Write the resolved configuration, before anything is trained.

    Args:
        config: The run.
        facts: Of its data, by the keys of its sources; none of a run that has no checkpoints.

    Raises:
        ValueError: The run that is to be resumed was started with another configuration, or on
            other data.
    """
    folder = Path(config.run.dir)
    path = folder / "config.yaml"
    if config.run.resume and path.is_file():
        check_moves(config, check_same_run(config), {} if facts is None else facts)
    elif checkpoint_steps(folder) or is_complete(config):
        raise ValueError(
            f"{folder} holds a run already: add --run.resume true, or give another --run.dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def _publish(config: TrainConfig, write: Callable[[Path], None]) -> None:
    """Make ``final`` appear whole or not at all."""
    final = Path(config.run.dir) / FINAL
    draft = final.with_name(f"writing-{FINAL}")
    for old in (draft, final):
        if old.exists():
            shutil.rmtree(old)
    draft.mkdir()
    write(draft)
    draft.rename(final)
    tqdm.write(f"written: {final}", file=sys.stderr)


def _train(trainer: Task, run: RunConfig, *, description: str, world: World = ALONE) -> bool:
    """Run the loop; whether the run is complete, with the weights of its result in the trainer.

    Raises:
        FileNotFoundError: The result is to be the best checkpoint, and there is none.
    """
    done = run_loop(trainer, run, description=description, world=world)
    folder = Path(run.dir)
    if done < run.last_step and not ended_early(folder):
        return False
    if run.final_from == "best":
        steps = best_steps(folder)
        if not steps:
            assert run.best is not None
            raise FileNotFoundError(
                f"run.final_from is best, and {run.best.metric!r} was never measured: resume with "
                "--run.final_from last"
            )
        path = checkpoint_path(folder, steps[0])
        trainer.load_state_dict(load_checkpoint(path, world=world)["task"])
        if world.is_main:
            tqdm.write(f"result: the checkpoint of step {steps[0]}", file=sys.stderr)
    return True


def _run_janus(config: JanusTrainConfig, world: World) -> None:
    weights = None
    if world.size == 1:
        model, processor = start_model(config)
    else:
        model, processor, weights = start_shapes(config, tell=world.is_main)
    trainer = JanusTrainer(model, processor, config, world=world, weights=weights)
    if world.is_main:
        trained = count_by_part(trainer.trained.parameters.items())
        counts = ", ".join(f"{part} {n:,}" for part, n in trained.items())
        tqdm.write(f"trained: {counts}", file=sys.stderr)
    world.on_main(lambda: _write_config(config, trainer.facts))
    is_complete = _train(trainer, config.run, description=f"stage {config.stage}", world=world)
    trainer.close()
    if is_complete:
        write = _result_of(config, trainer, processor.tokenizer)
        world.on_main(lambda: _publish(config, write))


def _result_of(
    config: JanusTrainConfig, trainer: JanusTrainer, tokenizer: TextTokenizer
) -> Callable[[Path], None]:
    """What writes the result: all processes put it together, and the first one writes.

    It is the model; or of a run with adapters these alone, by both names that they may be wanted.
    """
    if config.lora is None:
        final = trainer.whole_model(average=True)

        def write_model(folder: Path) -> None:
            assert final is not None  # in the first process
            save_model(folder, final, tokenizer)

        return write_model
    base = str(choose_init(config.init, config.run.dir))
    trainer.reshard()
    adapter = take_adapter(trainer.model, config.lora, base=base)

    def write_adapters(folder: Path) -> None:
        save_adapter(folder / "adapter", adapter, layout="openjanus")
        save_adapter(folder / "transformers-adapter", adapter, layout="transformers")

    return write_adapters


def _train_door(
    trainer: VQTrainer | SiglipTrainer,
    config: TrainConfig,
    world: World,
    description: str,
    result: Callable[[], tuple[nn.Module, DoorConfig]],
) -> None:
    """Run the loop over a trainer that has all of its door in every process, and write the door."""
    world.on_main(lambda: _write_config(config, trainer.facts))
    if _train(trainer, config.run, description=description, world=world):
        world.on_main(lambda: _publish(config, lambda folder: save_door(folder, *result())))


def _run_vq(config: VQTrainConfig, world: World) -> None:
    door = preset(config.preset).gen_tokenizer
    if type(door) is not VQConfig:
        raise ValueError(f"preset {config.preset!r} has a tokenizer of type {door.type!r}, not vq")
    model = VQTokenizer(door)
    if config.init is None:
        init_vq(model, config.run.seed)
    else:
        load_door(beside(config.run.dir, config.init), model, door)
    model.to(world.device)
    trainer = VQTrainer(model, _pictures(config), config, world=world)
    _train_door(trainer, config, world, "vq", lambda: (trainer.result, door))


def _pictures(config: VQTrainConfig) -> PictureSource:
    source = build_source(config.source.type, config.source.options)
    if not hasattr(source, "picture"):
        held_out = config.eval.pictures
        return EpochPictures(source, seed=config.run.seed, held_out=held_out)
    return source


def _run_semantic(config: SemanticTrainConfig, world: World) -> None:
    door = preset(config.preset).gen_tokenizer
    if not isinstance(door, SemanticConfig):
        raise ValueError(
            f"preset {config.preset!r} has a tokenizer of type {door.type!r}, not semantic: take "
            "one such as tiny-semantic"
        )
    model = SemanticTokenizer(door)
    if config.init is None:
        init_vq(model, config.run.seed)
        init_semantic(model, config.run.seed)
        if config.vq is not None:
            _put_plain_vq(donor(config.run.dir, config.vq), model)
    else:
        load_door(beside(config.run.dir, config.init), model, door)
    model.to(world.device)
    teacher = load_teacher(config.run.dir, config.teacher)
    trainer = SemanticTrainer(model, teacher, _pictures(config), config, world=world)
    _train_door(trainer, config, world, "semantic", lambda: (trainer.result, door))


@torch.no_grad()
def _put_plain_vq(path: Path, model: SemanticTokenizer) -> None:
    """Fill all of a semantic tokenizer but its branch.

    Raises:
        FileNotFoundError: No tokenizer lies there.
        ValueError: One of other sizes.
    """
    semantic = model.semantic.config
    door = VQConfig(**{item.name: getattr(semantic, item.name) for item in fields(VQConfig)})
    plain = VQTokenizer(door)
    load_door(path, plain, door)
    own = model.state_dict()
    for name, tensor in plain.state_dict().items():
        own[name].copy_(tensor)


@torch.no_grad()
def init_vq(model: VQTokenizer, seed: int) -> None:
    """PyTorch's scale for convolutions, unit-variance rows for the codebook; by the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            module.weight.uniform_(-bound, bound, generator=generator)
            if module.bias is not None:
                module.bias.uniform_(-bound, bound, generator=generator)
    model.quantize.embedding.weight.normal_(0.0, 1.0, generator=generator)


def _run_siglip(config: SiglipTrainConfig, world: World) -> None:
    model_config = preset(config.preset)
    door = model_config.und_encoder
    if not isinstance(door, SiglipConfig):
        raise ValueError(f"preset {config.preset!r} has an encoder of type {door.type!r}")
    encoder = SiglipEncoder(door)
    tokenizer = read_tokenizer(config.run.dir, config.tokenizer, model_config.processor)
    source = build_source(config.source.type, config.source.options)
    pair_of(first_readable(source))
    trainer = SiglipTrainer(
        encoder,
        tokenizer,
        source,
        model_config.processor,
        config,
        start=partial(start_encoder, config) if config.init else None,
        world=world,
    )
    _train_door(trainer, config, world, "encoder", lambda: (encoder, door))


def _run_tokenizer(config: TokenizerTrainConfig) -> None:
    model_config = preset(config.preset)
    _write_config(config)
    tokenizer = train_tokenizer(
        _texts(config),
        model_config.text_vocab_size,
        model_config.processor,
        split_han=config.split_han,
    )
    _publish(config, lambda folder: tokenizer.save(folder / "tokenizer.json"))
    tqdm.write(f"tokenizer: {tokenizer.vocab_size} ids", file=sys.stderr)


def _texts(config: TokenizerTrainConfig) -> Iterator[str]:
    """The words of every source, each by its weight; pictures are left out."""
    sources = [build_source(source.type, source.options) for source in config.sources]
    order = Mixture(
        {"text": [len(source) for source in sources]},
        {"text": [source.weight for source in config.sources]},
        (0, 1, 0),
        seed=config.run.seed,
    )
    for n in tqdm(range(config.samples), desc="tokenizer", unit="sample"):
        draw = order.draw(n)
        item = sources[draw.source][draw.index]
        if isinstance(item, Sample):
            for turn in item.turns:
                words = turn.text.replace(IMAGE_MARK, "").replace(DRAW_MARK, "")
                yield words
                yield f" {words}"  # the template puts a space before what somebody says
        elif _is_pair(item):
            yield item[1]
        else:
            raise ValueError(
                f"source {config.sources[draw.source].type!r} has no words: take one of samples "
                "or pairs, such as emoji-text"
            )


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str)
