"""What the page must know of a model, as data: ``model.json``."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from openjanus.config import JanusConfig
from openjanus.pipeline.preview import Band, plan_bands
from openjanus.processor.chat import IMAGE_MARK, reserved_tokens
from openjanus.processor.prompt import Processor
from openjanus.processor.templates import TEMPLATES
from openjanus.processor.text import HAN, NUM_BYTES, TextTokenizer
from openjanus.rules import require

FORMAT_VERSION = 1
"""Of ``model.json``; the page that reads it is written beside it."""

_SUPPORTED = "the page encodes with byte-level BPE as openjanus trains it, and nothing else"


def describe_model(processor: Processor, *, name: str) -> dict[str, Any]:
    """Everything but the files.

    Args:
        processor: Of the model.
        name: What the page calls the model.

    Raises:
        ValueError: A tokenizer of a kind that the page does not know.
    """
    config, tokenizer = processor.config, processor.tokenizer
    language, how = config.language, config.processor
    side = round(config.num_gen_image_tokens**0.5)
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "sizes": {
            "context": language.max_position_embeddings,
            "num_hidden_layers": language.num_hidden_layers,
            "num_key_value_heads": language.num_key_value_heads,
            "head_size": language.head_size,
            "text_vocab_size": config.text_vocab_size,
            "codebook_size": config.codebook_size,
            "num_gen_image_tokens": config.num_gen_image_tokens,
            "grid_size": side,
            "gen_image_size": config.gen_image_size,
        },
        "drawing": dataclasses.asdict(config.drawing),
        "bands": [_describe_band(band) for band in plan_bands(side, side - 1)],
        "picture": {
            "size": config.und_image_size,
            "min_size": how.min_size,
            "mean": how.image_mean,
            "std": how.image_std,
        },
        "tokenizer": describe_tokenizer(tokenizer),
        "prompts": _describe_prompts(config, tokenizer),
    }


def _describe_band(band: Band) -> dict[str, int]:
    return dataclasses.asdict(band) | {"shown_from": band.shown_from}


def _describe_prompts(config: JanusConfig, tokenizer: TextTokenizer) -> dict[str, Any]:
    how = config.processor
    template = TEMPLATES[how.template]
    names = ("bos", "eos", "pad", "boi", "eoi", "image_pad")
    return {
        "special": {name: getattr(tokenizer, f"{name}_id") for name in names},
        "roles": {"user": how.user_role, "assistant": how.assistant_role},
        "before": {"user": template.before_user, "assistant": template.before_answer},
        "after": {"user": template.after_user, "assistant": how.eos_token},
        "system": how.und_system_prompt.strip(),
        "after_system": template.after_system,
        "image_token": how.image_token,
        # A mark that somebody writes is no picture.
        "reserved": sorted({*reserved_tokens(how), how.image_token, IMAGE_MARK}),
        "num_und_image_tokens": config.num_und_image_tokens,
    }


def describe_tokenizer(tokenizer: TextTokenizer) -> dict[str, Any]:
    """A tokenizer in the parts that ``tokenizer.js`` is made of.

    Raises:
        ValueError: It has parts that the page does not know.
    """
    whole = json.loads(tokenizer.to_json())
    model, added = whole["model"], whole["added_tokens"]
    is_plain = (
        model["type"] == "BPE"
        and whole["normalizer"] is None
        and not any(model.get(key) for key in ("dropout", "byte_fallback", "ignore_merges"))
        and (whole["decoder"] or {}).get("type") == "ByteLevel"
        and not any(token[key] for token in added for key in ("single_word", "lstrip", "rstrip"))
        and len([token for token in model["vocab"] if len(token) == 1]) >= NUM_BYTES
    )
    require(is_plain, f"the tokenizer is of another kind: {_SUPPORTED}")
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return {
        "tokens": list(model["vocab"].items()),
        "merges": list(pairs),
        "added": [(token["content"], token["id"]) for token in added],
        "special": [i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i)],
        "split": _split_pattern(whole["pre_tokenizer"]),
    }


def _split_pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """Where a text is cut before it is cut into words."""
    steps = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    *before, last = steps or [{}]
    is_bytes = last.get("type") == "ByteLevel" and last["use_regex"]
    require(is_bytes and not last["add_prefix_space"], f"its words are cut elsewhere: {_SUPPORTED}")
    if not before:
        return None
    (split, *more) = before
    is_known = split["type"] == "Split" and split["behavior"] == "Isolated" and not split["invert"]
    pattern = split["pattern"].get("Regex") if is_known else None
    require(pattern == HAN and not more, f"its texts are split elsewhere: {_SUPPORTED}")
    return pattern
