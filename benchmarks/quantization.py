"""What int8, int4 and fp8 cost in quality and save in time.

    python benchmarks/quantization.py [--parts kl score speed] [--prompts N] [--drawings N]
        [--seeds N] [--layers N] [--rounds N] [--threads N] [--model MODEL] [--dtype DTYPE]
        [--output FILE]

Three parts, each of `int8`, `int4` in groups of 64, `int4` in groups of 32 and `fp8`:

- `kl`: the model draws `--prompts` held-out prompts and answers a question about each drawing; fed
  the same ids, the quantized one's distributions are compared with its own. `ours` is the mean
  KL(plain || quantized) in nats an id, after guidance of 5 for drawings, `theirs` that of the same
  weights rounded to bfloat16 and not quantized. Agreement is the share of ids at which both hold
  the same one for the likeliest.
- `score`: `--drawings` prompts of each of GenEval's six tags, drawn by both with each of `--seeds`
  seeds, so with the same noise; the judge of the emoji world says which are right. `ours` and
  `theirs` are the overall shares, the mean of the tags'; the drop is in points, its interval of
  95 %, prompts with all their drawings resampled tag by tag.
- `speed`: the seven products of a decoder layer of Janus-Pro-1B's sizes in bfloat16, by rows, in
  milliseconds, the kinds in turn, medians. `theirs` is plain bfloat16. Layers are run one after
  another, so that a cache does not hold them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from best_of import requests
from torch import Tensor, nn
from tqdm import tqdm

import openjanus
from openjanus.engine.sampling import guide
from openjanus.eval.geneval import TAGS
from openjanus.eval.stats import bootstrap_macro_interval
from openjanus.model.decoder import LanguageModel
from openjanus.model.quantized import QuantizedLinear, quantize_layers, quantized_layers
from openjanus.presets import preset
from openjanus.processor.chat import parse_messages
from openjanus.quantization import QuantizationConfig
from openjanus.worlds.emoji.checks import checks_for_prompt
from openjanus.worlds.emoji.judge import Judge, judge_drawings

KINDS = {
    "int8": QuantizationConfig(kind="int8"),
    "int4": QuantizationConfig(kind="int4", group_size=64),
    "int4 in groups of 32": QuantizationConfig(kind="int4", group_size=32),
    "fp8": QuantizationConfig(kind="fp8"),
}
GUIDANCE_SCALE = 5.0
"""Of the papers; it multiplies what quantizing changes."""
ROWS = (1, 2, 4, 8, 16, 32)
SIZE = "janus-pro-1b"
BATCH = 8

Figures = dict[str, dict[str, Any]]


def load(options: argparse.Namespace, kind: str | None, dtype: str) -> openjanus.Janus:
    """The model, in a kind of ``KINDS`` or plain."""
    quantize = None if kind is None else KINDS[kind]
    return openjanus.load(options.model, device="cpu", dtype=dtype, quantize=quantize)


def seed_of(prompt: str, number: int = 0) -> int:
    """Of the prompt, not of its place, and of which of its drawings it is."""
    return zlib.crc32(prompt.encode()) + number


# KL under teacher forcing


@torch.inference_mode()
def image_log_probs(janus: openjanus.Janus, prompt: str, image_ids: Tensor) -> Tensor:
    """(N, C) of a picture's ids after guidance."""
    model = janus.model
    prompt_ids = janus.processor.gen_prompt(prompt)
    both = [prompt_ids, janus.processor.uncond_prompt(len(prompt_ids))]
    embeds = model.embed_text(torch.tensor(both))  # (2, T, D)
    fed_in = model.embed_gen(image_ids[None, :-1]).repeat(2, 1, 1)
    hidden_states = model.language_model.model(torch.cat([embeds, fed_in], dim=1))
    cond, uncond = model.image_logits(hidden_states[:, -len(image_ids) :]).float()
    scale = torch.full((len(image_ids),), GUIDANCE_SCALE)
    return guide(cond, uncond, scale).log_softmax(-1)


@torch.inference_mode()
def answer_log_probs(
    janus: openjanus.Janus, messages: list[dict[str, Any]], answer_ids: Sequence[int]
) -> Tensor:
    """(A, V) of an answer's ids."""
    model, dialogue = janus.model, parse_messages(messages, ())
    prompt = janus.processor.und_prompt(dialogue.turns, dialogue.images, system=None)
    assert prompt.images is not None
    ids = torch.tensor([[*prompt.input_ids, *answer_ids[:-1]]])
    slots = ids == janus.processor.tokenizer.image_pad_id
    dtype = model.language_model.model.embed_tokens.weight.dtype
    features = model.embed_und(prompt.images.to(dtype))
    embeds = model.embed_sequence(ids, {"und": (slots, features)})
    hidden_states = model.language_model.model(embeds)
    return model.text_logits(hidden_states[0, -len(answer_ids) :]).float().log_softmax(-1)


def kl(plain: Tensor, other: Tensor) -> tuple[list[float], list[bool]]:
    """(P, ids) log-probabilities of two models -> divergence, and whether they agree, of each."""
    values = (plain.exp() * (plain - other)).sum(-1)
    return values.tolist(), (plain.argmax(-1) == other.argmax(-1)).tolist()


def measure_kl(options: argparse.Namespace) -> Figures:
    """Divergences of drawings and answers."""
    plain = load(options, None, "float32")
    lines = requests(options.prompts)
    drawings, answers = [], []
    for prompt, drawing in tqdm(_drawn(plain, lines), "drawing and asking", len(lines)):
        question = checks_for_prompt(prompt)[0].question
        content = [
            {"type": "image", "image": drawing.images[0]},
            {"type": "text", "text": question},
        ]
        messages = [{"role": "user", "content": content}]
        reply = plain.chat(messages, max_new_tokens=32)
        drawings.append((prompt, drawing.image_ids[0]))
        answers.append((messages, reply.token_ids))
    wanted = [image_log_probs(plain, *one) for one in drawings]
    worded = [answer_log_probs(plain, *one) for one in answers]
    others = {"bfloat16": (None, "bfloat16")}
    others |= {kind: (kind, "float32") for kind in KINDS}
    others |= {f"{kind} in bfloat16": (kind, "bfloat16") for kind in KINDS}
    found: Figures = {}
    for name, (kind, dtype) in others.items():
        other = load(options, kind, dtype)
        for face, theirs, mine in (
            ("drawings", wanted, (image_log_probs(other, *one) for one in drawings)),
            ("answers", worded, (answer_log_probs(other, *one) for one in answers)),
        ):
            pairs = [kl(a, b) for a, b in zip(theirs, mine, strict=True)]
            values = [value for one, _ in pairs for value in one]
            agree = [same for _, ones in pairs for same in ones]
            found[f"KL of {face}, {name}"] = {
                "ours": statistics.fmean(values),
                "median": statistics.median(values),
                "agreement": statistics.fmean(agree),
                "ids": len(values),
                "unit": "nats an id",
            }
    for face in ("drawings", "answers"):
        base = found[f"KL of {face}, bfloat16"]["ours"]
        for name, row in found.items():
            if name.startswith(f"KL of {face}"):
                row["theirs"] = base
                row["ratio"] = row["ours"] / base if base else math.nan
    return found


# the judge's score of paired drawings


def _drawn(
    janus: openjanus.Janus, lines: list[dict[str, Any]], number: int = 0
) -> Iterator[tuple[str, openjanus.Drawing]]:
    """Prompts with one drawing of each, which are made some at a time."""
    for start in range(0, len(lines), BATCH):
        prompts = [line["prompt"] for line in lines[start : start + BATCH]]
        seeds = [seed_of(prompt, number) for prompt in prompts]
        yield from zip(prompts, janus.draw_batch(prompts, seed=seeds), strict=True)


def drawn_right(
    options: argparse.Namespace, kind: str | None, lines: list[dict[str, Any]], referee: Judge
) -> tuple[list[bool], list[Tensor]]:
    """Which of a model's drawings are right, and their ids: by seed, then by prompt."""
    janus = load(options, kind, options.dtype)
    right: list[bool] = []
    ids: list[Tensor] = []
    name = "plain" if kind is None else kind
    turns = [(n, start) for n in range(options.seeds) for start in range(0, len(lines), BATCH)]
    for number, start in tqdm(turns, desc=name):
        part = lines[start : start + BATCH]
        drawn = [drawing for _, drawing in _drawn(janus, part, number)]
        verdicts = judge_drawings([one.images[0] for one in drawn], part, referee=referee)
        right += [verdict.correct for verdict in verdicts]
        ids += [one.image_ids[0] for one in drawn]
    return right, ids


def measure_score(options: argparse.Namespace) -> Figures:
    """Overall shares of right drawings and their drops."""
    prompts, referee = requests(options.drawings * len(TAGS)), Judge.load()
    lines = prompts * options.seeds
    base, base_ids = drawn_right(options, None, prompts, referee)

    def overall(values: Sequence[float]) -> float:
        tags = [
            statistics.fmean(v for v, line in zip(values, lines, strict=True) if line["tag"] == tag)
            for tag in TAGS
        ]
        return statistics.fmean(tags)

    found: Figures = {}
    for kind in KINDS:
        right, ids = drawn_right(options, kind, prompts, referee)
        drops = [100 * (a - b) for a, b in zip(base, right, strict=True)]
        groups = {}
        for tag in TAGS:
            rows = [i for i, line in enumerate(lines) if line["tag"] == tag]
            groups[tag] = ([drops[i] for i in rows], [lines[i]["prompt"] for i in rows])
        interval = bootstrap_macro_interval(groups, seed=0)
        same = [float((a == b).float().mean()) for a, b in zip(base_ids, ids, strict=True)]
        found[f"score, {kind}"] = {
            "ours": overall(right),
            "theirs": overall(base),
            "ratio": overall(right) / overall(base) if any(base) else math.nan,
            "unit": "share of right drawings, mean of six tags",
            "drop_points": overall(drops),
            "drop_interval": interval,
            "changed_verdicts": sum(a != b for a, b in zip(base, right, strict=True)),
            "same_ids": statistics.fmean(same),
            "prompts": len(prompts),
            "drawings": len(lines),
            "dtype": options.dtype,
        }
    return found


# speed


def layers_of(kind: str | None, number: int) -> list[nn.Module]:
    """The linear layers of some decoder layers, in bfloat16 or a kind of ``KINDS``."""
    config = replace(preset(SIZE).language, num_hidden_layers=number, vocab_size=64)
    with torch.device("meta"):
        shapes = LanguageModel(config)
    names = quantized_layers(shapes, KINDS["int8"])
    model = shapes.to_empty(device="cpu").bfloat16()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in names:
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            layer.weight.normal_(0.0, 0.02, generator=generator)
    if kind is not None:
        quantize_layers(model, KINDS[kind])
    return [model.get_submodule(name) for name in names]


@torch.inference_mode()
def measure_speed(options: argparse.Namespace) -> Figures:
    """Milliseconds of a decoder layer's products."""
    entrants = {kind: layers_of(kind, options.layers) for kind in (None, *KINDS)}
    found: Figures = {}
    for number in ROWS:
        inputs = {
            width: torch.randn(number, width, dtype=torch.bfloat16)
            for width in {getattr(layer, "in_features") for layer in entrants[None]}
        }
        races = list(_races(entrants))
        times: dict[str, list[float]] = {name: [] for name, _, _ in races}
        for turn in tqdm(range(options.rounds + 1), desc=f"{number} rows", leave=False):
            for name, layers, way in races[:: 1 if turn % 2 else -1]:
                began = time.perf_counter()
                for layer in layers:
                    way(layer, inputs[layer.in_features])
                if turn > 0:
                    times[name].append(1000 * (time.perf_counter() - began) / options.layers)
        base = statistics.median(times["bfloat16"])
        for name, values in times.items():
            one = statistics.median(values)
            found[f"{number} rows, {name}"] = {
                "ours": one,
                "theirs": base,
                "ratio": base / one,
                "least": min(values),
                "unit": "ms a decoder layer",
            }
    return found


def _races(
    entrants: dict[str | None, list[nn.Module]],
) -> Iterator[tuple[str, list[Any], Callable[[Any, Tensor], Tensor]]]:
    """What takes turns: each kind as it is used, and by either of its two ways."""
    for kind, layers in entrants.items():
        if kind is None:
            yield "bfloat16", layers, lambda layer, x: layer(x)
            continue
        yield kind, layers, lambda layer, x: layer(x)
        first = layers[0]
        assert isinstance(first, QuantizedLinear)
        if kind != "int4 in groups of 32":
            yield f"{kind}, plain way", layers, lambda layer, x: layer.plain(x)
            if first.has_kernel(torch.bfloat16):
                yield f"{kind}, kernel", layers, lambda layer, x: layer.kernel(x)


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "kl": measure_kl,
    "score": measure_score,
    "speed": measure_speed,
}


def main() -> None:
    """Print and write the figures of each part."""
    parser = argparse.ArgumentParser(description="What int8, int4 and fp8 cost and save.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--prompts", type=int, default=48, help="of KL; a multiple of 6")
    parser.add_argument("--drawings", type=int, default=24, help="prompts a tag, 24 at most")
    parser.add_argument("--seeds", type=int, default=2, help="drawings of each of these")
    parser.add_argument("--layers", type=int, default=4, help="of the speed part")
    parser.add_argument("--rounds", type=int, default=15, help="of the speed part")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--dtype", default="float32", help="of the judged drawings (%(default)s)")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: Figures = {}
    for part in options.parts:
        rows = PARTS[part](options)
        found |= rows
        for name, row in rows.items():
            values = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
            print(f"{name}: {values}")
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
