"""Pictures that records name."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from openjanus.data.files.pictures import read_picture

RED = (200, 30, 30)
LIMIT = 1000


def read(source, root, limit=LIMIT):
    return read_picture(source, root=root, max_pixels=limit)


@pytest.mark.parametrize("form", ["relative", "absolute", "file", "data", "bytes", "mapping"])
def test_every_way_of_naming_a_picture(pictures, form):
    raw = (pictures / "red.png").read_bytes()
    named = {
        "relative": "red.png",
        "absolute": str(pictures / "red.png"),
        "file": (pictures / "red.png").as_uri(),
        "data": f"data:image/png;base64,{base64.b64encode(raw).decode()}",
        "bytes": raw,
        "mapping": {"bytes": None, "path": "red.png"},
    }
    found = read(named[form], pictures)
    assert found.shape == (4, 6, 3) and found.dtype == np.uint8
    assert (found == RED).all()


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path):
    image = Image.new("RGB", (8, 4), RED)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read("a.jpg", tmp_path).shape == (8, 4, 3)


def test_alpha_lies_on_white(tmp_path, picture_bytes):
    (tmp_path / "a.webp").write_bytes(picture_bytes((0, 0, 0, 0), kind="WEBP", lossless=True))
    assert (read("a.webp", tmp_path) == 255).all()


def test_a_large_picture_is_refused_before_it_is_decoded(tmp_path, picture_bytes):
    # The header alone: decoding it would fail in another way.
    raw = picture_bytes(size=(100, 11))
    (tmp_path / "a.png").write_bytes(raw[:60])
    with pytest.raises(ValueError, match=r"a\.png has 100 x 11 pixels, at most 1000.*max_pixels"):
        read("a.png", tmp_path)
    (tmp_path / "b.png").write_bytes(picture_bytes(size=(100, 10)))
    assert read("b.png", tmp_path).shape == (10, 100, 3)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("cut.png", r"cut\.png.*broken"),
        ("words.png", r"words\.png is not a picture"),
        ("https://example.org/a.png", "is not fetched: download"),
        ("data:image/png,abc", "must read data:image/png;base64"),
        ("data:image/png;base64,a", "broken base64"),
        (b"words", "the picture is not a picture"),
        ({"width": 3}, r"needs bytes, path or url, got keys \['width'\]"),
        (None, "must be a path or an address, got None"),
        ("", "must be a path or an address, got ''"),
    ],
)
def test_what_is_no_picture_is_told(tmp_path, source, says):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:500])
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(ValueError, match=says):
        read(source, tmp_path)


def test_a_missing_picture_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no picture at .*gone\.png.*image_root"):
        read("gone.png", tmp_path)
