"""A training loop of one's own: to answer and to draw in one step, in 25 lines on public names.

The trainer behind ``openjanus train`` adds sources, packing, checkpoints and an exact resume; the
loss is the same. It starts from random weights and needs no download:

    python examples/own_loop.py
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

import openjanus
from openjanus import Sample, Turn


def main(steps: int = 60) -> list[float]:
    """Learn four colours, both ways; returns the loss of every step."""
    janus = openjanus.load("tiny", device="cpu")
    janus.model.vq.requires_grad_(False)  # its ids are what is learnt
    samples = []
    for colour in ("red", "green", "blue", "yellow"):
        picture = Image.new("RGB", (32, 32), colour)
        seen, ids = np.asarray(picture), janus.encode_image(picture).numpy()
        said = (Turn(role="assistant", text=f"<image_placeholder>{colour}"),)
        told = (Turn(role="user", text=colour),)
        und = Sample(key=f"{colour} seen", kind="und", form="plain", turns=said, images=(seen,))
        samples += [und, Sample(key=f"{colour} drawn", kind="gen", turns=told, target=ids)]
    encoded = [openjanus.encode_sample(s, janus.processor, max_length=192) for s in samples]
    batch = openjanus.collate(encoded, janus.processor, pack_length=192)
    trained = [p for p in janus.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    history = []
    for step in range(steps):
        losses = openjanus.compute_losses(janus.model.train(), batch)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(losses.total.item())
        print(f"step {step + 1}: loss {history[-1]:.3f}", losses.means())
    return history


if __name__ == "__main__":
    main()
