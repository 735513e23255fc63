"""What all verbs share: a parser that reports in one line, and common options."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from PIL.Image import Image

    from openjanus import EngineOptions, Janus

DEFAULT_MODEL = "nano"

EXTRAS = {
    "train": {
        "yaml": "pyyaml",
        "matplotlib": "matplotlib",
        "pyarrow": "pyarrow",
        "tensorboard": "tensorboard",
    },
    "eval": {"pyarrow": "pyarrow"},
    "wandb": {"wandb": "wandb"},
    "lora": {"peft": "peft"},
    "nano": {"resvg_py": "resvg-py", "yaml": "pyyaml"},
    "serve": {
        "fastapi": "fastapi",
        "uvicorn": "uvicorn",
        "prometheus_client": "prometheus-client",
        "pydantic": "fastapi",
        "httpx": "httpx",
    },
    "web": {"onnx": "onnx", "onnxscript": "onnxscript"},
}
"""Extra -> the modules that it brings, each with the package that holds it."""


class Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage, so that every mistake is reported in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise ValueError(f"{message}; see {self.prog} --help")


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    """Add a verb to a group of them.

    Args:
        verbs: What ``add_subparsers`` returned.
        name: How it is typed.
        run: What it does with the parsed options.
        text: What it does, for the help.
    """
    parser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=run, parser=parser)
    return parser


def parse_seed(text: str) -> int:
    """Read a seed; argparse reports what is none."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number >= 0, got {text!r}")
    return int(text)


def parse_option(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; a value is JSON where it can be, else a word."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def add_model(parser: argparse.ArgumentParser, *, adapter: bool = True) -> None:
    """Add the options that `load` reads; without ``adapter`` the verb has its own of that name."""
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="preset, folder or hub id (%(default)s)"
    )
    parser.add_argument("--revision", help="of a hub id: a branch, a tag or a commit")
    if adapter:
        add_adapter(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (%(default)s)")
    parser.add_argument(
        "--dtype", default="auto", help="auto, float32, bfloat16, ... (%(default)s)"
    )
    add_quantize(parser)


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Add the option that says in how many bits the decoder is kept."""
    parser.add_argument(
        "--quantize", help="int8, int4 or fp8: fewer bits for the decoder's layers (as they are)"
    )


def add_no_pack(parser: argparse.ArgumentParser) -> None:
    """Add the option that leaves weights as they lie, for `load_packed`."""
    parser.add_argument(
        "--no-pack",
        action="store_true",
        help="leave the weights as they lie: slower on a CPU, and in float32 a rare other id",
    )


def add_compile(parser: argparse.ArgumentParser) -> None:
    """Add the option that `engine_options` reads."""
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="make one program of a step, for a minute or so at the first of each kind (on CUDA "
        "alone); on a CPU weights are then left as they lie, and packed ones are faster",
    )


def engine_options(args: argparse.Namespace) -> EngineOptions:
    """How the engine runs."""
    from openjanus.engine.options import EngineOptions

    if args.compile is None:
        return EngineOptions()
    return EngineOptions(compile="on" if args.compile else "off")


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add the option that names an adapter."""
    parser.add_argument(
        "--adapter", type=Path, help="folder of a LoRA adapter for it: RUN/final/adapter"
    )


def load_packed(args: argparse.Namespace) -> Janus:
    """`load`, and the weights laid out for decoding unless options say otherwise."""
    janus = load(args, engine_options(args))
    if not (args.no_pack or args.compile):
        janus.pack()
    return janus


def load(args: argparse.Namespace, engine_options: EngineOptions | None = None) -> Janus:
    """Load the model that the options name."""
    import openjanus

    return openjanus.load(
        args.model,
        device=args.device,
        dtype=args.dtype,
        revision=args.revision,
        adapter=args.adapter,
        quantize=args.quantize,
        engine_options=engine_options,
    )


def save_picture(picture: Image, path: Path) -> None:
    """Write a picture, make its folder if need be, and print its path.

    Raises:
        ValueError: Pillow writes no such kind of file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    print(path)


def print_table(rows: dict[str, object]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def write_json(path: Path, data: object) -> None:
    """Write a result where the user asked for it, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    print(f"written to {path}", file=sys.stderr)
