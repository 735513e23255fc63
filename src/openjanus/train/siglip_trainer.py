"""Training of a small understanding encoder: SigLIP's sigmoid loss on pictures and captions.

Every picture of a batch is compared with every caption; each pair is a yes-or-no question of its
own. Where a source says what each part of a picture shows, regions stand in for pictures: a region
is compared by the mean of the features that its box covers. The text tower lives here: a Janus
needs the picture side alone.

Of several processes each sees its part of the pictures and reads its part of the captions; then
they exchange the captions' vectors, and each compares its own pictures with all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import DecoderConfig, ProcessorConfig
from openjanus.data.mixture import Mixture, stable_hash
from openjanus.data.samples import IMAGE_MARK, Region, Sample
from openjanus.data.sources import Source
from openjanus.model.decoder import Decoder
from openjanus.model.siglip import SiglipEncoder
from openjanus.processor.image import open_image, und_pixel_values
from openjanus.processor.text import TextTokenizer
from openjanus.train.fast_forward import run_encoder
from openjanus.train.feed import facts_of_source, refuse_other_data
from openjanus.train.mended import Mended
from openjanus.train.optim import Optimizers
from openjanus.train.parallel import ALONE, World
from openjanus.train.replicas import all_rows, check_batch, own_part, sum_gradients
from openjanus.train.siglip_config import SiglipTrainConfig

START_SCALE = 10.0
START_BIAS = -10.0
"""Nearly all pairs are no: without the bias the first steps would only learn that."""

MLP_RATIO = 4
EVAL_CHUNK = 32

BLOCKS = ("encoder.blocks.", "text.decoder.layers.")
"""Where the matrices that Muon takes lie in the two towers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionBatch:
    """Regions of some pictures, and what is true of each."""

    owners: Tensor
    """(R,) which picture a region is of."""
    boxes: Tensor
    """(R, 4) x0, y0, x1, y1 in shares of the sides."""
    captions: tuple[str, ...]
    """U of them, no two the same."""
    true_of: Tensor
    """(R, U) bool: the caption is taught as true of the region. One that says the same in other
    words is taught as false, as in SigLIP."""

    def to(self, device: torch.device) -> RegionBatch:
        """The same there."""
        there = {name: getattr(self, name).to(device) for name in ("owners", "boxes", "true_of")}
        return replace(self, **there)


def join_regions(
    regions: Sequence[Sequence[Region]], among: Sequence[Sequence[Region]] | None = None
) -> RegionBatch:
    """One batch of the regions of each picture.

    Args:
        regions: Of each picture.
        among: Of each picture whose captions are compared with them, these included; None stands
            for ``regions``.

    Raises:
        ValueError: No picture has any.
    """
    flat = [region for of_one in regions for region in of_one]
    told = regions if among is None else among
    captions = dict.fromkeys(
        text for of_one in told for region in of_one for text in region.captions
    )
    if not captions:
        raise ValueError(
            f"none of {len(told)} pictures has a region: take a source whose pictures have some"
        )
    places = {text: place for place, text in enumerate(captions)}
    true_of = torch.zeros(len(flat), len(captions), dtype=torch.bool)
    for row, region in enumerate(flat):
        true_of[row, [places[text] for text in region.captions]] = True
    owners = [i for i, of_one in enumerate(regions) for _ in of_one]
    return RegionBatch(
        owners=torch.tensor(owners, dtype=torch.long),
        boxes=torch.tensor([region.box for region in flat], dtype=torch.float32).reshape(-1, 4),
        captions=tuple(captions),
        true_of=true_of,
    )


def regions_of(told: object) -> tuple[Region, ...]:
    """What a source says of a picture, as regions; one caption is of the whole picture.

    Raises:
        ValueError: Neither a caption nor a tuple of regions.
    """
    if isinstance(told, str):
        return (Region(captions=(told,)),)
    if isinstance(told, tuple) and all(isinstance(region, Region) for region in told):
        return told
    raise ValueError(
        "what is told of a picture must be its caption or a tuple of Region, got "
        f"{type(told).__name__} {told!r:.80}: take a source such as emoji-pairs or emoji-regions"
    )


def pair_of(item: object) -> tuple[Any, tuple[Region, ...]]:
    """What a source gives, as a picture and what is told of it.

    Args:
        item: A pair of a picture and a caption or regions; or a sample of one picture, to draw or
            to understand, whose caption is what is said last.

    Raises:
        ValueError: Neither.
    """
    if isinstance(item, tuple) and len(item) == 2:
        return item[0], regions_of(item[1])
    if isinstance(item, Sample) and item.turns:
        caption = item.turns[-1].text.replace(IMAGE_MARK, "").strip()
        if len(item.pictures) == 1 and caption:
            return item.pictures[0], regions_of(caption)
    raise ValueError(
        f"the source gives no pictures with what they show, but a {type(item).__name__}: take one "
        "that does, such as caption-jsonl, emoji-pairs or emoji-regions"
    )


def box_weights(boxes: Tensor, side: int) -> Tensor:
    """How much of a box's mean each patch is.

    Args:
        boxes: (R, 4) in shares of the sides.
        side: Patches a side.

    Returns:
        (R, side * side) shares of each box's area, in raster order; they sum to 1.
    """
    edges = torch.arange(side + 1, device=boxes.device) / side

    def overlap(low: Tensor, high: Tensor) -> Tensor:
        ends = torch.minimum(edges[1:], high[:, None])
        return (ends - torch.maximum(edges[:-1], low[:, None])).clamp_min(0.0)  # (R, side)

    columns, rows = overlap(boxes[:, 0], boxes[:, 2]), overlap(boxes[:, 1], boxes[:, 3])
    area = (rows[:, :, None] * columns[:, None, :]).flatten(1)  # (R, side * side)
    return area / area.sum(1, keepdim=True)


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

    The mean of all patches of a picture or region is compared, so that every patch feature learns
    to mean something: all of them go into a Janus.
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

    def embed_regions(self, pixel_values: Tensor, owners: Tensor, boxes: Tensor) -> Tensor:
        """(B, 3, S, S), (R,), (R, 4) -> (R, embed_size) unit vectors."""
        features = run_encoder(self.encoder, pixel_values)[owners]  # (R, N, C)
        weights = box_weights(boxes, math.isqrt(features.shape[1])).to(features.dtype)
        pooled = torch.einsum("rn,rnc->rc", weights, features)
        return F.normalize(self.image_proj(pooled).float(), dim=-1)

    def embed_texts(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), (B,) -> (B, embed_size) unit vectors."""
        return F.normalize(self.text(input_ids, lengths).float(), dim=-1)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """(R, E), (U, E) unit vectors -> (R, U): how likely each pair belongs together."""
        return self.log_scale.exp() * images @ texts.T + self.bias


def sigmoid_loss(logits: Tensor, true_of: Tensor, num_regions: int | None = None) -> Tensor:
    """SigLIP's loss.

    Args:
        logits: (R, U), regions by captions.
        true_of: (R, U) bool, which captions are taught as true of which region.
        num_regions: Those of the whole batch, where these are a part of it; None stands for R.

    Returns:
        The sum over captions, the mean over regions; of a part, its share of that mean.
    """
    signs = true_of.to(logits.dtype) * 2 - 1
    return -F.logsigmoid(signs * logits).sum() / (
        len(logits) if num_regions is None else num_regions
    )


def retrieval(logits: Tensor, true_of: Tensor) -> dict[str, float]:
    """How often what belongs together is found.

    Args:
        logits: (R, U), regions by captions.
        true_of: (R, U) bool, which captions are true of which region; each of one at least.

    Returns:
        ``image_to_text``, the share of true captions that are likelier of their region than every
        false one; ``text_to_image``, the share of captions that are true of their likeliest region.
    """
    likeliest_false = logits.masked_fill(true_of, -math.inf).amax(1, keepdim=True)  # (R, 1)
    columns = torch.arange(logits.shape[1], device=logits.device)
    return {
        "image_to_text": (logits > likeliest_false)[true_of].float().mean().item(),
        "text_to_image": true_of[logits.argmax(0), columns].float().mean().item(),
    }


class SiglipTrainer:
    """One optimizer step at a time; the loop is ``train.loop``'s.

    Args:
        encoder: Filled with fresh values here.
        tokenizer: Of the captions.
        source: (uint8 picture, caption) pairs, pictures with their regions, or samples of a picture
            and its caption; the last ``eval_pairs`` are never trained on.
        processor_config: How pictures are normalised.
        config: The run.
        start: Called with the encoder thereafter, to put better values in.
        world: All processes; the towers go to this one's device.

    Raises:
        ValueError: The source is too short, or a batch cannot be dealt evenly.
    """

    def __init__(
        self,
        encoder: SiglipEncoder,
        tokenizer: TextTokenizer,
        source: Source,
        processor_config: ProcessorConfig,
        config: SiglipTrainConfig,
        *,
        start: Callable[[SiglipEncoder], None] | None = None,
        world: World = ALONE,
    ) -> None:
        check_batch("batch_size", config.batch_size, world)
        self.world = world
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
        self._data = {"source": facts_of_source(source)}
        self._pairs = Mended(
            lambda index: pair_of(source[index]),
            key=lambda index: f"{config.source.type}/{index}",
            instead=self._instead,
            limit=config.max_bad_samples,
            world=world,
        )
        self.towers = TwoTowers(encoder, tokenizer.vocab_size, config)
        self.towers.init_weights(torch.Generator().manual_seed(config.run.seed))
        if start is not None:
            start(encoder)
        self.towers.to(world.device)
        self.optimizers = Optimizers(
            self.towers.named_parameters(), config.optim, muon_takes=BLOCKS
        )
        self._keys: list[str] = []

    def _instead(self, index: int, attempt: int) -> int:
        """Another pair for a broken one; what is held back is replaced by what is held back."""
        length = len(self.source)
        edge = length - self.config.eval_pairs
        first, end = (edge, length) if index >= edge else (0, edge)
        draw = stable_hash("replacement", self.config.run.seed, index, attempt)
        return first + draw % (end - first)

    def _read(self, captions: Sequence[str]) -> Tensor:
        """(U, embed_size) unit vectors; each process reads its part, and has all of them."""
        share = math.ceil(len(captions) / self.world.size)
        own = captions[self.world.rank * share : (self.world.rank + 1) * share]
        # Whoever has none left reads one and drops it, so that its graph is like the others'.
        words = self.towers.embed_texts(*self._texts(own or captions[:1]))[: len(own)]
        words = F.pad(words, (0, 0, 0, share - len(own)))  # (share, E)
        return all_rows(words, self.world.size).flatten(0, 1)[: len(captions)]

    def _texts(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, T) ids, each caption closed by EOS, and (B,) lengths."""
        limit = self.config.max_text_length - 1
        ids = [[*self.tokenizer.encode(text)[:limit], self.tokenizer.eos_id] for text in captions]
        lengths = [len(row) for row in ids]
        padded = [row + [self.tokenizer.pad_id] * (max(lengths) - len(row)) for row in ids]
        device = self.world.device
        return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)

    def _items(self, indices: Sequence[int]) -> tuple[Tensor, list[Sequence[Region]]]:
        """(B, 3, S, S) pixel values, and the regions of each picture."""
        pairs = [self._pairs.read(index) for index in indices]
        pictures = [open_image(picture) for picture, _ in pairs]
        pixels = und_pixel_values(pictures, self.encoder.config.image_size, self.processor_config)
        return pixels.to(self.world.device), [told for _, told in pairs]

    def _autocast(self) -> torch.autocast:
        kind = self.world.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.config.bf16)

    def train_step(self, step: int) -> dict[str, Any]:
        """One batch, one update; retrieval is measured when due."""
        indices = [draw.index for draw in self.mixture.batch(step, self.config.batch_size)]
        self._keys = [self._pairs.key(index) for index in indices]
        pixels, told = self._items(own_part(indices, self.world))
        everyone = [of_one for part in self.world.gather(told) for of_one in part]
        batch = join_regions(told, everyone).to(self.world.device)
        with self._autocast():
            regions = self.towers.embed_regions(pixels, batch.owners, batch.boxes)
            words = self._read(batch.captions)
        logits = self.towers.logits(regions, words)
        loss = sigmoid_loss(logits, batch.true_of, sum(map(len, everyone)))
        loss.backward()
        sum_gradients(self.optimizers.parameters, self.world)
        norm, lr = self.optimizers.step(step, self.config.run.steps)
        values = {"loss": self.world.sum([loss.item()])[0], "lr": lr, "grad_norm": norm}
        values["scale"] = self.towers.log_scale.exp().item()
        if (step + 1) % self.config.eval_every == 0:
            values |= self.evaluate()
        return values | self._pairs.count_bad()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Retrieval among the pictures that are held back; all processes must call this.

        Chunks of pictures are dealt to the processes, and so are the captions.
        """
        length, world = len(self.source), self.world
        starts = range(length - self.config.eval_pairs, length, EVAL_CHUNK)
        own = [
            self._look(range(start, min(start + EVAL_CHUNK, length)))
            for start in starts[world.rank :: world.size]
        ]
        dealt = world.gather(own)
        chunks = [dealt[place % world.size][place // world.size] for place in range(len(starts))]
        batch = join_regions([of_one for told, _ in chunks for of_one in told])
        batch = batch.to(world.device)
        with self._autocast():
            words = self._read(batch.captions)
        regions = torch.cat([vectors for _, vectors in chunks]).to(world.device)
        return retrieval(self.towers.logits(regions, words), batch.true_of)

    def _look(self, indices: Sequence[int]) -> tuple[list[Sequence[Region]], Tensor]:
        """What is told of some pictures, and (R, embed_size) unit vectors of their regions."""
        pixels, told = self._items(indices)
        batch = join_regions(told).to(self.world.device)
        with self._autocast():
            vectors = self.towers.embed_regions(pixels, batch.owners, batch.boxes)
        return told, vectors.cpu()

    def last_keys(self) -> list[str]:
        """Keys of the last batch, of all processes."""
        return self._keys

    def sample(self, folder: Path, step: int) -> None:
        """Write the retrieval figures."""
        lines = [f"{name}: {value:.4f}" for name, value in self.evaluate().items()]
        lines.append(f"among {self.config.eval_pairs} pictures that were never trained on")
        self._pairs.count_bad()

        def write() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            text = "\n".join(lines) + "\n"
            (folder / f"step-{step:08d}.txt").write_text(text, encoding="utf-8")

        self.world.on_main(write)

    def state_dict(self) -> dict[str, Any]:
        """The encoder, the rest of the towers, and the optimizers."""
        return {
            "model": self.encoder.state_dict(),
            "towers": self.towers.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "bad": self._pairs.bad,
            "sources": self._data,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; ``ValueError`` where files were changed since."""
        refuse_other_data(state.get("sources", {}), self._data)  # none in an older checkpoint
        self.towers.load_state_dict(state["towers"], strict=True)
        self.optimizers.load_state_dict(state["optimizers"])
        # A checkpoint from before broken pictures were replaced has none.
        self._pairs.bad = dict(state.get("bad", {}))
