"""A tiny Janus that draws and talks, with logits far from flat."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from openjanus.pipeline import Janus, load


@pytest.fixture(scope="session")
def janus() -> Janus:
    """Shared by the session: do not change its weights."""
    janus = load("tiny", device="cpu")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in janus.model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, 1.0, generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
    return janus


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    image = Image.new("RGB", (40, 30), (200, 30, 30))
    image.paste((20, 60, 220), (5, 5, 20, 25))
    return image
