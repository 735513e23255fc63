"""Pictures to tensors and back, without torchvision; the released models' preprocessing.

Two doors, two ways in: understanding pads to a square, generation crops to one.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from openjanus.config import ProcessorConfig

MOST_SIDES = 32
"""Of a picture that is longer than so many times its shorter side, the ends are cut off first."""

BAND = 128
"""Rows of a picture that are converted at a time: whole ones would take many times their memory,
and other threads would wait for them."""

BROKEN = (OSError, SyntaxError, TypeError, LookupError, ArithmeticError, struct.error)
"""What Pillow raises of a broken file, its EXIF data included; it has no class of its own."""

ImageLike = Image.Image | np.ndarray | str | Path | bytes


def open_image(source: ImageLike) -> Image.Image:
    """Open a picture as RGB, upright.

    Args:
        source: A PIL image, a uint8 (H, W, 3) array, a path, or the bytes of a file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a picture, or a broken one.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ValueError(
                f"an image array must be uint8 (H, W, 3), got {source.dtype} {source.shape}"
            )
        return Image.fromarray(source)
    if isinstance(source, Image.Image):
        return _load(source, "the given picture")
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "the given bytes")
    if not isinstance(source, str | Path):
        raise ValueError(
            "an image must be a PIL image, a uint8 array, a path or bytes, got "
            f"{type(source).__name__}"
        )
    if not Path(source).is_file():
        raise FileNotFoundError(f"no image at {source}: check the path")
    return _read(source, str(source))


def _read(file: str | Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return _load(image, name)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that Pillow can read: give a PNG or JPEG") from (
            error
        )
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is a broken image ({error}): give a whole file") from error


def _load(image: Image.Image, name: str) -> Image.Image:
    try:
        return to_rgb(image)
    except BROKEN as error:  # Pillow reads lazily: a broken file shows here
        raise ValueError(f"{name} is a broken image ({error}): give a whole file") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: EXIF orientation honoured, alpha over white, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips wide values to 8 bits instead of scaling them. "I" and "F" do not say how
        # wide they are: beyond 255 they are taken for 16 bits, and "F" up to 1 for shares of it.
        values = np.asarray(image)
        is_wide = image.mode.startswith("I;16") or values.max(initial=0) > 255
        is_share = image.mode == "F" and values.max(initial=0) <= 1
        scale = 255 / 65535 if is_wide else 255.0 if is_share else 1.0
        narrow = np.empty(values.shape, dtype=np.uint8)
        for top in range(0, len(values), BAND):
            scaled = values[top : top + BAND].astype(np.float64) * scale
            narrow[top : top + BAND] = scaled.round().clip(0, 255)
        image = Image.fromarray(narrow)
    if image.mode in ("La", "RGBa"):  # premultiplied alpha, which converts to its plain form alone
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        on_white = Image.new("RGB", rgba.size)
        for top in range(0, rgba.height, BAND):
            band = rgba.crop((0, top, rgba.width, min(top + BAND, rgba.height)))
            white = Image.new("RGBA", band.size, (255, 255, 255, 255))
            on_white.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
        return on_white
    return image.convert("RGB")


def pad_to_square(image: Image.Image, size: int, config: ProcessorConfig) -> Image.Image:
    """Resize the longer side to ``size`` and centre on a square of the mean colour.

    The order of operations is the authors': ``int(side / longest * size)``; computing
    ``side * (size / longest)`` is one pixel off for some sizes.
    """
    width, height = image.size
    longest = max(width, height)
    new_width = max(int(width / longest * size), config.min_size)
    new_height = max(int(height / longest * size), config.min_size)
    resized = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    background = tuple(int(mean * 255) for mean in config.image_mean)
    square = Image.new("RGB", (size, size), background)
    square.paste(resized, ((size - new_width) // 2, (size - new_height) // 2))
    return square


def und_pixel_values(images: list[Image.Image], size: int, config: ProcessorConfig) -> Tensor:
    """Pictures as the understanding encoder wants them: (B, 3, S, S), normalised fp32."""
    squares = [np.asarray(pad_to_square(image, size, config)) for image in images]
    values = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255  # (B, 3, S, S)
    mean = torch.tensor(config.image_mean, device="cpu").view(3, 1, 1)
    std = torch.tensor(config.image_std, device="cpu").view(3, 1, 1)
    return (values - mean) / std


def crop_to_square(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to ``size`` and cut the centre: how drawing targets are made."""
    width, height = image.size
    short = min(width, height)
    if max(width, height) > MOST_SIDES * short:
        # A line of pixels would take gigabytes before its centre is cut out.
        kept = (min(width, MOST_SIDES * short), min(height, MOST_SIDES * short))
        left, top = (width - kept[0]) // 2, (height - kept[1]) // 2
        image = image.crop((left, top, left + kept[0], top + kept[1]))
        width, height = kept
    if (width, height) != (size, size):
        scale = size / min(width, height)
        new_size = (max(size, round(width * scale)), max(size, round(height * scale)))
        image = image.resize(new_size, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def gen_pixel_values(images: list[Image.Image], size: int) -> Tensor:
    """Pictures as the generation tokenizer wants them: (B, 3, S, S) in [-1, 1], fp32."""
    return uint8_to_pixel_values(np.stack([np.asarray(crop_to_square(i, size)) for i in images]))


def uint8_to_pixel_values(pictures: np.ndarray) -> Tensor:
    """uint8 (B, S, S, 3) -> (B, 3, S, S) in [-1, 1], fp32."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def pixel_values_to_uint8(pixel_values: Tensor) -> np.ndarray:
    """(B, 3, S, S) in [-1, 1] -> uint8 (B, S, S, 3); truncated, as the authors do."""
    values = ((pixel_values.float() + 1) / 2 * 255).clamp(0, 255)
    return values.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def sheet(pictures: list[Image.Image], *, columns: int | None = None, gap: int = 4) -> Image.Image:
    """A contact sheet of equal pictures on white."""
    if not pictures:
        raise ValueError("a sheet needs at least one picture")
    if columns is None:
        columns = int(np.ceil(np.sqrt(len(pictures))))
    rows = -(-len(pictures) // columns)
    width, height = pictures[0].size
    page = Image.new(
        "RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), (255, 255, 255)
    )
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        page.paste(picture, (gap + column * (width + gap), gap + row * (height + gap)))
    return page
