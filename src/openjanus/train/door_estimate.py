"""What the training of one door will take, told from shapes alone; ``estimate`` is for a Janus.

The step's own code runs on tensors without values (torch's fake ones, which autocast knows), for
two numbers of pictures: what autograd keeps is so much whatever the number, the weights in bf16,
and so much a picture. Operations are counted in the same passes. A test holds both against a step
with values. Workspaces of convolutions, and what lives for one operation, count nothing.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from openjanus.config import JanusConfig, SemanticConfig, SiglipConfig, VQConfig
from openjanus.model.doors import build_door
from openjanus.model.semantic import SemanticTokenizer
from openjanus.model.siglip import SiglipEncoder
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.processor.text import byte_tokenizer
from openjanus.train.estimate import FP32, GB, LOGIT_BYTES, Memory, PartSize, optimizer_bytes
from openjanus.train.gan import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from openjanus.train.perceptual import PerceptualLoss
from openjanus.train.semantic_config import SemanticTrainConfig
from openjanus.train.semantic_trainer import check_whole, semantic_terms
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.siglip_towers import BLOCKS, TwoTowers
from openjanus.train.teacher import Teacher
from openjanus.train.vq_config import VQTrainConfig
from openjanus.train.vq_losses import OF_PICTURES, decoder_losses, vq_losses
from openjanus.train.vq_trainer import check_sizes, mark_decoder

DoorConfig = VQTrainConfig | SemanticTrainConfig | SiglipTrainConfig

FEW, MORE = 2, 4
"""Pictures of the two passes; a discriminator's norms need more than one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Steps that are alike. Of several devices each has all weights and its part of the batch."""

    steps: int
    batch: int
    """Pictures a step, of all devices."""
    side: int
    """Of a picture, in pixels."""
    flops: Mapping[str, float]
    """Of a step, by where they are spent."""
    fixed: int
    """Bytes that autograd keeps however many pictures there are: weights in bf16."""
    per_picture: int
    per_caption: int = 0
    """Of as many captions as pictures, each as long as is read at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoorWork:
    """All that a training of one door takes."""

    parts: Mapping[str, PartSize]
    optimizer: int
    """Bytes of the states of all optimizers."""
    phases: Sequence[Phase]
    untold: str | None = None
    """What is not counted, and why."""

    def memory(self, devices: int = 1, *, batch: int | None = None) -> Memory:
        """Bytes of one device of several in the phase that needs most.

        Args:
            devices: That share the batch, each with all weights.
            batch: Pictures a step in place of the phases' own.
        """
        total = sum(size.total for size in self.parts.values())
        trained = sum(size.trained for size in self.parts.values())
        found = []
        for phase in self.phases:
            whole = phase.batch if batch is None else batch
            share = math.ceil(whole / devices)
            pairs = share * whole if phase.per_caption > 0 else 0
            found.append(
                Memory(
                    rows=share,
                    weights=FP32 * total,
                    gradients=FP32 * trained,
                    optimizer=self.optimizer,
                    copies=phase.fixed,
                    activations=share * (phase.per_picture + phase.per_caption),
                    logits=LOGIT_BYTES * pairs,
                    encoding=0,
                )
            )
        return max(found, key=lambda memory: memory.peak)

    def refused(self, devices: int) -> str | None:
        """Why so many devices cannot share the batches; None where they can."""
        odd = [phase.batch for phase in self.phases if phase.batch % devices != 0]
        return f"a batch of {odd[0]} is not shared evenly by {devices}" if odd else None

    @property
    def flops(self) -> float:
        """Operations of the whole run."""
        return sum(phase.steps * sum(phase.flops.values()) for phase in self.phases)


def estimate_door(config: DoorConfig, teacher: JanusConfig | None = None) -> DoorWork:
    """What a run takes, of its recipe alone.

    Args:
        config: The run.
        teacher: Whose encoder teaches a semantic tokenizer; None where nothing says of which
            architecture it is, and then it is not counted.

    Raises:
        ValueError: The preset has another kind of door, or pictures of a size that the run
            refuses.
    """
    with FakeTensorMode():
        if isinstance(config, SiglipTrainConfig):
            return _siglip_work(config)
        return _vq_work(config, teacher)


def advise_door(work: DoorWork, *, devices: int, capacity: float) -> str:
    """Whether a run fits devices of a capacity in bytes, and what would make it fit."""
    refused = work.refused(devices)
    if refused is not None:
        return f"no: {refused}"
    peak = work.memory(devices).peak
    if peak <= capacity:
        return f"yes, {peak / GB:.1f} GB"
    told = f"no, {peak / GB:.1f} GB"
    batches = [phase.batch for phase in work.phases]
    several = devices * 2
    while all(batch % several == 0 for batch in batches):
        if work.memory(several).peak <= capacity:
            return f"{told}: {several} of them do, each with its part of the batch"
        several *= 2
    batch = min(batches) // 2
    while batch >= devices:
        if batch % devices == 0 and work.memory(devices, batch=batch).peak <= capacity:
            return f"{told}: pictures by {batch} do, which is another training"
        batch //= 2
    return f"{told}: not with a picture a device"


class _Saved:
    """A tensor that autograd keeps, for as long as it does."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(run: Callable[[], Tensor], modules: Sequence[nn.Module]) -> tuple[int, Tensor]:
    """Bytes that autograd keeps for the backward of what ``run`` gives, but for weights.

    What is kept on the way for a graph that nothing needs at the end is not counted.

    Args:
        run: A forward.
        modules: Whose own weights are not counted; what is made of them is.
    """
    alive: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        alive.add(saved)
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = run()
    own = {_place(p) for module in modules for p in module.parameters()}
    sizes = {_place(s.tensor): s.tensor.untyped_storage().nbytes() for s in alive}
    return sum(size for place, size in sizes.items() if place not in own), loss


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def flop_counter() -> FlopCounterMode:
    """Torch's, which does not know how a CPU attends."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def forward_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])

    def backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return 2 * forward_flops(query, key, value)

    mapping = {attention: forward_flops, backward: backward_flops}
    return FlopCounterMode(display=False, custom_mapping=mapping)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """A forward and its backward, by the number of items."""

    fixed: int
    each: int
    """Bytes an item."""
    forward: float
    backward: float
    """Operations an item."""


def _measure(run: Callable[[int], Tensor], modules: Sequence[nn.Module]) -> _Pass:
    with (forward := flop_counter()):
        few, loss = kept_bytes(lambda: run(FEW), modules)
    with (backward := flop_counter()):
        loss.backward()
    more, _ = kept_bytes(lambda: run(MORE), modules)
    each = (more - few) // (MORE - FEW)
    return _Pass(
        fixed=few - FEW * each,
        each=each,
        forward=forward.get_total_flops() / FEW,
        backward=backward.get_total_flops() / FEW,
    )


def _size(module: nn.Module) -> PartSize:
    found = list(module.parameters())
    trained = sum(p.numel() for p in found if p.requires_grad)
    return PartSize(total=sum(p.numel() for p in found), trained=trained)


def _autocast(config: DoorConfig) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.bf16)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Nets:
    """What takes part in a step of a tokenizer."""

    model: VQTokenizer
    perceptual: PerceptualLoss | None
    discriminator: PatchDiscriminator | None
    teacher: Teacher | None
    encoder: nn.Module | None
    """The teacher's."""

    @property
    def modules(self) -> list[nn.Module]:
        """All that there are."""
        found = (self.model, self.perceptual, self.discriminator, self.encoder)
        return [module for module in found if module is not None]


def _vq_work(config: VQTrainConfig, teacher: JanusConfig | None) -> DoorWork:
    nets = _vq_nets(config, teacher)
    model = nets.model
    parts = {"tokenizer": _size(model)}
    if isinstance(model, SemanticTokenizer):
        branch, whole = _size(model.semantic), parts["tokenizer"]
        parts["tokenizer"] = PartSize(
            total=whole.total - branch.total, trained=whole.trained - branch.trained
        )
        parts["semantic branch"] = branch
    optimizer = optimizer_bytes(model, config.optim.name)
    if config.ema_decay is not None:
        total = sum(p.numel() for p in model.parameters())
        parts["moving average"] = PartSize(total=total, trained=0)
    for name, module in (("perceptual net", nets.perceptual), ("teacher", nets.encoder)):
        if module is not None:
            parts[name] = _size(module)
    if nets.discriminator is not None:
        parts["discriminator"] = _size(nets.discriminator)
        optimizer += optimizer_bytes(nets.discriminator, "adam")
    whole, last = model.config.image_size, config.run.last_step
    sizes = [(last, config.batch_size, config.crop_size if config.crop_size > 0 else whole)]
    if config.crop_size > 0 and config.whole_from is not None:
        begun = min(config.whole_from, last)
        sizes = [
            (begun, config.batch_size, config.crop_size),
            (last - begun, config.whole_batch_size, whole),
        ]
    untold = None
    if isinstance(config, SemanticTrainConfig) and nets.teacher is None:
        untold = f"the teacher: nothing says of which architecture {config.teacher} is"
    phases = [_vq_phase(nets, config, *size) for size in sizes if size[0] > 0]
    return DoorWork(parts=parts, optimizer=optimizer, phases=phases, untold=untold)


def _vq_nets(config: VQTrainConfig, teacher: JanusConfig | None) -> _Nets:
    door = preset(config.preset).gen_tokenizer
    wanted = SemanticConfig if isinstance(config, SemanticTrainConfig) else VQConfig
    if type(door) is not wanted:
        raise ValueError(
            f"preset {config.preset!r} has a tokenizer of type {door.type!r}: take one that kind "
            f"{config.kind!r} trains"
        )
    assert isinstance(door, VQConfig)
    if isinstance(config, SemanticTrainConfig) and isinstance(door, SemanticConfig):
        check_whole(config, door)
    check_sizes(config, door)
    model = SemanticTokenizer(door) if isinstance(door, SemanticConfig) else VQTokenizer(door)
    if config.decoder_only:
        mark_decoder(model)
    discriminator = perceptual = encoder = looked_at = None
    if config.loss.perceptual > 0:
        perceptual = PerceptualLoss()
    if config.gan.weight > 0:
        discriminator = PatchDiscriminator(config.gan.layers, config.gan.width)
    if isinstance(config, SemanticTrainConfig) and teacher is not None:
        encoder = build_door(teacher.und_encoder)
        size = teacher.und_image_size
        looked_at = Teacher(encoder, size, teacher.processor, config.teacher)
        assert isinstance(door, SemanticConfig)
        looked_at.check(door)
    return _Nets(
        model=model,
        perceptual=perceptual,
        discriminator=discriminator,
        teacher=looked_at,
        encoder=encoder,
    )


def _vq_phase(nets: _Nets, config: VQTrainConfig, steps: int, batch: int, side: int) -> Phase:
    model, teacher, discriminator = nets.model, nets.teacher, nets.discriminator

    def more(pixels: Tensor, quantized: Tensor) -> dict[str, Tensor]:
        assert isinstance(model, SemanticTokenizer)
        if teacher is None:
            return {"semantic": model.semantic.predict(model.semantic(quantized)).float().mean()}
        return semantic_terms(model.semantic, teacher, pixels, quantized)

    def run(count: int) -> Tensor:
        pixels = torch.empty(count, 3, side, side)
        with _autocast(config):
            if config.decoder_only:
                with torch.no_grad(), torch.autocast("cpu", enabled=False):
                    ids = model.encode_to_ids(pixels)
                losses = decoder_losses(model, ids, pixels, config.loss, nets.perceptual)
            else:
                branch = more if isinstance(model, SemanticTokenizer) else None
                losses = vq_losses(model, pixels, config.loss, None, nets.perceptual, more=branch)
        if discriminator is None:
            return losses.total
        with _autocast(config):
            fooled = generator_loss(discriminator, losses.reconstruction)
        if config.gan.adaptive:
            compared = torch.stack([losses.terms[n] for n in OF_PICTURES if n in losses.terms])
            adaptive_weight(compared.sum(), fooled, model.decoder.conv_out.weight)
        return losses.total + fooled

    def judge(count: int) -> Tensor:
        assert discriminator is not None
        pixels = torch.empty(count, 3, side, side)
        with _autocast(config):
            return discriminator_loss(discriminator, pixels, torch.empty_like(pixels))[0]

    found = _measure(run, nets.modules)
    flops = {"forward": found.forward, "backward": found.backward}
    kept = found
    if discriminator is not None:
        judged = _measure(judge, nets.modules)
        flops["discriminator's own step"] = judged.forward + judged.backward
        kept = max(found, judged, key=lambda one: one.fixed + batch * one.each)
    if teacher is not None:
        with torch.no_grad(), (counter := flop_counter()):
            blank = torch.empty(1, 3, side, side)
            teacher.features(blank, (side // model.config.downsample_factor) ** 2)
        flops["teacher"] = float(counter.get_total_flops())
        flops["forward"] -= flops["teacher"]
    return Phase(
        steps=steps,
        batch=batch,
        side=side,
        flops={name: batch * n for name, n in flops.items()},
        fixed=kept.fixed,
        per_picture=kept.each,
    )


def _siglip_work(config: SiglipTrainConfig) -> DoorWork:
    model_config = preset(config.preset)
    door = model_config.und_encoder
    if not isinstance(door, SiglipConfig):
        raise ValueError(
            f"preset {config.preset!r} has an encoder of type {door.type!r}: take one of siglip"
        )
    words = model_config.text_vocab_size
    if config.tokenizer is None:
        words = byte_tokenizer(model_config.processor).vocab_size
    towers = TwoTowers(SiglipEncoder(door), words, config)

    def look(count: int) -> Tensor:
        pixels = torch.empty(count, 3, door.image_size, door.image_size)
        with _autocast(config):
            features = towers.encoder(pixels)
            return towers.pool(features, torch.arange(count), torch.empty(count, 4)).sum()

    def read(count: int) -> Tensor:
        ids = torch.zeros(count, config.max_text_length, dtype=torch.long)
        with _autocast(config):
            return towers.embed_texts(ids, torch.ones(count, dtype=torch.long)).sum()

    looked, told = _measure(look, [towers]), _measure(read, [towers])
    batch = config.batch_size
    phase = Phase(
        steps=config.run.last_step,
        batch=batch,
        side=door.image_size,
        flops={
            "pictures": batch * (looked.forward + looked.backward),
            "captions": batch * (told.forward + told.backward),
            "pairs": 6.0 * batch * batch * config.embed_size,
        },
        fixed=looked.fixed + told.fixed,
        per_picture=looked.each,
        per_caption=told.each,
    )
    encoder, whole = _size(towers.encoder), _size(towers)
    others = PartSize(total=whole.total - encoder.total, trained=whole.trained - encoder.trained)
    return DoorWork(
        parts={"und_encoder": encoder, "text tower and loss": others},
        optimizer=optimizer_bytes(towers, config.optim.name, muon_takes=BLOCKS),
        phases=[phase],
    )
