"""The script that makes a previewer, small: what it writes is what a model is loaded with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import openjanus

SCRIPT = Path(__file__).parents[1] / "scripts" / "fit_previewer.py"


def run(*given: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, given)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("own_pictures", [False, True])
def test_a_model_shows_its_rows_by_what_was_fitted(tmp_path: Path, own_pictures: bool) -> None:
    folder, photos = tmp_path / "model", tmp_path / "photos"
    openjanus.load("tiny", device="cpu").save(folder)
    assert openjanus.load(folder, device="cpu").previewer is None
    options = ["--count", 40, "--steps", 4, "--width", 8]
    if own_pictures:
        photos.mkdir()
        for shade in range(3):
            Image.new("RGB", (20, 30), (80 * shade, 90, 10)).save(photos / f"{shade}.png")
        options += ["--pictures", photos]
    done = run(folder, folder, *options)
    assert done.returncode == 0, done.stderr
    assert "grey levels off" in done.stdout
    janus = openjanus.load(folder, device="cpu")
    assert janus.previewer is not None
    *states, last = janus.draw_stream("a dog", seed=1)
    assert len(states) == 3  # rows of the tiny one's four, but the last
    drawn = janus.draw("a dog", seed=1).images[0]
    assert np.array_equal(np.asarray(last.image), np.asarray(drawn))


def test_a_stale_one_is_replaced_and_a_new_folder_is_made(tmp_path: Path) -> None:
    openjanus.load("tiny", device="cpu").save(tmp_path)
    stale = tmp_path / "previewer.safetensors"
    stale.write_bytes(b"of another tokenizer")
    for folder in (tmp_path / "new" / "one", tmp_path):
        done = run(tmp_path, folder, "--count", 40, "--steps", 2, "--width", 8)
        assert done.returncode == 0, done.stderr
        assert (folder / stale.name).stat().st_size > 1000
    assert openjanus.load(tmp_path, device="cpu").previewer is not None


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    openjanus.load("tiny", device="cpu").save(tmp_path)
    done = run(tmp_path, tmp_path, "--pictures", tmp_path / "none")
    assert done.returncode == 1 and "no pictures in" in done.stderr
    assert "Traceback" not in done.stderr
