"""Where a run's weights come from: an earlier stage, a folder, or a preset filled afresh."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from openjanus.config import DecoderConfig, DoorConfig, JanusConfig, ProcessorConfig
from openjanus.config_file import parse_dataclass
from openjanus.model.janus import JanusModel, build_model
from openjanus.model.siglip import SiglipEncoder
from openjanus.pipeline.load import NANO, packaged_models
from openjanus.presets import PRESETS, preset
from openjanus.processor.prompt import Processor
from openjanus.processor.templates import with_template
from openjanus.processor.text import TextTokenizer, add_special_tokens, byte_tokenizer
from openjanus.rules import near
from openjanus.train.checkpoint import checkpoint_steps
from openjanus.train.config import JanusTrainConfig
from openjanus.train.late_weights import Fill, LateWeights, Places, can_come_late
from openjanus.train.lora import fill_adapters
from openjanus.train.parts import gen_embed_of_codebook, read_door, read_language_model
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.weights.formats import Checkpoint, load_model, open_checkpoint
from openjanus.weights.published import NEW_ROLES, read_vocabulary

SHIPPED = "shipped/"
"""Before the name of a packaged model that is also a preset's: its weights are meant."""


def beside(run_dir: str, path: str) -> Path:
    """Where a path of a recipe lies.

    Args:
        run_dir: Folder of the run.
        path: Absolute, or starting with ``.`` or ``~``: as given. ``shipped/NAME``: a packaged
            model. Else beside ``run_dir``.

    Raises:
        ValueError: No packaged model of that name.
    """
    given = Path(path).expanduser()
    if given.is_absolute() or path.startswith("."):
        return given
    if not path.startswith(SHIPPED):
        return Path(run_dir).parent / given
    packaged, name = packaged_models(), path.removeprefix(SHIPPED)
    if name not in packaged:
        raise ValueError(f"no packaged model is called {name!r}: {near(name, [*packaged])}")
    return packaged[name]


def donor(run_dir: str, path: str) -> Path:
    """Where somebody else's part lies: ``nano`` is the model in this package, else ``beside``."""
    return packaged_models().get(path) or beside(run_dir, path)


def grown_tokenizer(folder: Path, config: JanusConfig) -> TextTokenizer:
    """A decoder's own tokenizer, with the tokens that a Janus needs after its last id.

    Raises:
        FileNotFoundError: No ``tokenizer.json``.
        ValueError: A broken file, or no room for them in the model's table.
    """
    vocabulary = read_vocabulary(folder)
    add_special_tokens(vocabulary, config.processor)
    tokenizer = TextTokenizer(vocabulary, config.processor, name=str(folder / "tokenizer.json"))
    if tokenizer.vocab_size > config.language.vocab_size:
        raise ValueError(
            f"{folder} has a tokenizer of {tokenizer.vocab_size} ids with the tokens of a Janus, "
            f"the model's table has {config.language.vocab_size}: give --tokenizer"
        )
    return tokenizer


def read_tokenizer(run_dir: str, path: str | None, config: ProcessorConfig) -> TextTokenizer:
    """The text tokenizer of a fresh model; bytes where no path is given.

    Raises:
        FileNotFoundError: No tokenizer lies there.
    """
    if path is None:
        return byte_tokenizer(config)
    file = donor(run_dir, path)
    return TextTokenizer.from_file(file / "tokenizer.json" if file.is_dir() else file, config)


def start_processor(config: JanusTrainConfig) -> Processor:
    """How the model that a run begins with sees a sample; of its weights nothing is read.

    Args:
        config: The run; doors that it takes from elsewhere need not be there.

    Raises:
        FileNotFoundError: None of ``init`` exists, or no tokenizer.
        ValueError: A tokenizer that does not fit the model.
    """
    base = _open_base(dataclasses.replace(config, vq=None, und_encoder=None), tell=False)
    return Processor(base.config, base.tokenizer)


def start_model(config: JanusTrainConfig, *, tell: bool = True) -> tuple[JanusModel, Processor]:
    """The model that a run begins with, in fp32, and its processor.

    Args:
        config: The run.
        tell: Whether to say which weights were chosen.

    Raises:
        FileNotFoundError: None of ``init`` exists; the message says what to run first.
        ValueError: A tokenizer or door that does not fit the model.
    """
    base = _open_base(config, tell=tell)
    if base.checkpoint is None:
        model = fresh_model(base.config, config.run.seed)
    else:
        model = base.checkpoint.load(device="cpu", dtype=torch.float32)
    places = Places(model)
    with torch.no_grad():
        for fill in _parts_put_in(config, model):
            fill(places)
    return model, Processor(model.config, base.tokenizer)


def start_shapes(
    config: JanusTrainConfig, *, tell: bool = True
) -> tuple[JanusModel, Processor, LateWeights | None]:
    """``start_model`` for one of several processes, which must not hold all of the weights.

    Args:
        config: The run.
        tell: Whether to say which weights were chosen.

    Returns:
        The model on the meta device, its processor, and its weights, the same to the bit, to be
        poured in once it is sharded. Or the whole model and None, where a door fills itself.

    Raises:
        FileNotFoundError: As ``start_model``.
        ValueError: As ``start_model``; what is wrong with tensors is told when they are read.
    """
    base = _open_base(config, tell=tell)
    model = build_model(base.config)
    if not can_come_late(model):
        if tell:
            tqdm.write(
                "weights: whole in every process at first: a door fills itself or has buffers",
                file=sys.stderr,
            )
        return *start_model(config, tell=False), None
    fills: list[Fill] = [partial(_put_base, base, model, seed=config.run.seed)]
    fills += _parts_put_in(config, model)
    if config.lora is not None:
        fills.append(lambda _: fill_adapters(model, seed=config.run.seed))
    return model, Processor(model.config, base.tokenizer), LateWeights(model, fills)


@dataclass(frozen=True, slots=True)
class _Base:
    """What ``init`` chose."""

    config: JanusConfig
    tokenizer: TextTokenizer
    checkpoint: Checkpoint | None
    """None where the weights are fresh."""


def _open_base(config: JanusTrainConfig, *, tell: bool) -> _Base:
    chosen = choose_init(config.init, config.run.dir)
    _require_parts(config)
    if tell:
        tqdm.write(f"weights: {chosen}", file=sys.stderr)
    if isinstance(chosen, Path):
        if config.decoder:
            raise ValueError(
                f"decoder ({', '.join(config.decoder)}) is for fresh weights, and {chosen} has "
                "weights and a decoder of its own: leave it out"
            )
        checkpoint = open_checkpoint(chosen)
        checkpoint.config.require_plain(chosen)
        checkpoint = _with_wanted_template(checkpoint, config)
        base = _Base(checkpoint.config, checkpoint.tokenizer, checkpoint)
    else:
        model_config = _with_decoder(preset(chosen), config.decoder)
        if config.template is not None:
            words = with_template(model_config.processor, config.template)
            model_config = dataclasses.replace(model_config, processor=words)
        if config.tokenizer is None and config.language_model is not None:
            folder = beside(config.run.dir, config.language_model)
            tokenizer = grown_tokenizer(folder, model_config)
        else:
            tokenizer = read_tokenizer(config.run.dir, config.tokenizer, model_config.processor)
        base = _Base(model_config, tokenizer, None)
    if config.preset is not None:
        _require_preset(base.config, config.preset, str(chosen))
    return base


def _with_wanted_template(checkpoint: Checkpoint, config: JanusTrainConfig) -> Checkpoint:
    """A trained model with the run's template, which may differ where the run says so."""
    own, wanted = checkpoint.config.processor, config.template
    if wanted is None or wanted == own.template:
        return checkpoint
    if not config.change_template:
        raise ValueError(
            f"{checkpoint.folder} has the template {own.template!r}, and template is {wanted!r}: "
            "leave template out, or add --change_template true to teach the model another"
        )
    has_tokens = all(checkpoint.tokenizer.has_token(role) for role in NEW_ROLES)
    words = with_template(own, wanted, role_tokens=NEW_ROLES if has_tokens else None)
    return dataclasses.replace(
        checkpoint, config=dataclasses.replace(checkpoint.config, processor=words)
    )


def _put_base(base: _Base, model: JanusModel, places: Places, *, seed: int) -> None:
    """What ``fresh_model`` or ``Checkpoint.load`` gives, tensor by tensor."""
    if base.checkpoint is not None:
        base.checkpoint.read(places.put)
        return
    shapes = build_model(base.config)  # the model itself may have adapters by now
    shapes.init_weights(torch.Generator().manual_seed(seed), put=places.put)
    _put_codebook(model, places)


def _put_codebook(model: JanusModel, places: Places) -> None:
    for name, values in gen_embed_of_codebook(model).items():
        places.put(name, values)


def _parts_put_in(config: JanusTrainConfig, model: JanusModel) -> list[Fill]:
    """Other models' parts, in the place of what the base has."""
    fills: list[Fill] = []

    def put_door(key: str, path: str, door: DoorConfig, places: Places) -> None:
        read_door(donor(config.run.dir, path), door, *places.below(key))

    if config.language_model is not None:
        folder = beside(config.run.dir, config.language_model)
        language = model.config.language
        fills.append(
            lambda places: read_language_model(folder, language, *places.below("language_model"))
        )
    if config.vq is not None:
        fills.append(partial(put_door, "vq", config.vq, model.config.gen_tokenizer))
        # Its pictures have other ids now, so what stands for each must be made anew as well.
        fills.append(partial(_put_codebook, model))
    if config.und_encoder is not None:
        door = model.config.und_encoder
        fills.append(partial(put_door, "und_encoder", config.und_encoder, door))
    return fills


def _require_parts(config: JanusTrainConfig) -> None:
    """Say what is not there before a model is built, which takes minutes for a large one."""
    for key in ("language_model", "vq", "und_encoder"):
        path = getattr(config, key)
        if path is not None and not donor(config.run.dir, path).exists():
            raise FileNotFoundError(
                f"no {key} at {beside(config.run.dir, path)}: docs/recipes.md says what to put "
                f"there, or give another --{key}, or null for none"
            )


def _require_preset(config: JanusConfig, name: str, source: str) -> None:
    wanted = preset(name)
    for part in ("language", "und_encoder", "gen_tokenizer"):
        found = getattr(config, part)
        if found != getattr(wanted, part):
            raise ValueError(
                f"{source} is no {name}: its {part} is {found}: give the --preset that it is of, "
                "or null for any"
            )


def _with_decoder(config: JanusConfig, changes: Mapping[str, Any]) -> JanusConfig:
    if not changes:
        return config
    values = dataclasses.asdict(config.language) | dict(changes)
    return dataclasses.replace(config, language=parse_dataclass(DecoderConfig, values, "decoder"))


def start_encoder(config: SiglipTrainConfig, encoder: SiglipEncoder) -> None:
    """Fill an understanding encoder from that of a trained Janus.

    Raises:
        FileNotFoundError: None of ``init`` exists.
        ValueError: A preset, which is not trained, or an encoder of another configuration.
    """
    chosen = choose_init(config.init, config.run.dir)
    if isinstance(chosen, str):
        raise ValueError(f"init of an encoder must be a trained Janus, got the preset {chosen!r}")
    tqdm.write(f"weights: {chosen}", file=sys.stderr)
    model, _ = load_model(chosen, device="cpu", dtype=torch.float32)
    if model.config.und_encoder != encoder.config:
        raise ValueError(
            f"{chosen} has the encoder {model.config.und_encoder}, the run wants "
            f"{encoder.config}: use the same preset"
        )
    encoder.load_state_dict(model.und_encoder.state_dict(), strict=True)


def fresh_model(config: JanusConfig, seed: int) -> JanusModel:
    """A model with random weights that depend on the seed alone; gen_embed is the codebook."""
    model = build_model(config, device="cpu")
    model.init_weights(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        _put_codebook(model, Places(model))
    return model


def choose_init(init: Sequence[str], run_dir: str) -> Path | str:
    """The first of ``init`` that exists: a folder, or the name of a preset.

    Args:
        init: Folders beside ``run_dir``; names of presets, whose weights are drawn afresh;
            ``nano``, the newest packaged model, or ``shipped/NAME``, one of that name.
        run_dir: Folder of the run.

    Raises:
        FileNotFoundError: None exists.
        ValueError: The run that one of them is the result of was stopped before its end.
    """
    packaged = packaged_models()
    for name in init:
        if name == NANO and NANO in packaged:
            return packaged[NANO]
        if name in PRESETS:
            return name
        folder = beside(run_dir, name)
        if (folder / "config.json").is_file():
            return folder
        if (folder / "adapter").is_dir():
            raise ValueError(
                f"{folder} holds adapters, not a model: merge them first (openjanus convert BASE "
                f"OUT --adapter {folder / 'adapter'}), and give OUT"
            )
        if checkpoint_steps(folder.parent):
            raise ValueError(
                f"the run in {folder.parent} is not complete: finish it with --run.resume true "
                "before what comes after it"
            )
    tried = ", ".join(str(beside(run_dir, name)) if "/" in name else repr(name) for name in init)
    raise FileNotFoundError(
        f"no weights to start from: tried {tried}; run the stage before in a folder beside "
        f"{run_dir or 'run.dir'}, or give --init '[FOLDER]' or a preset "
        f"({near(init[-1], list(PRESETS))})"
    )
