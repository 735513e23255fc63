"""The engine beside transformers' Janus, row by row, each in a process of its own.

    python benchmarks/engine.py --output FILE [--only KEY ...] [--steps N] [--whole N] [--layers N]
        [--pictures N] [--prompts N] [--windows ROWS ...] [--preset NAME] [--threads N]

A random Janus-Pro-1B in bfloat16, and transformers with the same weights, take turns step by step;
`ours` and `theirs` are medians in seconds, `ratio` the median of the rounds' quotients, `low` and
`high` their quartiles. `share` is that of the read bandwidth, measured in the row's own process,
which the bytes that a step must read take up: the row's own weights, and the keys and values of the
tokens behind it. Rows of int8 and int4 are ours beside their bfloat16.

- `image_bf16`, `image_int8`, `image_int4`: one guided picture's step; `image8_bf16`: eight at once.
  One whole picture of each, from words to pixels, stands in `whole`.
- `text_int8`, `text_int4`: a word of one answer, `lm_head` in as few bits as the rest.
- `vq_decode`, `siglip`: a picture through either door, and how far both are from fp32.
- `mixed`: four chats and four pictures in one engine, beside an engine for either kind. `ours` and
  `theirs` are the sum over the kinds of mixed rate by separate rate, and 1; `gap` is the longest
  time between two words of a chat.
- `nano_parallel_calls`, `nano_parallel_time`: the packaged nano on held-out prompts of all tags, a
  drawing at a time, guidance 5, temperature 1: several ids a step beside one, by the same packed
  engine; the best of `--look-ahead`. `prediction` is no measurement: the time of a 1B's step by
  rows (`calls_1b`), with the calls that the nano saved.

`--layers` thins the 1B's decoder for a trial, and figures mean nothing then.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from engine_rows import (
    GOALS,
    Row,
    calls_row,
    door_row,
    mixed_row,
    nano_rows,
    predict,
    step_row,
)

from openjanus.bench.machine import describe_machine


def measure(key: str, asked: argparse.Namespace) -> dict[str, Row]:
    """The rows that one process makes."""
    if key.startswith("nano"):
        return nano_rows(asked)
    if key in ("vq_decode", "siglip"):
        return {key: door_row(key, asked)}
    if key == "mixed":
        return {key: mixed_row(key, asked)}
    if key == "calls_1b":
        return {key: calls_row(key, asked)}
    return {key: step_row(key, asked)}


def measure_apart(key: str) -> dict[str, Row]:
    """``measure`` in a fresh process, with this one's arguments: its memory is gone afterwards."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "row.json"
        command = [sys.executable, __file__, *sys.argv[1:], "--row", key, "--output", str(file)]
        subprocess.run(command, check=True)
        return json.loads(file.read_text(encoding="utf-8"))


def show(key: str, row: Row) -> str:
    """A line of the table."""
    if "ratio" not in row:
        return f"{key:20} {json.dumps(row)}"
    unit = 1e3 if row["unit"] == "s" else 1
    text = f"{key:20} {row['ours'] * unit:9.2f} {row['theirs'] * unit:9.2f}  "
    text += f"{row['ratio']:.2f}x ({row['low']:.2f} to {row['high']:.2f}), goal {row['goal']}"
    text += "" if row["reached"] else ": not reached"
    if "share" in row:
        text += f"; reads {row['share']:.0%} of the bandwidth (theirs {row['their_share']:.0%})"
    if "whole" in row:
        text += f"; whole {row['whole']['ours']:.1f} s, {row['whole']['ratio']:.2f}x"
    return text


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="The engine beside transformers' Janus.")
    keys = [*GOALS, "calls_1b"]
    parser.add_argument("--only", nargs="+", choices=keys, default=keys, metavar="KEY")
    parser.add_argument("--steps", type=int, default=64, help="of each kind (%(default)s)")
    parser.add_argument("--whole", type=int, default=1, help="whole pictures (%(default)s)")
    parser.add_argument("--pictures", type=int, default=16, help="through a door (%(default)s)")
    parser.add_argument("--layers", type=int, help="of the decoder, for a trial")
    parser.add_argument("--preset", default="janus-pro-1b", help="the architecture (%(default)s)")
    parser.add_argument("--model", default="nano", help="that looks ahead (%(default)s)")
    parser.add_argument("--prompts", type=int, default=24, help="a multiple of six (%(default)s)")
    parser.add_argument("--look-ahead", type=int, nargs="+", default=[4, 8, 16, 32], metavar="W")
    parser.add_argument(
        "--windows", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64, 128], metavar="ROWS"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--row", choices=keys, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def write(rows: dict[str, Row], asked: argparse.Namespace) -> None:
    """The rows, and what made them."""
    settings = {name: str(value) for name, value in vars(asked).items() if name != "row"}
    machine = dataclasses.asdict(describe_machine(torch.device("cpu")))
    record = rows | {"settings": settings, "machine": machine}
    asked.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Print every row as it is known, and write them all."""
    asked = parse()
    torch.set_num_threads(asked.threads)
    if asked.row is not None:
        with torch.inference_mode():
            found = measure(asked.row, asked)
        asked.output.write_text(json.dumps(found), encoding="utf-8")
        return
    rows: dict[str, Row] = {}
    for key in asked.only:
        for name, row in measure_apart(key).items() if key not in rows else ():
            rows[name] = row
            print(show(name, row), flush=True)
        write(rows, asked)  # what is known stays, whatever comes
    if (prediction := predict(rows)) is not None:
        rows["prediction"] = prediction
        print(show("prediction", prediction))
        write(rows, asked)


if __name__ == "__main__":
    main()
