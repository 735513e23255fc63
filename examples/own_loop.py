"""A training loop of one's own: und, text and gen samples in one step, in forty lines.

The trainer behind ``openjanus train`` adds metrics, checkpoints and an exact resume; the pieces
are the same. It starts from random weights and needs no download:

    python examples/own_loop.py --steps 60
"""

from __future__ import annotations

import argparse

import torch

from openjanus import build
from openjanus.config import preset
from openjanus.data.collate import collate, encode_sample, with_image_ids
from openjanus.data.mixture import Mixture
from openjanus.data.sources import build_source
from openjanus.model.doors import ImageTokenizer
from openjanus.processor.prompt import Processor
from openjanus.processor.text import byte_tokenizer
from openjanus.train.losses import compute_losses
from openjanus.train.stages import freeze_for_stage

LENGTH = 512


def main(steps: int, batch_size: int = 20) -> list[float]:
    """Train; returns the loss of every step."""
    config = preset("tiny")
    processor = Processor(config, byte_tokenizer(config.processor))
    model = build(config, device="cpu")
    model.init_weights(torch.Generator().manual_seed(0))
    freeze_for_stage(model, 2, train_gen_embed=True)
    assert isinstance(model.vq, ImageTokenizer)

    kinds = ("und", "text", "gen")
    sources = {kind: build_source("toy", {"kind": kind, "length": LENGTH}) for kind in kinds}
    order = Mixture(
        {kind: [LENGTH] for kind in kinds}, {kind: [1.0] for kind in kinds}, (2, 3, 5), seed=0
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    history: list[float] = []
    for step in range(steps):
        samples = [sources[draw.kind][draw.index] for draw in order.batch(step, batch_size)]
        encoded = [encode_sample(sample, processor, max_length=192) for sample in samples]
        with torch.no_grad():
            encoded = with_image_ids(encoded, processor, model.vq.encode_to_ids)
        losses = compute_losses(model, collate(encoded, processor, pack_length=192))
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(losses.total.item())
        parts = ", ".join(f"{kind} {mean:.3f}" for kind, mean in losses.means().items())
        print(f"step {step + 1}: loss {history[-1]:.3f} ({parts})")
    return history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    main(parser.parse_args().steps)
