"""Pictures told anew by a Janus: captions for training on (Janus-Pro, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from openjanus.data.files.base import FileSource
from openjanus.data.journal import write_each
from openjanus.pipeline.janus import Janus


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
    """Write each record with a caption of its picture; a job that was stopped goes on.

    A record keeps its keys; ``caption`` is the new one, and what it was before is kept as
    ``caption_before``. Where a picture is broken the record is written as it was, with ``error``;
    a line that is no record is left out.

    Args:
        janus: Answers, greedily, so that a job that goes on gives what one without a stop gives.
        source: Of a format whose items are records, with one picture each.
        output: The file.
        prompt: What is asked of each picture.
        max_new_tokens: Most tokens of a caption.
        name: Names the model and its adapter, for the note beside the file.
        tell: Gets a line for each broken item.
        limit: Items done at most in this call.

    Returns:
        ``done`` items, and ``written`` lines.

    Raises:
        ValueError: An option against a rule, or a file that is not of this job.
    """
    if not prompt.strip():
        raise ValueError("prompt is empty: say what is asked of each picture")
    for option, value in (("max_new_tokens", max_new_tokens), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be >= 1, got {value}")
    source.require_records()

    def make(index: int) -> dict[str, Any] | None:
        try:
            record = dict(source.record(index))
        except ValueError as error:
            tell(f"left out: {error}")
            return None
        try:
            sample = source[index]
            pictures = sample.pictures
            if len(pictures) != 1:
                raise ValueError(f"{sample.key}: it has {len(pictures)} pictures: give it one")
            reply = janus.chat(prompt, images=pictures, max_new_tokens=max_new_tokens)
        except ValueError as error:
            tell(f"not captioned: {error}")
            return {**record, "error": str(error)}
        if "caption" in record:
            record["caption_before"] = record["caption"]
        return {**record, "caption": reply.text.strip()}

    job = {
        "task": "caption",
        "source": source.fingerprint(),
        "model": name,
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
    }
    return write_each(output, len(source), make, job=job, limit=limit)
