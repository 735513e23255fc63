"""Training of a small understanding encoder: SigLIP's sigmoid loss on pictures and captions.

Every picture of a batch is compared with every caption; each pair is a yes-or-no question of its
own. The text tower lives here: a Janus needs the picture side alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import DecoderConfig, ProcessorConfig
from openjanus.data.mixture import Mixture
from openjanus.data.sources import Source
from openjanus.model.decoder import Decoder
from openjanus.model.siglip import SiglipEncoder
from openjanus.processor.image import open_image, und_pixel_values
from openjanus.processor.text import TextTokenizer
from openjanus.train.config import SiglipTrainConfig
from openjanus.train.optim import Optimizers

START_SCALE = 10.0
START_BIAS = -10.0
"""Nearly all pairs are no: without the bias the first steps would only learn that."""

MLP_RATIO = 4
EVAL_CHUNK = 32


class TextTower(nn.Module):
    """Captions to vectors: a small causal decoder, read at the caption's last token."""

    def __init__(self, vocab_size: int, config: SiglipTrainConfig) -> None:
        super().__init__()
        width = config.embed_size
        self.decoder = Decoder(
            DecoderConfig(
                vocab_size=vocab_size,
                hidden_size=width,
                intermediate_size=MLP_RATIO * width,
                num_hidden_layers=config.text_layers,
                num_attention_heads=config.text_heads,
                num_key_value_heads=config.text_heads,
                max_position_embeddings=config.max_text_length,
            )
        )
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, T) right-padded ids and (B,) lengths -> (B, embed_size)."""
        hidden = self.decoder(self.decoder.embed_tokens(input_ids))  # (B, T, D)
        last = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]  # (B, D)
        return self.proj(last)


class TwoTowers(nn.Module):
    """The encoder, a projection of its mean feature, the text tower, and the loss's two scalars.

    The mean of all patches is compared, so that every patch feature learns to mean something:
    all of them go into a Janus.
    """

    def __init__(self, encoder: SiglipEncoder, vocab_size: int, config: SiglipTrainConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.image_proj = nn.Linear(encoder.output_size, config.embed_size, bias=False)
        self.text = TextTower(vocab_size, config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))
        self.bias = nn.Parameter(torch.tensor(START_BIAS))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every parameter with values that depend on the generator alone."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
                fan_in = module.weight[0].numel()
                std = 0.02 if isinstance(module, nn.Embedding) else fan_in**-0.5
                module.weight.normal_(0.0, std, generator=generator)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.zero_()
        self.encoder.pos_embed.normal_(0.0, 0.02, generator=generator)

    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, embed_size) unit vectors."""
        pooled = self.encoder(pixel_values).mean(1)  # (B, C)
        return F.normalize(self.image_proj(pooled).float(), dim=-1)

    def embed_texts(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), (B,) -> (B, embed_size) unit vectors."""
        return F.normalize(self.text(input_ids, lengths).float(), dim=-1)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """(A, E), (B, E) unit vectors -> (A, B): how likely each pair belongs together."""
        return self.log_scale.exp() * images @ texts.T + self.bias


def sigmoid_loss(logits: Tensor, same: Tensor) -> Tensor:
    """SigLIP's loss.

    Args:
        logits: (B, B).
        same: (B, B) bool, True where the caption is taught as true of the picture: the diagonal,
            and every pair with an identical caption. A caption that says the same in other words
            stays taught as false, as in SigLIP.

    Returns:
        The sum over captions, the mean over pictures.
    """
    signs = same.to(logits.dtype) * 2 - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


def same_captions(captions: Sequence[str]) -> Tensor:
    """(B, B) bool, True where two captions are the same words."""
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    ids = torch.tensor([numbers[caption] for caption in captions])
    return ids[:, None] == ids[None, :]


def retrieval(logits: Tensor, same: Tensor) -> dict[str, float]:
    """Share of pictures whose likeliest caption is true of them, and of captions likewise.

    Args:
        logits: (B, B), pictures by captions.
        same: (B, B) bool, which captions are true of which picture.
    """
    rows = torch.arange(len(logits))
    return {
        "image_to_text": same[rows, logits.argmax(1)].float().mean().item(),
        "text_to_image": same[logits.argmax(0), rows].float().mean().item(),
    }


class SiglipTrainer:
    """One optimizer step at a time; the loop is ``train.loop``'s.

    Args:
        encoder: Filled with fresh values here.
        tokenizer: Of the captions.
        source: (uint8 picture, caption) pairs; the last ``eval_pairs`` are never trained on.
        processor_config: How pictures are normalised.
        config: The run.

    Raises:
        ValueError: The source is too short.
    """

    def __init__(
        self,
        encoder: SiglipEncoder,
        tokenizer: TextTokenizer,
        source: Source,
        processor_config: ProcessorConfig,
        config: SiglipTrainConfig,
    ) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.source = source
        self.processor_config = processor_config
        self.config = config
        num_pairs = len(source) - config.eval_pairs
        if num_pairs < config.batch_size:
            raise ValueError(
                f"the source has {len(source)} pairs, of which {config.eval_pairs} are held back: "
                f"too few for batches of {config.batch_size}"
            )
        self.mixture = Mixture({"und": [num_pairs]}, {"und": [1]}, (1, 0, 0), seed=config.run.seed)
        self.towers = TwoTowers(encoder, tokenizer.vocab_size, config)
        self.towers.init_weights(torch.Generator().manual_seed(config.run.seed))
        self.optimizers = Optimizers(self.towers.named_parameters(), config.optim)
        self._keys: list[str] = []

    def _texts(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, T) ids, each caption closed by EOS, and (B,) lengths."""
        limit = self.config.max_text_length - 1
        ids = [[*self.tokenizer.encode(text)[:limit], self.tokenizer.eos_id] for text in captions]
        lengths = [len(row) for row in ids]
        padded = [row + [self.tokenizer.pad_id] * (max(lengths) - len(row)) for row in ids]
        return torch.tensor(padded), torch.tensor(lengths)

    def _pairs(self, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        pairs = [self.source[index] for index in indices]
        pictures = [open_image(picture) for picture, _ in pairs]
        pixels = und_pixel_values(pictures, self.encoder.config.image_size, self.processor_config)
        return pixels, [caption for _, caption in pairs]

    def train_step(self, step: int) -> dict[str, Any]:
        """One batch, one update; retrieval is measured when due."""
        indices = [draw.index for draw in self.mixture.batch(step, self.config.batch_size)]
        self._keys = [f"{self.config.source.type}/{index}" for index in indices]
        pixels, captions = self._pairs(indices)
        texts, lengths = self._texts(captions)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            images = self.towers.embed_images(pixels)
            words = self.towers.embed_texts(texts, lengths)
        loss = sigmoid_loss(self.towers.logits(images, words), same_captions(captions))
        loss.backward()
        norm, lr = self.optimizers.step(step, self.config.run.steps)
        values = {"loss": loss.item(), "lr": lr, "grad_norm": norm}
        values["scale"] = self.towers.log_scale.exp().item()
        if (step + 1) % self.config.eval_every == 0:
            values |= self.evaluate()
        return values

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Retrieval among the pairs that are held back."""
        length = len(self.source)
        images, words, captions = [], [], []
        for start in range(length - self.config.eval_pairs, length, EVAL_CHUNK):
            pixels, texts = self._pairs(range(start, min(start + EVAL_CHUNK, length)))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
                images.append(self.towers.embed_images(pixels))
                words.append(self.towers.embed_texts(*self._texts(texts)))
            captions += texts
        logits = self.towers.logits(torch.cat(images), torch.cat(words))
        return retrieval(logits, same_captions(captions))

    def last_keys(self) -> list[str]:
        """Keys of the last batch."""
        return self._keys

    def sample(self, folder: Path, step: int) -> None:
        """Write the retrieval figures."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}: {value:.4f}" for name, value in self.evaluate().items()]
        lines.append(f"among {self.config.eval_pairs} pairs that were never trained on")
        (folder / f"step-{step:08d}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """The encoder, the rest of the towers, and the optimizers."""
        return {
            "model": self.encoder.state_dict(),
            "towers": self.towers.state_dict(),
            "optimizers": self.optimizers.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        self.towers.load_state_dict(state["towers"], strict=True)
        self.optimizers.load_state_dict(state["optimizers"])
