"""Pictures to tensors and back."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.config import ProcessorConfig
from openjanus.processor.image import (
    crop_to_square,
    gen_pixel_values,
    open_image,
    pad_to_square,
    pixel_values_to_uint8,
    sheet,
    uint8_to_pixel_values,
    und_pixel_values,
)

CONFIG = ProcessorConfig()


def pattern(index: int, width: int, height: int) -> Image.Image:
    """The pictures that the reference values were made from."""
    y, x = np.ogrid[0:height, 0:width]
    y, x = y.astype(np.int32), x.astype(np.int32)
    channels = np.empty((height, width, 3), dtype=np.uint8)
    channels[..., 0] = (7 * x + 3 * y + index) & 255
    channels[..., 1] = (x * x // 5 + 11 * y) & 255
    channels[..., 2] = (x * y // 3 + 17 * index) & 255
    return Image.fromarray(channels)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> Any:
    return image.getpixel((x, y))


def test_every_reference_picture(read_vector: Callable[[str], Any]) -> None:
    cases = read_vector("und_preprocess")["cases"]
    assert len(cases) > 100
    wrong = []
    for case in cases:
        picture = pattern(case["index"], case["width"], case["height"])
        square = np.asarray(pad_to_square(picture, case["out"][0], CONFIG))
        assert list(square.shape) == [*case["out"], 3]
        if hashlib.sha256(square.tobytes()).hexdigest() != case["sha256"]:
            wrong.append((case["index"], case["width"], case["height"]))
    assert not wrong


def test_the_order_of_operations_matters() -> None:
    """385 x 704 to 384: one pixel less when the scale is computed first."""
    side = int(385 / 704 * 384)
    assert side == int(385 * 384 / 704) and side != int(385 * (384 / 704))
    square = np.asarray(pad_to_square(Image.new("RGB", (385, 704), "red"), 384, CONFIG))
    assert (square == [255, 0, 0]).all(-1).any(0).sum() == side


def test_padding_is_centred_in_the_mean_colour() -> None:
    config = dataclasses.replace(CONFIG, image_mean=(0.5, 0.25, 0.0))
    square = np.asarray(pad_to_square(Image.new("RGB", (8, 3), "white"), 32, config))
    assert square[0, 0].tolist() == [127, 63, 0]
    rows = (square == 255).all(axis=(1, 2)).nonzero()[0]
    assert rows.tolist() == list(range(9, 23)), "14 rows at the least, from (32 - 14) // 2"


def test_normalisation_is_the_configs() -> None:
    config = dataclasses.replace(CONFIG, image_mean=(0.5, 0.0, 0.25), image_std=(0.5, 1.0, 0.25))
    values = und_pixel_values([Image.new("RGB", (4, 4), (255, 51, 0))], 4, config)
    assert values.shape == (1, 3, 4, 4) and values.dtype == torch.float32
    torch.testing.assert_close(values[0, :, 0, 0], torch.tensor([1.0, 0.2, -1.0]))


def test_drawing_targets_are_cropped_not_padded() -> None:
    picture = Image.new("RGB", (90, 30), "blue")
    picture.paste((255, 0, 0), (30, 0, 60, 30))
    square = np.asarray(crop_to_square(picture, 16))
    assert square.shape == (16, 16, 3)
    assert (square[:, 3:-3] == [255, 0, 0]).all()
    values = gen_pixel_values([picture], 16)
    assert values.shape == (1, 3, 16, 16) and values.min() == -1 and values.max() == 1


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    picture = pattern(0, 24, 24)
    assert np.array_equal(np.asarray(crop_to_square(picture, 24)), np.asarray(picture))


def test_pixels_are_truncated_and_clipped() -> None:
    values = torch.tensor([-3.0, -1.0, -0.999, 0.0, 0.9999, 1.0, 3.0])
    pixels = pixel_values_to_uint8(values.expand(1, 3, 1, -1))
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 0, 127, 254, 255, 255]


def test_eight_bits_survive_the_way_there_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    back = pixel_values_to_uint8(uint8_to_pixel_values(every))
    assert np.abs(back.astype(int) - every).max() <= 1, "truncation may cost one step, no more"


def test_the_callers_picture_and_array_are_left_alone() -> None:
    array = np.full((5, 9, 3), 100, dtype=np.uint8)
    picture = Image.fromarray(array.copy())
    und_pixel_values([open_image(array), open_image(picture)], 16, CONFIG)
    opened = open_image(picture)
    opened.putpixel((0, 0), (1, 2, 3))
    assert (array == 100).all() and pixel(picture) == (100, 100, 100)


def test_modes_that_need_care() -> None:
    grey = Image.new("L", (2, 2), 90)
    assert pixel(open_image(grey)) == (90, 90, 90)
    assert pixel(open_image(Image.new("1", (2, 2), 1))) == (255, 255, 255)

    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pixel(open_image(palette)) == (10, 200, 30)
    clear = open_image(saved(palette, "PNG", transparency=1))
    assert pixel(clear) == (255, 255, 255)

    cmyk = open_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    red, green, blue = pixel(cmyk)
    assert red > 240 and green < 30 and blue < 30


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La"])
def test_alpha_is_laid_over_white(mode: str) -> None:
    plain = "RGBA" if mode in ("RGBA", "RGBa") else "LA"
    value = (200, 200, 200, 0) if plain == "RGBA" else (200, 0)
    image = Image.new(plain, (2, 2), value)
    image.putpixel((1, 0), (*value[:-1], 255))
    opened = open_image(image.convert(mode))
    assert pixel(opened) == (255, 255, 255) and pixel(opened, x=1) == (200, 200, 200)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.array([[0, 200, 257 * 100, 65535]], dtype=np.uint16)
    for image in (Image.fromarray(ramp), open_png(Image.fromarray(ramp))):
        row = [pixel(open_image(image), x=x)[0] for x in range(4)]
        assert row == [0, 1, 100, 255]
    dark = Image.fromarray(np.array([[0, 200]], dtype=np.uint16))
    assert pixel(open_image(dark), x=1) == (1, 1, 1), "a dark picture stays dark"


def open_png(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(saved(image, "PNG")))


def test_wide_integers_and_floats() -> None:
    assert pixel(open_image(Image.fromarray(np.array([[90]], dtype=np.int32)))) == (90, 90, 90)
    assert pixel(open_image(Image.fromarray(np.array([[65535]], dtype=np.int32))))[0] == 255
    assert pixel(open_image(Image.fromarray(np.array([[90.4]], dtype=np.float32))))[0] == 90


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8), "blue")
    image.paste((255, 0, 0), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    upright = open_image(tmp_path / "turned.jpg")
    assert upright.size == (8, 16)
    top, bottom = pixel(upright, 4, 2), pixel(upright, 4, 13)
    assert top[0] > 200 > bottom[0] and bottom[2] > 200 > top[2]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_truncated_files_are_refused(kind: str, tmp_path: Path) -> None:
    data = saved(pattern(0, 60, 60), kind)
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    for source in (data[: len(data) // 2], tmp_path / "half"):
        with pytest.raises(ValueError, match=r"is a broken image|is not an image"):
            open_image(source)


def test_a_lazily_read_broken_picture_is_refused() -> None:
    data = saved(pattern(0, 60, 60), "JPEG")
    with pytest.raises(ValueError, match="the given picture is a broken image"):
        open_image(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_broken_exif_is_a_broken_picture_and_no_mistake_of_ours() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a picture", (72, 1)
    file = io.BytesIO()
    pattern(0, 8, 8).save(file, "JPEG", exif=exif)
    whole = file.getvalue()
    start = whole.index(b"Exif")
    refused = 0
    for place in range(start, start + len(exif.tobytes())):
        for value in (0, 1, 3, 5, 10, 12, 127, 255):
            try:
                open_image(whole[:place] + bytes([value]) + whole[place + 1 :])
            except ValueError:
                refused += 1
    assert refused > 0, "nothing was broken"


def test_sources_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png is not an image that Pillow can read"):
        open_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match="the given bytes is not an image"):
        open_image(b"")
    for missing in (tmp_path / "none.png", tmp_path):
        with pytest.raises(FileNotFoundError, match="no image at"):
            open_image(missing)
    with pytest.raises(ValueError, match=r"must be uint8 \(H, W, 3\), got float64 \(2, 2, 3\)"):
        open_image(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="got int"):
        open_image(7)  # pyright: ignore[reportArgumentType]


def test_a_picture_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(Image.new("L", (100, 100)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="is a broken image"):
        open_image(data)


def test_a_sheet_shows_every_picture() -> None:
    pictures = [Image.new("RGB", (6, 4), (value, 0, 0)) for value in (10, 20, 30)]
    page = sheet(pictures, gap=2)
    assert page.size == (2 * 8 + 2, 2 * 6 + 2)
    assert [pixel(page, 2, 2)[0], pixel(page, 10, 2)[0], pixel(page, 2, 8)[0]] == [10, 20, 30]
    assert pixel(page, 10, 8) == (255, 255, 255)
    with pytest.raises(ValueError, match="at least one picture"):
        sheet([])


def test_floats_up_to_1_are_shares_of_white() -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert np.asarray(open_image(Image.fromarray(values)))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(open_image(Image.fromarray(values * 2)))[0, :, 0].tolist() == [0, 1, 2]
