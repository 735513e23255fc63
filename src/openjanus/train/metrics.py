"""What a run says about itself: ``metrics.jsonl``, one object a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends one JSON object a line; on resume, forgets what lies past the checkpoint."""

    def __init__(self, path: Path, *, start_step: int) -> None:
        """Open the file, keeping only lines of steps up to ``start_step``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(path) if line["step"] <= start_step]
        draft = path.with_name(f"writing-{path.name}")
        text = "".join(json.dumps(line) + "\n" for line in kept)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)  # a kill on the way loses none of what was kept
        self._file = path.open("a", encoding="utf-8")

    def write(self, values: dict[str, Any]) -> None:
        """Write one line and flush it."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut off by a kill is left out.

    Raises:
        ValueError: A line that is no JSON.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found += [json.loads(line)] if line else []
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is not valid JSON ({error.msg}): take the line out"
            ) from error
    return found
