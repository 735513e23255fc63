"""Pictures told anew by a Janus: captions for training on (Janus-Pro, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from openjanus.data.files.base import CAPTION_BEFORE, ContainerSource, FileSource
from openjanus.data.journal import write_each
from openjanus.data.rewriting import rewrite_each
from openjanus.pipeline.janus import Janus

SAVE_EVERY = 1
"""Captions that a kill may lose: one costs more than a note."""


def recaption(
    janus: Janus,
    source: FileSource,
    output: Path,
    *,
    prompt: str,
    max_new_tokens: int,
    name: str,
    tell: Callable[[str], None],
    limit: int | None = None,
) -> dict[str, int]:
    """Write each item with a caption of its picture; a job that was stopped goes on.

    A record keeps its keys; ``caption`` is the new one, and what it was before, if there was one,
    is kept as ``caption_before``. Where a picture is broken the record is written as it was, with
    ``error``; a line that is no record is left out.

    Shards and tables become shards and tables: the new caption stands where the source reads it,
    beside what it was before, if there was one. Broken items are left out.

    Args:
        janus: Answers, greedily, so that a job that goes on gives what one without a stop gives.
        source: Of a format whose items are records, or whose files hold the pictures; with one
            picture each.
        output: The file, or the folder of files.
        prompt: What is asked of each picture.
        max_new_tokens: Most tokens of a caption.
        name: Names the model and its adapter, for the note beside the file.
        tell: Gets a line for each broken item.
        limit: Items done at most in this call.

    Returns:
        ``done`` items, and ``written`` ones; of shards and tables as ``rewrite_each``.

    Raises:
        ValueError: An option against a rule, or an output that is not of this job.
    """
    _check(source, prompt=prompt, max_new_tokens=max_new_tokens, limit=limit)
    job = {
        "task": "caption",
        "source": source.fingerprint(),
        "model": name,
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
    }
    ask = partial(_ask, janus, source, prompt=prompt, max_new_tokens=max_new_tokens)
    if isinstance(source, ContainerSource):

        def become(index: int) -> dict[str, Any]:
            try:
                return {"key": source.key(index), "caption": ask(index)}
            except ValueError as error:
                tell(f"not captioned: {error}")
                return {"key": source.key(index), "error": str(error)}

        return rewrite_each(
            source,
            output,
            become,
            job=job,
            with_captions=True,
            limit=limit,
            save_every=SAVE_EVERY,
        )

    def make(index: int) -> dict[str, Any] | None:
        try:
            record = dict(source.record(index))
        except ValueError as error:
            tell(f"left out: {error}")
            return None
        try:
            caption = ask(index)
        except ValueError as error:
            tell(f"not captioned: {error}")
            return {**record, "error": str(error)}
        if record.get("caption") is not None:
            record[CAPTION_BEFORE] = record["caption"]
        return {**record, "caption": caption}

    source.require_records()
    return write_each(output, len(source), make, job=job, limit=limit, save_every=SAVE_EVERY)


def _check(source: FileSource, *, prompt: str, max_new_tokens: int, limit: int | None) -> None:
    """Refuse options of no use, before anything is written."""
    if not prompt.strip():
        raise ValueError("prompt is empty: say what is asked of each picture")
    for option, value in (("max_new_tokens", max_new_tokens), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be >= 1, got {value}")
    if isinstance(source, ContainerSource) and source.keys["caption_key"] == CAPTION_BEFORE:
        raise ValueError(
            f"caption_key is {CAPTION_BEFORE!r}, where old captions are kept: name the key of "
            "those that are to be replaced"
        )


def _ask(janus: Janus, source: FileSource, index: int, *, prompt: str, max_new_tokens: int) -> str:
    """What a Janus says of an item's picture."""
    key, pictures = source.key(index), source.pictures(index)
    if len(pictures) != 1:
        raise ValueError(f"{key}: it has {len(pictures)} pictures: give it one")
    reply = janus.chat(prompt, images=pictures, max_new_tokens=max_new_tokens)
    caption = reply.text.strip()
    if not caption:
        raise ValueError(f"{key}: the model says nothing of it: ask in other words")
    return caption
