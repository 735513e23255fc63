"""Training of a small understanding encoder: SigLIP's sigmoid loss on pictures and captions.

Every picture of a batch is compared with every caption; each pair is a yes-or-no question of its
own. Where a source says what each part of a picture shows, regions stand in for pictures: a region
is compared by the mean of the features that its box covers.

Of several processes each sees its part of the pictures and reads its part of the captions; then
they exchange the captions' vectors, and each compares its own pictures with all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.config import ProcessorConfig
from openjanus.data.mixture import Mixture, stable_hash
from openjanus.data.samples import Region
from openjanus.data.sources import Source
from openjanus.model.siglip import SiglipEncoder
from openjanus.processor.image import open_image, und_pixel_values
from openjanus.processor.text import TextTokenizer
from openjanus.train.feed import facts_of_source, refuse_other_data
from openjanus.train.mended import Mended
from openjanus.train.optim import Optimizers
from openjanus.train.parallel import ALONE, World
from openjanus.train.replicas import all_rows, check_batch, own_part, sum_gradients
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.siglip_losses import retrieval, sigmoid_loss
from openjanus.train.siglip_regions import join_regions, pair_of
from openjanus.train.siglip_towers import BLOCKS, TwoTowers

EVAL_CHUNK = 32


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
        self.facts = {"source": facts_of_source(source)}
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
            "sources": self.facts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; ``ValueError`` where files were changed since."""
        refuse_other_data(state.get("sources", {}), self.facts)  # none in an older checkpoint
        self.towers.load_state_dict(state["towers"], strict=True)
        self.optimizers.load_state_dict(state["optimizers"])
        # A checkpoint from before broken pictures were replaced has none.
        self._pairs.bad = dict(state.get("bad", {}))
