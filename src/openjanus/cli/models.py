"""Verbs on a model: draw, chat, compose, reconstruct, info, convert."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openjanus.cli.parsing import (
    add_adapter,
    add_compile,
    add_model,
    add_no_pack,
    add_quantize,
    add_verb,
    load,
    load_packed,
    parse_seed,
    print_table,
    save_picture,
)
from openjanus.rules import require

if TYPE_CHECKING:
    from torch import Tensor

    from openjanus import Candidates, Drawing, Janus
    from openjanus.pipeline.critic import JudgeQuestion
    from openjanus.quantization import QuantizationConfig

EMOJI_QUESTIONS = "emoji"
"""Name of the questions of the world that the nano knows."""


def add_verbs(verbs: Any) -> None:
    """Add this module's verbs."""
    for add in (_add_draw, _add_chat, _add_compose, _add_reconstruct, _add_info, _add_convert):
        add(verbs)


def _add_draw(verbs: Any) -> None:
    parser = add_verb(verbs, "draw", _draw, "draw what a prompt says")
    parser.add_argument("prompt", help='for instance "a photo of three apples"')
    add_model(parser)
    add_no_pack(parser)
    add_compile(parser)
    parser.add_argument("--n", type=int, default=1, help="pictures to draw (%(default)s)")
    parser.add_argument(
        "--seed", type=parse_seed, help="same seed, same pictures; drawn when left out"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("drawings"), help="folder (%(default)s)"
    )
    parser.add_argument(
        "--guidance-scale", type=float, help="1 is no guidance; the model's own when left out"
    )
    parser.add_argument(
        "--temperature", type=float, help="0 is greedy; the model's own when left out"
    )
    parser.add_argument("--top-k", type=int, help="keep the k likeliest ids")
    parser.add_argument("--top-p", type=float, help="keep the likeliest ids of this much together")
    parser.add_argument("--negative-prompt", help="what to keep away from")
    parser.add_argument(
        "--from", dest="source", type=Path, help="a picture whose first rows are kept"
    )
    parser.add_argument("--keep-rows", type=int, help="how many rows of its ids, from the top")
    parser.add_argument(
        "--best-of",
        type=int,
        default=1,
        help="candidates a picture; the model keeps the one it believes most (%(default)s)",
    )
    parser.add_argument(
        "--judge-question",
        help='what it is asked about each, for instance "Is this {prompt}?"; or emoji, the '
        "questions of the nano's world, which are the nano's own when left out",
    )


def _require_folder(output: Path) -> None:
    """Before anything is drawn."""
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    what = "" if there == output else f": {there}"
    require(there.is_dir(), f"--output {output}{what} is a file: name a folder")
    allowed = os.access(there, os.W_OK | os.X_OK)
    require(allowed, f"--output {output}{what} cannot be written to: name a folder of yours")


def _draw(args: argparse.Namespace) -> None:
    _require_folder(args.output)
    janus = load_packed(args)
    options = {
        "n": args.n,
        "seed": args.seed,
        "prefix_ids": _kept_ids(janus, args.source, args.keep_rows),
        "guidance_scale": args.guidance_scale,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "negative_prompt": args.negative_prompt,
    }
    if args.best_of != 1 or args.judge_question is not None:
        options |= {"best_of": args.best_of, "judge_question": _judge_question(args)}
    drawing = _drawn_in_sight(janus, args.prompt, options)
    drawing.save(args.output)
    if drawing.candidates is not None:
        _tell_choice(drawing.candidates)
    for index in range(args.n):
        print(args.output / f"{index}.png")
    save_picture(drawing.sheet(), args.output / "sheet.png")


def _kept_ids(janus: Janus, source: Path | None, rows: int | None) -> Tensor | None:
    """The ids of a picture's first rows.

    Raises:
        ValueError: One of the two without the other, or no such number of rows.
        FileNotFoundError: No picture there.
    """
    if source is None and rows is None:
        return None
    if source is None or rows is None:
        raise ValueError("--from and --keep-rows belong together: give both, or neither")
    side = round(janus.config.num_gen_image_tokens**0.5)
    if not 0 < rows < side:
        raise ValueError(f"--keep-rows must be in [1, {side - 1}], got {rows}")
    return janus.encode_image(source)[: rows * side]


def _drawn_in_sight(janus: Janus, prompt: str, options: dict[str, Any]) -> Drawing:
    """A drawing, with a bar of what is drawn, then one of what is looked at.

    A bar begins with what it counts: what is refused is told in one line.
    """
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: dict[str, tqdm] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                unit = "id" if what == "drawing" else "picture"
                bars[what] = stack.enter_context(tqdm(total=total, desc=what, unit=unit))
            bars[what].update(done - bars[what].n)

        return janus.draw(prompt, **options, on_progress=show)


def _judge_question(args: argparse.Namespace) -> JudgeQuestion | None:
    """What is asked about candidates; the nano was never asked about a whole prompt."""
    from openjanus.pipeline.load import packaged_models

    asked = args.judge_question
    if asked is None and args.model in packaged_models():
        asked = EMOJI_QUESTIONS
    if asked != EMOJI_QUESTIONS or args.best_of == 1:
        return asked
    from openjanus.worlds.emoji.checks import checks_for_prompt

    try:
        return checks_for_prompt(args.prompt)
    except ValueError as error:
        raise ValueError(f"{error}; or give a --judge-question of your own") from error


def _tell_choice(candidates: Candidates) -> None:
    for check in candidates.checks:
        print(f"asked: {check.question} ({' or '.join(check.right)})", file=sys.stderr)
    for index, (row, best) in enumerate(
        zip(candidates.scores.tolist(), candidates.chosen, strict=True)
    ):
        chances = ", ".join(f"{math.exp(score):.3f}" for score in row)
        print(f"picture {index}: candidate {best} of chances {chances}", file=sys.stderr)


def _add_chat(verbs: Any) -> None:
    parser = add_verb(verbs, "chat", _chat, "ask about pictures, or talk")
    parser.add_argument("question", nargs="?", help="left out: a conversation, ended by /exit")
    add_model(parser)
    add_no_pack(parser)
    add_compile(parser)
    parser.add_argument(
        "--image", action="append", default=[], help="a picture to talk about; may be repeated"
    )
    parser.add_argument("--system", help="system prompt; the model's own when left out")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    parser.add_argument("--top-k", type=int, help="keep so many of the likeliest tokens")
    parser.add_argument("--top-p", type=float, help="keep the likeliest tokens of this much")
    parser.add_argument("--seed", type=parse_seed, help="matters when the temperature is above 0")


def _chat(args: argparse.Namespace) -> None:
    from openjanus.processor.image import open_image

    images = [open_image(path) for path in args.image]
    janus = load_packed(args)
    messages: list[dict[str, Any]] = []
    for question in _questions(args.question):
        messages.append({"role": "user", "content": question})
        pieces = []
        for piece in janus.chat_stream(
            messages,
            images=images,
            system=args.system,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed,
        ):
            pieces.append(piece.text)
            print(piece.text, end="", flush=True)
        print(flush=True)
        reply = "".join(pieces)
        if reply.strip():
            messages.append({"role": "assistant", "content": reply})
        else:  # an empty turn cannot be part of a conversation
            messages.pop()
            print("(no answer; the question is left out)", file=sys.stderr)


def _questions(question: str | None) -> Iterator[str]:
    """The one question asked, or those typed until ``/exit`` or the end of stdin."""
    if question is not None:
        yield question
        return
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            if not line:
                print(file=sys.stderr)
            return
        if line.strip():
            yield line.strip()


def _add_compose(verbs: Any) -> None:
    parser = add_verb(verbs, "compose", _compose, "answer in words and pictures")
    parser.add_argument("prompt", help="a question, or with --form plain how a document begins")
    add_model(parser)
    add_no_pack(parser)
    add_compile(parser)
    parser.add_argument(
        "--image", action="append", default=[], help="a picture of the question; may be repeated"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("composition"), help="folder (%(default)s)"
    )
    parser.add_argument("--form", default="chat", help="chat or plain (%(default)s)")
    parser.add_argument("--system", help="system prompt; the model's own when left out")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="words (%(default)s)")
    parser.add_argument("--max-images", type=int, default=4, help="pictures (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of words (%(default)s)")
    parser.add_argument("--top-k", type=int, help="of words")
    parser.add_argument("--top-p", type=float, help="of words")
    parser.add_argument(
        "--guidance-scale", type=float, help="of pictures; the model's own when left out"
    )
    parser.add_argument(
        "--image-temperature", type=float, help="of pictures; the model's own when left out"
    )
    parser.add_argument("--image-top-k", type=int, help="of pictures")
    parser.add_argument("--image-top-p", type=float, help="of pictures")
    parser.add_argument("--seed", type=parse_seed, help="same seed, same reply")


def _compose(args: argparse.Namespace) -> None:
    _require_folder(args.output)
    from openjanus.processor.image import open_image

    images = [open_image(path) for path in args.image]
    janus = load_packed(args)
    count = 0
    for piece in janus.compose_stream(
        args.prompt,
        images=images,
        system=args.system,
        form=args.form,
        max_new_tokens=args.max_new_tokens,
        max_images=args.max_images,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        guidance_scale=args.guidance_scale,
        image_temperature=args.image_temperature,
        image_top_k=args.image_top_k,
        image_top_p=args.image_top_p,
        seed=args.seed,
    ):
        print(piece.text, end="", flush=True)
        if piece.image is not None:
            print(f"\n{args.output / f'{count}.png'}", flush=True)
            count += 1
        if piece.composition is not None:
            print(f"\n{args.output / 'page.html'}")
            piece.composition.save(args.output)


def _add_reconstruct(verbs: Any) -> None:
    parser = add_verb(verbs, "reconstruct", _reconstruct, "encode a picture to ids and decode them")
    parser.add_argument("picture")
    add_model(parser)
    parser.add_argument("--output", type=Path, default=Path("reconstruction.png"))


def _reconstruct(args: argparse.Namespace) -> None:
    from openjanus.processor.image import open_image

    picture = open_image(args.picture)
    janus = load(args)
    save_picture(janus.decode_image(janus.encode_image(picture)), args.output)


def _add_info(verbs: Any) -> None:
    parser = add_verb(verbs, "info", _info, "print what a model is made of")
    parser.add_argument("model", help="preset, folder or hub id")
    parser.add_argument("--revision", help="of a hub id: a branch, a tag or a commit")
    add_adapter(parser)


def _info(args: argparse.Namespace) -> None:
    from openjanus.model.quantized import count_weights
    from openjanus.pipeline.load import describe, stored_bytes
    from openjanus.weights.adapters import check_adapter, read_adapter

    origin, model, tokenizer = describe(args.model, revision=args.revision)
    added = {}
    if args.adapter is not None:
        adapter = read_adapter(args.adapter)
        check_adapter(model, adapter, args.adapter)
        added["adapter"] = (
            f"rank {adapter.rank} on {len(adapter.pairs)} matrices, {len(adapter.whole)} tensors "
            f"whole: {adapter.num_parameters:,} numbers"
        )
    config, language = model.config, model.config.language
    parts = {name: count_weights(part) for name, part in model.named_children()}
    size = stored_bytes(args.model, revision=args.revision)
    quantization = config.quantization
    print_table(
        {
            "model": args.model,
            **{f"parameters of {name}": f"{count:,}" for name, count in parts.items() if count},
            "parameters in all": f"{count_weights(model):,}",
            **({} if quantization is None else {"quantized": f"{quantization}"}),
            **({} if size is None else {"bytes of the weights": f"{size:,}"}),
            "decoder": f"{language.num_hidden_layers} layers of {language.hidden_size}, "
            f"{language.num_attention_heads} heads, {language.num_key_value_heads} of keys",
            "context": f"{language.max_position_embeddings} tokens",
            "vocabulary": f"{config.text_vocab_size} ids, {tokenizer.vocab_size} of them in use"
            + (f"; and {config.codebook_size} of pictures" if config.one_vocabulary else ""),
            "understanding": f"{config.und_image_size} px, {config.num_und_image_tokens} tokens "
            f"a picture ({config.und_encoder.type})",
            "generation": f"{config.gen_image_size} px, {config.num_gen_image_tokens} ids "
            f"a picture, codebook of {config.codebook_size} ({config.gen_tokenizer.type})",
            "drawing": f"guidance {config.drawing.guidance_scale:g}, "
            f"temperature {config.drawing.temperature:g} where nothing else is asked for",
            "dialogues": f"template {config.processor.template}, roles "
            f"{config.processor.user_role} and {config.processor.assistant_role}",
            "special ids": ", ".join(
                f"{name} {getattr(tokenizer, f'{name}_id')}"
                for name in ("bos", "eos", "pad", "boi", "eoi", "image_pad")
            ),
            "licence": origin.licence,
            **added,
        }
    )


def _add_convert(verbs: Any) -> None:
    parser = add_verb(verbs, "convert", _convert, "write a model in another layout")
    parser.add_argument("model", metavar="SRC", help="folder, hub id or preset")
    parser.add_argument("folder", metavar="DST", type=Path, help="new folder")
    parser.add_argument(
        "--format",
        help="openjanus, deepseek (the authors' code) or transformers; openjanus with --quantize",
    )
    parser.add_argument("--dtype", default="keep", help="float32, bfloat16, ... (as they are)")
    add_quantize(parser)
    parser.add_argument(
        "--group-size", type=int, help="inputs that share a scale in int4: 32, 64 or 128 (64)"
    )
    parser.add_argument(
        "--quantize-lm-head", action="store_true", help="quantize the head for words too"
    )
    add_adapter(parser)
    parser.add_argument("--revision", help="of a hub id: a branch, a tag or a commit")
    parser.add_argument(
        "--max-shard-bytes", type=int, default=5_000_000_000, help="of a file (%(default)s)"
    )
    parser.set_defaults(device="cpu")


def _convert(args: argparse.Namespace) -> None:
    from openjanus.pipeline.load import describe
    from openjanus.weights.formats import format_by_name, require_new

    args.quantize = _quantization(args)
    if args.format is None and args.quantize is None:
        raise ValueError("--format is needed: openjanus, deepseek or transformers")
    layout = format_by_name("openjanus" if args.format is None else args.format)
    require_new(args.folder)
    config = describe(args.model, revision=args.revision)[1].config
    if args.quantize is not None and config.quantization is None:
        config = dataclasses.replace(config, quantization=args.quantize)
    layout.check(config)  # before it is loaded
    janus = load(args)
    janus.export(args.folder, layout.name, max_shard_bytes=args.max_shard_bytes)
    print(args.folder)


def _quantization(args: argparse.Namespace) -> QuantizationConfig | None:
    """How ``convert`` quantizes."""
    from openjanus.quantization import QuantizationConfig

    if args.quantize is None:
        if args.group_size is not None or args.quantize_lm_head:
            raise ValueError("--group-size and --quantize-lm-head belong to --quantize: add it")
        return None
    chosen = QuantizationConfig.by_name(args.quantize)
    size = chosen.group_size if args.group_size is None else args.group_size
    return dataclasses.replace(chosen, group_size=size, lm_head=args.quantize_lm_head)
