"""What a run takes: against numbers by hand, autograd's own tensors, and torch's count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from openjanus.config import DecoderConfig, JanusConfig, SiglipConfig
from openjanus.model.decoder import Decoder
from openjanus.model.janus import JanusModel, build_model
from openjanus.model.siglip import SiglipEncoder
from openjanus.presets import preset
from openjanus.train.config import JanusTrainConfig
from openjanus.train.estimate import (
    Memory,
    advise,
    decoder_layer_bytes,
    encode_flops,
    estimate_flops,
    estimate_memory,
    optimizer_bytes,
    part_sizes,
    rows_at_a_time,
    seconds,
    siglip_layer_bytes,
    work_of,
)
from openjanus.train.optim_config import OptimConfig
from openjanus.train.recipes import load_recipe
from openjanus.train.stages import Stage, freeze_for_stage


def recipe(name: str, *overrides: str) -> JanusTrainConfig:
    config = load_recipe(name, overrides)
    assert isinstance(config, JanusTrainConfig)
    return config


def frozen(name: str, stage: Stage) -> JanusModel:
    model = build_model(preset(name))
    freeze_for_stage(model, stage, train_gen_embed=False)
    return model


def test_a_layers_bytes_are_worked_out_by_hand() -> None:
    language = preset("janus-pro-1b").language
    # 16 D norms, 10 D inputs of five matrices, 4 D queries and output, 4 D keys and values, 8 F.
    assert decoder_layer_bytes(language, trained=True) == 34 * 2048 + 8 * 5632 + 8 * 128 + 64 + 8
    assert decoder_layer_bytes(language, trained=True) == 115_784
    # 8 D norms, 8 D attention, 6 F.
    assert decoder_layer_bytes(language, trained=False) == 67_656
    encoder = preset("janus-pro-1b").und_encoder
    assert isinstance(encoder, SiglipConfig)
    assert siglip_layer_bytes(encoder) == 20 * 1024 + 4 * 4096 + 16 + 4 * 16


def kept_bytes(run: Callable[[], Tensor], module: nn.Module) -> tuple[int, int]:
    """Bytes that autograd keeps: activations, and copies of weights."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    shapes = {tuple(p.shape) for p in module.parameters() if p.ndim == 2}
    shapes |= {shape[::-1] for shape in shapes}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        run()
    sizes = {True: 0, False: 0}
    for tensor in kept.values():
        sizes[tuple(tensor.shape) in shapes] += tensor.untyped_storage().nbytes()
    return sizes[False], sizes[True]


def decoder_config(**changes: Any) -> DecoderConfig:
    sizes = {"vocab_size": 8, "hidden_size": 128, "intermediate_size": 320}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}
    return DecoderConfig(**{**sizes, **heads, **changes})


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}, {"intermediate_size": 512}])
def test_a_layer_keeps_what_autograd_keeps(trained: bool, changes: dict[str, int]) -> None:
    length, found, copies = 96, [], []
    for layers in (1, 2):
        config = decoder_config(num_hidden_layers=layers, **changes)
        decoder = Decoder(config).requires_grad_(trained)
        inputs = torch.randn(1, length, 128, requires_grad=True)
        kept, copied = kept_bytes(lambda run=decoder, x=inputs: run(x), decoder)
        found.append(kept)
        copies.append(copied)
    layer = decoder_config(**changes)
    assert found[1] - found[0] == length * decoder_layer_bytes(layer, trained=trained)
    width, keys = 128, 32 * layer.num_key_value_heads
    matrices = 2 * width * width + 2 * width * keys + 3 * width * layer.intermediate_size
    assert copies[1] - copies[0] == 2 * matrices  # whether trained or not


@pytest.mark.parametrize(("width", "ffn"), [(96, 384), (192, 384)])
def test_a_block_of_the_encoder_keeps_what_autograd_keeps(width: int, ffn: int) -> None:
    found = []
    for layers in (1, 2):
        config = SiglipConfig(
            image_size=64,
            patch_size=8,
            hidden_size=width,
            intermediate_size=ffn,
            num_hidden_layers=layers,
            num_attention_heads=4,
        )
        encoder = SiglipEncoder(config)
        found.append(kept_bytes(lambda run=encoder: run(torch.zeros(1, 3, 64, 64)), encoder)[0])
        per_patch = siglip_layer_bytes(config)
    assert found[1] - found[0] == 64 * per_patch


def test_memory_of_the_1b_in_stage_two_by_hand() -> None:
    config = recipe("janus-pro-1b/stage2")
    model = frozen("janus-pro-1b", 2)
    total, trained = 2_076_636_811, 1_701_064_704
    memory = estimate_memory(model, config)
    assert (memory.weights, memory.gradients, memory.optimizer) == (
        4 * total,
        4 * trained,
        8 * trained,
    )
    # A layer's matrices 24 times, the head for words, both aligners, the image head.
    matrices = 24 * (4 * 2048**2 + 3 * 2048 * 5632) + 102_400 * 2048
    matrices += (1024 + 2048) * 2048 + (8 + 2048) * 2048 + (2048 + 16_384) * 2048
    assert memory.copies == 2 * matrices
    outside = 26 * 2048
    assert memory.activations == 4096 * (24 * 115_784 + outside)
    assert memory.logits == 12 * 4096 * 102_400
    assert memory.encoding == 16 * 128 * 384 * 384 * 12
    assert memory.peak == memory.kept + memory.copies + memory.activations + memory.logits
    least = estimate_memory(model, config, checkpointing=True)
    assert least.activations == 4096 * (24 * 4 * 2048 + 115_784 + outside)
    of_8 = estimate_memory(model, config, devices=8)
    assert of_8.kept == 4 * total // 8 + 4 * trained // 8 + 8 * trained // 8
    in_layers = 24 * (4 * 2048**2 + 3 * 2048 * 5632)
    assert of_8.copies == 2 * (matrices - in_layers + in_layers // 12)
    assert of_8.activations == memory.activations


def test_stages_keep_what_they_train() -> None:
    first = estimate_memory(frozen("janus-pro-1b", 1), recipe("janus-pro-1b/stage1"))
    trained = 6_295_552 + 4_214_784 + 37_767_168
    assert (first.gradients, first.optimizer) == (4 * trained, 8 * trained)
    assert first.activations == 4096 * (24 * 67_656 + 26 * 2048)
    second = estimate_memory(frozen("janus-pro-1b", 2), recipe("janus-pro-1b/stage2"))
    third = estimate_memory(frozen("janus-pro-1b", 3), recipe("janus-pro-1b/stage3"))
    # Seven pictures fit a pack; the encoder keeps 24 blocks of each patch.
    assert third.activations - second.activations == 7 * 576 * 24 * 36_944


def test_pictures_are_tokenized_before_the_forward_not_beside_it() -> None:
    parts = {"rows": 1, "weights": 5, "gradients": 3, "optimizer": 6, "copies": 1, "logits": 4}
    assert Memory(**parts, activations=2, encoding=100).peak == 5 + 3 + 6 + 100
    assert Memory(**parts, activations=2, encoding=6).peak == 5 + 3 + 6 + 7


def test_muon_has_one_state_a_matrix() -> None:
    model = frozen("tiny", 2)
    adamw = optimizer_bytes(model, "adamw")
    assert adamw == 8 * sum(size.trained for size in part_sizes(model).values())
    # Two layers: q, o 64 x 64, k, v 64 x 32, three of 64 x 128.
    assert adamw - optimizer_bytes(model, "muon") == 4 * 2 * (2 * 4096 + 2 * 2048 + 3 * 8192)


def test_tokens_and_steps() -> None:
    work = work_of(recipe("janus-pro-1b/stage2"))
    assert (work.steps, work.tokens_per_step) == (270_000, 512 * 4096)
    assert work.tokens == 566_231_040_000
    assert work.shares == {"und": 0.2, "text": 0.3, "gen": 0.5}
    samples = work_of(recipe("tiny/stage2", "--pack_length=384"))
    assert (samples.row_length, samples.tokens_per_step) == (384, 20 * 192)


def tiny_run(make_config: Callable[..., JanusTrainConfig], **changes: Any) -> JanusTrainConfig:
    return make_config(
        **{"batch_size": 3, "pack_length": 64, "max_length": 64, "batch_unit": "packs"} | changes
    )


def test_arithmetic_by_hand(make_config: Callable[..., JanusTrainConfig]) -> None:
    flops = estimate_flops(frozen("tiny", 2), tiny_run(make_config, ratio=(2, 3, 5)))
    positions = 3 * 64
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    assert flops["decoder layers"] == 6 * positions * 2 * layer
    assert flops["attention"] == 3 * 4 * positions * 32 * 64 * 2
    assert flops["lm_head"] == pytest.approx(6 * positions * 0.5 * 64 * 384)
    assert flops["gen_head"] == pytest.approx(6 * positions * 0.5 * (64 * 65 + 65 * 64))
    assert flops["vq encoder"] == pytest.approx(
        positions * 0.5 / 16 * encode_flops(frozen("tiny", 2), "gen")
    )
    first = estimate_flops(frozen("tiny", 1), tiny_run(make_config, ratio=(2, 3, 5)))
    assert first["decoder layers"] == 4 * positions * 2 * layer  # no gradient of its weights
    third = estimate_flops(frozen("tiny", 3), tiny_run(make_config, ratio=(2, 3, 5)))
    assert third["und_encoder"] == 3 * flops["und_encoder"] > 0
    words = estimate_flops(frozen("tiny", 0), tiny_run(make_config, ratio=(0, 1, 0), stage=0))
    assert words["vq encoder"] == words["und_encoder"] == words["gen_head"] == 0


def test_arithmetic_is_what_torch_counts(
    tiny_config: JanusConfig, make_config: Callable[..., JanusTrainConfig]
) -> None:
    """The forward of one row, in which torch counts attention as if it were not causal."""
    model = frozen("tiny", 2)
    flops = estimate_flops(model, tiny_run(make_config, batch_size=1, ratio=(0, 1, 0)))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.language_model.model(torch.empty(1, 64, 64, device="meta"))
    assert counter.get_total_flops() == (flops["decoder layers"] + 2 * flops["attention"]) / 3


def test_the_encoders_arithmetic_by_hand() -> None:
    model = frozen("janus-pro-1b", 2)
    block = 2 * 576 * (4 * 1024**2 + 2 * 1024 * 4096) + 4 * 576 * 576 * 1024
    assert encode_flops(model, "und") == 24 * block + 2 * 576 * 768 * 1024


def test_time_is_work_over_speed() -> None:
    assert seconds(8 * 312e12 * 0.4 * 60, devices=8, peak_tflops=312, mfu=0.4) == pytest.approx(60)


def test_advice_names_the_first_thing_that_helps() -> None:
    config, model = recipe("janus-pro-1b/stage2"), frozen("janus-pro-1b", 2)
    plain = estimate_memory(model, config).peak
    least = estimate_memory(model, config, checkpointing=True).peak
    assert advise(model, config, devices=1, capacity=plain).startswith("yes, 48.3 GB")
    assert advise(model, config, devices=1, capacity=least).startswith("with activation check")
    two = estimate_memory(model, config, devices=2, checkpointing=True).peak
    told = advise(model, config, devices=1, capacity=two)
    assert told.startswith("no, 38.2 GB") and "2 of them do (FSDP)" in told
    assert "shorter packs" in advise(model, config, devices=1, capacity=1e9)
    whole = replace(config, micro_batch=None)
    assert advise(model, whole, devices=1, capacity=least).startswith(
        "with activation checkpointing and micro_batch 1, 38.2 GB (8"
    )
    assert advise(model, whole, devices=1, capacity=two).startswith(
        "no, 38.2 GB with activation checkpointing and micro_batch 1 (8"
    )


def test_a_batch_that_devices_cannot_share_is_told() -> None:
    config, model = recipe("janus-pro-1b/stage2"), frozen("janus-pro-1b", 2)
    odd = replace(config, batch_size=12, micro_batch=1)
    told = advise(model, odd, devices=8, capacity=1e12)
    assert told.startswith("no: batch_size (12) must be a multiple of") and told.endswith("give 8")
    assert advise(model, odd, devices=4, capacity=1e12).startswith("yes")
    assert "do (FSDP)" not in advise(model, replace(odd, batch_size=1), devices=1, capacity=1e10)


def test_rows_that_a_device_takes_at_a_time(make_config: Callable[..., JanusTrainConfig]) -> None:
    config, model = recipe("janus-pro-1b/stage2"), frozen("janus-pro-1b", 2)
    for devices in (1, 8, 128):
        assert rows_at_a_time(config, devices=devices) == 1
    whole = replace(config, micro_batch=None)
    assert [rows_at_a_time(whole, devices=devices) for devices in (1, 8, 128)] == [512, 64, 4]
    assert rows_at_a_time(replace(whole, accumulate=16), devices=8) == 4
    assert rows_at_a_time(replace(whole, micro_batch=6), devices=128) == 4
    one, four = (estimate_memory(model, it, devices=128) for it in (config, whole))
    assert (four.rows, four.activations, four.logits) == (4, 4 * one.activations, 4 * one.logits)
    assert four.kept == one.kept
    # Ten samples of at most 64 tokens, five a row.
    samples = make_config(batch_size=10, max_length=64, pack_length=320)
    assert [rows_at_a_time(samples, devices=devices) for devices in (1, 2)] == [2, 1]


def test_the_optimizer_of_the_run_is_counted(
    make_config: Callable[..., JanusTrainConfig],
) -> None:
    config = tiny_run(make_config)
    muon = replace(config, optim=OptimConfig(name="muon"))
    model = frozen("tiny", 2)
    assert estimate_memory(model, muon).optimizer == optimizer_bytes(model, "muon")
    assert estimate_memory(model, config).optimizer == optimizer_bytes(model, "adamw")
