"""Verbs on data: what is in it, how a model sees it, and what prepares it; and the worlds'."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openjanus.cli import worlds
from openjanus.cli.parsing import DEFAULT_MODEL, add_model, add_verb, load, parse_option

if TYPE_CHECKING:
    from openjanus.data.files.base import FileSource
    from openjanus.data.samples import Kind
    from openjanus.processor.prompt import Processor
    from openjanus.train.config import JanusTrainConfig


_OUTPUT = "a jsonl file; of shards and parquet a folder, or one file for one"


class BrokenData(Exception):
    """Items of a source cannot be used: the command ends with exit code 1."""


def add_verbs(verbs: Any) -> None:
    """Add this module's verb, and to it what is done with worlds."""
    data = verbs.add_parser("data", help="check, show and prepare data; fetch a world")
    kinds = data.add_subparsers(dest="kind", metavar="WHAT", required=True)
    worlds.add_verbs(kinds)
    lint = add_verb(kinds, "lint", _lint, "find what is broken, missing or too long")
    show = add_verb(kinds, "show", _show, "write a page of samples as the model sees them")
    for verb in (lint, show):
        _add_source(verb, required=False)
        verb.add_argument("--config", help="a recipe, whose sources are all looked at")
        verb.add_argument(
            "--model", help=f"whose tokens are meant: the recipe's own, else {DEFAULT_MODEL}"
        )
        verb.add_argument("--revision", help="of a hub id")
    lint.add_argument("--max-length", type=int, help="tokens of a sample; the recipe's or model's")
    lint.add_argument("--limit", type=int, help="items of a source; all when left out")
    show.add_argument("--n", type=int, default=16, help="samples of a source (%(default)s)")
    show.add_argument("--start", type=int, default=0, help="the first of them (%(default)s)")
    show.add_argument("--output", type=Path, default=Path("samples.html"), help="%(default)s")
    keep = add_verb(kinds, "filter", _filter, "write what keeps rules, in the kind that it came in")
    _add_source(keep, required=True)
    keep.add_argument("--min-side", type=int, default=1, help="pixels (%(default)s)")
    keep.add_argument("--max-aspect", type=float, default=float("inf"), help="longer : shorter")
    keep.add_argument("--score", metavar="MODULE:FUNCTION", help="of a Sample, to a number")
    keep.add_argument("--min-score", type=float, default=0.0, help="%(default)s")
    caption = add_verb(kinds, "caption", _caption, "let a model caption pictures")
    _add_source(caption, required=True)
    add_model(caption)
    caption.add_argument("--prompt", default="Describe the image in detail.", help="%(default)s")
    caption.add_argument("--max-new-tokens", type=int, default=256, help="%(default)s")
    caption.add_argument("--limit", type=int, help="items in this call; all when left out")
    for verb in (keep, caption):
        verb.add_argument("--output", type=Path, required=True, help=_OUTPUT)
    encode = add_verb(kinds, "encode-images", _encode, "compute the ids of a run's drawings")
    encode.add_argument("--config", required=True, help="the run's recipe")
    encode.add_argument("--run-dir", required=True, help="the run's folder")
    encode.epilog = "Every key of a recipe is an option too: --device cuda"
    encode.set_defaults(overrides=[])


def _add_source(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "source", nargs=None if required else "?", help="chat-jsonl, caption-jsonl, toy, ..."
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the source"
    )


def _tell(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def _processor(args: argparse.Namespace, config: JanusTrainConfig | None) -> Processor:
    """Of ``--model``; without it of what the recipe trains, where there is one."""
    from openjanus.pipeline.load import describe
    from openjanus.processor.prompt import Processor

    if config is not None and args.model is None:
        from openjanus.train.start import start_processor

        try:
            return start_processor(config)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the model that {args.config} trains is not known here ({error}): name one with "
                "the same tokens by --model"
            ) from error
    name = DEFAULT_MODEL if args.model is None else args.model
    _, model, tokenizer = describe(name, revision=args.revision)
    return Processor(model.config, tokenizer)


def _sources(args: argparse.Namespace) -> tuple[list[tuple[str, Kind | None, Any]], Any]:
    """Name, kind and source of all that the options name; and the recipe's configuration."""
    from openjanus.data.samples import KINDS
    from openjanus.data.sources import build_source

    if (args.source is None) == (args.config is None):
        raise ValueError("give either a source, with --set path=..., or --config RECIPE")
    if args.config is None:
        options = dict(parse_option(text) for text in args.set)
        return [(args.source, None, build_source(args.source, options))], None
    if args.set:
        raise ValueError("--set belongs to a source: the recipe has its own options")
    from openjanus.train.config import JanusTrainConfig
    from openjanus.train.recipes import load_recipe

    config = load_recipe(args.config)
    if not isinstance(config, JanusTrainConfig):
        raise ValueError(f"{args.config} trains no Janus: give a recipe of kind janus")
    return [
        (f"sources.{kind}.{number} {one.type}", kind, build_source(one.type, one.options))
        for kind in KINDS
        for number, one in enumerate(getattr(config.sources, kind))
    ], config


def _lint(args: argparse.Namespace) -> None:
    from openjanus.data.lint import describe, lint

    for name, value in (("--max-length", args.max_length), ("--limit", args.limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    sources, config = _sources(args)
    processor = _processor(args, config)
    max_length = processor.config.language.max_position_embeddings
    if config is not None:
        max_length = config.max_length
    if args.max_length is not None:
        max_length = args.max_length
    broken = []
    for name, kind, source in sources:
        report = lint(
            source,
            processor,
            max_length=max_length,
            kind=kind,
            mask_prompt=True if config is None else config.mask_prompt,
            limit=args.limit,
        )
        print(f"{name}: {describe(report, max_length=max_length)}")
        if not report.is_clean:
            broken.append(name)
    if broken:
        raise BrokenData(f"not every item can be used: {', '.join(broken)}")


def _show(args: argparse.Namespace) -> None:
    from openjanus.data.page import sample_page

    if args.n < 1 or args.start < 0:
        raise ValueError(f"--n must be >= 1 and --start >= 0, got {args.n} and {args.start}")
    sources, config = _sources(args)
    samples: list[Any] = []
    for name, _, source in sources:
        for index in range(args.start, min(args.start + args.n, len(source))):
            try:
                samples.append(source[index])
            except Exception as error:  # noqa: BLE001 - any code of a source: named, as by lint
                samples.append(f"{name}: {error}")
    if not samples:
        raise ValueError(f"no samples from --start {args.start} on: check the source's options")
    page = sample_page(
        samples,
        _processor(args, config),
        title=args.source if config is None else args.config,
        mask_prompt=True if config is None else config.mask_prompt,
        learn_image_start=False if config is None else config.image_start_loss,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(page, encoding="utf-8")
    print(args.output)


def _file_source(args: argparse.Namespace) -> FileSource:
    from openjanus.data.files.base import FileSource
    from openjanus.data.sources import build_source

    source = build_source(args.source, dict(parse_option(text) for text in args.set))
    if not isinstance(source, FileSource):
        raise ValueError(f"source {args.source!r} has no files: give one of the formats of files")
    if len(source) == 0:
        raise ValueError(f"source {args.source!r} holds nothing: check its options")
    return source


def _filter(args: argparse.Namespace) -> None:
    from openjanus.data.select import Rules, filter_source

    rules = Rules(
        min_side=args.min_side,
        max_aspect=args.max_aspect,
        score=args.score,
        min_score=args.min_score,
    )
    counts = filter_source(_file_source(args), rules, args.output, tell=_tell)
    print(f"{counts['written']} of {counts['done']} records kept{_rest(counts)}: {args.output}")


def _rest(counts: dict[str, int]) -> str:
    """What else is told of shards and tables, whose broken items are left out."""
    broken = counts.get("broken", 0)
    return f", {broken} broken" if broken else ""


def _caption(args: argparse.Namespace) -> None:
    from openjanus.train.recaption import recaption

    source = _file_source(args)
    named = (args.model, args.revision, args.adapter)
    counts = recaption(
        load(args),
        source,
        args.output,
        prompt=args.prompt,
        max_new_tokens=args.max_new_tokens,
        name=" + ".join(str(part) for part in named if part is not None),
        tell=_tell,
        limit=args.limit,
    )
    print(f"{counts['written']} of {len(source)} records{_rest(counts)}: {args.output}")
    if "files" in counts and counts["done"] < len(source):
        print(f"{counts['files']} files are whole; run this again for the rest", file=sys.stderr)


def _encode(args: argparse.Namespace) -> None:
    from openjanus.train.config import JanusTrainConfig
    from openjanus.train.encode_images import encode_images
    from openjanus.train.recipes import load_recipe

    config = load_recipe(args.config, ["--run.dir", args.run_dir, *args.overrides])
    if not isinstance(config, JanusTrainConfig):
        raise ValueError(f"{args.config} trains no Janus: give a recipe of kind janus")
    counts = encode_images(config, tell=_tell)
    print(f"{counts['encoded']} pictures have ids, {counts['broken']} cannot be used")
