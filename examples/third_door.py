"""A third door: teach a Janus to hear, without touching a line of the library.

Three things make a door: a configuration with a ``type``, a module that turns its input into
features, and two registrations. Everything else (building, the aligner, saving in config.json)
follows from the configuration. Here the decoder stays frozen, as in the papers' first stage; the
new aligner learns to say whether a tone is low or high, together with the word head, because the
weights of the preset ``tiny`` are random and it has no words yet.

    python examples/third_door.py
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import openjanus
from openjanus import JanusConfig, JanusModel
from openjanus.config import register_door_config
from openjanus.model.doors import register_door
from openjanus.presets import preset
from openjanus.processor.chat import Turn
from openjanus.processor.prompt import Processor
from openjanus.processor.text import byte_tokenizer

ANSWERS = ("low", "high")


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundConfig:
    """A mono sound, cut into windows."""

    type: ClassVar[str] = "sound"

    window_size: int
    """Samples a window."""
    num_windows: int
    """Windows a sound: the slots that it takes among the words."""
    hidden_size: int


class SoundEncoder(nn.Module):
    """Loudness by frequency, projected: the simplest encoder that can tell tones apart."""

    def __init__(self, config: SoundConfig) -> None:
        super().__init__()
        self.window_size = config.window_size
        self.output_size = config.hidden_size
        self.proj = nn.Linear(config.window_size // 2 + 1, config.hidden_size)

    def forward(self, samples: Tensor) -> Tensor:
        """(B, windows * window_size) in [-1, 1] -> (B, windows, hidden_size)."""
        windows = samples.unflatten(1, (-1, self.window_size))
        return self.proj(torch.fft.rfft(windows, norm="ortho").abs())


register_door_config(SoundConfig)
register_door(SoundConfig.type, SoundEncoder)

SOUND = SoundConfig(window_size=64, num_windows=4, hidden_size=32)


def hearing_config() -> JanusConfig:
    """The preset ``tiny`` with an ear."""
    return dataclasses.replace(preset("tiny"), extra_doors={"sound": SOUND})


def make_tones(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy tones.

    Returns:
        (count, samples), and (count,) 0 for a low tone or 1 for a high one.
    """
    is_high = torch.randint(2, (count,), generator=generator)
    cycles = 3 + 9 * is_high + 3 * torch.rand(count, generator=generator)  # a window
    phase = torch.rand(count, generator=generator)
    time = torch.arange(SOUND.num_windows * SOUND.window_size) / SOUND.window_size
    tones = torch.sin(2 * math.pi * (cycles[:, None] * time + phase[:, None]))
    return 0.7 * tones + 0.1 * torch.randn(tones.shape, generator=generator), is_high


class Listener:
    """A question about a sound, and the model's answer to it."""

    def __init__(self, model: JanusModel, processor: Processor) -> None:
        self.model = model
        tokenizer = processor.tokenizer
        question = [Turn(role="user", text="Is it low or high?")]
        prompt = processor.und_prompt(question, system="").input_ids
        slots = [tokenizer.pad_id] * SOUND.num_windows  # after BOS; any id, it is replaced
        self.ids = torch.tensor([prompt[0], *slots, *prompt[1:], *tokenizer.encode(" ")])
        self.slots = torch.zeros(len(self.ids), dtype=torch.bool)
        self.slots[1 : 1 + SOUND.num_windows] = True
        # After the template's space, the first letter tells one answer from the other.
        self.answer_ids = torch.tensor([tokenizer.encode(answer)[0] for answer in ANSWERS])

    def logits(self, samples: Tensor) -> Tensor:
        """(B, samples) -> (B, V): what comes after the question and a space."""
        ids, slots = (x.expand(len(samples), -1) for x in (self.ids, self.slots))
        sound = self.model.embed_extra("sound", samples)
        embeds = self.model.embed_sequence(ids, {"sound": (slots, sound)})
        return self.model.text_logits(self.model.language_model.model(embeds)[:, -1])

    @torch.no_grad()
    def accuracy(self, samples: Tensor, is_high: Tensor) -> float:
        """Share of sounds whose likelier answer is the right one."""
        answers = self.logits(samples)[:, self.answer_ids].argmax(-1)
        return (answers == is_high).float().mean().item()


def main(steps: int = 60) -> tuple[float, float]:
    """Train the new aligner and the word head.

    Returns:
        Accuracy on sounds that were not trained on, before and after.
    """
    generator = torch.Generator().manual_seed(0)
    config = hearing_config()
    model = openjanus.build(config, device="cpu")
    model.init_weights(generator)
    model.requires_grad_(False)
    learning = nn.ModuleList([model.extra_aligners["sound"], model.language_model.lm_head])
    learning.requires_grad_(True)
    listener = Listener(model, Processor(config, byte_tokenizer(config.processor)))

    test = make_tones(200, generator)
    before = listener.accuracy(*test)
    optimizer = torch.optim.AdamW(learning.parameters(), lr=3e-3)
    for step in range(steps):
        samples, is_high = make_tones(32, generator)
        loss = F.cross_entropy(listener.logits(samples), listener.answer_ids[is_high])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step:3d}  loss {loss.item():.3f}")
    after = listener.accuracy(*test)
    print(f"accuracy on new sounds: {before:.0%} before, {after:.0%} after")
    return before, after


if __name__ == "__main__":
    main()
