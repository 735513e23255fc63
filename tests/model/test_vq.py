"""The generation tokenizer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openjanus.config import JanusConfig, VQConfig
from openjanus.model.janus import JanusModel
from openjanus.model.vq import Downsample, ResBlock, Upsample, VectorQuantizer, VQTokenizer


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def vq(tiny_model: JanusModel) -> VQTokenizer:
    assert isinstance(tiny_model.vq, VQTokenizer)
    return tiny_model.vq


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_ids(config: JanusConfig, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, config.num_gen_image_tokens)
    return torch.randint(config.codebook_size, shape, generator=generator)


def quantizer(rows: Tensor) -> VectorQuantizer:
    result = VectorQuantizer(*rows.shape)
    result.embedding.weight.copy_(rows)
    return result


def test_nearest_normalises_both_sides() -> None:
    """By length the second row would win; by angle it is the first."""
    book = quantizer(torch.tensor([[0.1, 0.0], [4.0, 4.0]]))
    z = torch.tensor([[5.0, 0.5]])
    assert torch.cdist(z, book.embedding.weight).argmin().item() == 1
    assert book.nearest(z).tolist() == [0]


def test_lookup_gives_unit_vectors_whatever_the_rows_are() -> None:
    book = quantizer(random(20, 8) * torch.linspace(0.1, 5, 20)[:, None])
    vectors = book.lookup(torch.arange(20))
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(20))
    assert torch.equal(book.nearest(vectors), torch.arange(20))


def test_nearest_is_fp32_also_under_autocast_and_in_bf16() -> None:
    """Rows that bf16 cannot tell apart."""
    angles = torch.linspace(0, 0.05, 64)
    book = quantizer(torch.stack([angles.cos(), angles.sin()], dim=-1))
    z = book.embedding.weight.clone()
    assert torch.equal(book.nearest(z), torch.arange(64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(book.nearest(z), torch.arange(64))
    assert torch.equal(book.nearest(z.bfloat16()), book.nearest(z.bfloat16().float()))


def test_ids_are_in_raster_order(vq: VQTokenizer, tiny_config: JanusConfig) -> None:
    """A change in the upper right corner of the vectors is a change of the row's last id."""
    side = int(tiny_config.num_gen_image_tokens**0.5)
    z = random(1, tiny_config.codebook_dim, side, side)
    ids = vq.quantize.nearest(z.flatten(2).transpose(1, 2)).view(side, side)
    for row, column in ((0, side - 1), (side - 1, 0)):
        assert ids[row, column] == vq.quantize.nearest(z[0, :, row, column])


def test_encoding_follows_the_vectors(vq: VQTokenizer, tiny_config: JanusConfig) -> None:
    size = tiny_config.gen_image_size
    pixels = random(2, 3, size, size)
    vectors = vq.encode_to_vectors(pixels)
    expected = torch.stack([vq.quantize.nearest(v.permute(1, 2, 0)).flatten() for v in vectors])
    ids = vq.encode_to_ids(pixels)
    assert torch.equal(ids, expected) and ids.shape == (2, tiny_config.num_gen_image_tokens)


def test_encoding_a_batch_equals_encoding_each(vq: VQTokenizer, tiny_config: JanusConfig) -> None:
    size = tiny_config.gen_image_size
    pixels = random(3, 3, size, size)
    assert torch.equal(
        vq.encode_to_ids(pixels), torch.cat([vq.encode_to_ids(p[None]) for p in pixels])
    )


@pytest.mark.parametrize("chunk_size", [1, 2, 8])
def test_decoding_in_chunks_equals_decoding_at_once(
    vq: VQTokenizer, tiny_config: JanusConfig, chunk_size: int
) -> None:
    ids = random_ids(tiny_config, 5)
    whole = vq.decode_ids(ids, chunk_size=5)
    torch.testing.assert_close(vq.decode_ids(ids, chunk_size=chunk_size), whole, atol=5e-5, rtol=0)
    assert whole.shape == (5, 3, tiny_config.gen_image_size, tiny_config.gen_image_size)


def test_decoding_puts_the_first_row_of_ids_at_the_top(
    vq: VQTokenizer, tiny_config: JanusConfig
) -> None:
    side = int(tiny_config.num_gen_image_tokens**0.5)
    ids = random_ids(tiny_config, 1)
    seen: list[Tensor] = []
    hook = vq.post_quant_conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vq.decode_ids(ids)
    hook.remove()
    assert torch.equal(seen[0][0, :, 0, side - 1], vq.quantize.lookup(ids[0, side - 1]))
    assert torch.equal(seen[0][0, :, side - 1, 0], vq.quantize.lookup(ids[0, -side]))


def test_decoded_pixels_are_clipped(vq: VQTokenizer, tiny_config: JanusConfig) -> None:
    ids = random_ids(tiny_config, 1)
    bias = vq.decoder.conv_out.bias
    assert bias is not None
    kept = bias.clone()
    try:
        bias.copy_(torch.tensor([9.0, -9.0, 0.0]))
        picture = vq.decode_ids(ids)[0]
    finally:
        bias.copy_(kept)
    assert picture[0].eq(1).all() and picture[1].eq(-1).all() and picture[2].abs().mean() < 1


def test_a_number_of_ids_that_is_no_square_is_refused(vq: VQTokenizer) -> None:
    with pytest.raises(ValueError, match="square number of ids an image, got 15"):
        vq.decode_ids(torch.zeros(1, 15, dtype=torch.long))


def test_ids_are_left_alone(vq: VQTokenizer, tiny_config: JanusConfig) -> None:
    ids = random_ids(tiny_config, 2)
    kept = ids.clone()
    vq.decode_ids(ids)
    assert torch.equal(ids, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_no_dtype_is_hard_coded(dtype: torch.dtype) -> None:
    config = VQConfig(
        image_size=8,
        base_channels=32,
        channel_multipliers=(1, 1),
        num_res_blocks=1,
        z_channels=8,
        codebook_size=16,
    )
    vq = VQTokenizer(config).to(dtype)
    ids = vq.encode_to_ids(torch.zeros(1, 3, 8, 8))
    assert vq.decode_ids(ids).dtype == dtype


def test_downsampling_pads_right_and_bottom() -> None:
    down = Downsample(1)
    assert down.conv.bias is not None
    down.conv.weight.fill_(1.0)
    down.conv.bias.zero_()
    x = torch.arange(16.0).view(1, 1, 4, 4)
    padded = torch.zeros(5, 5)
    padded[:4, :4] = x[0, 0]
    expected = torch.stack(
        [torch.stack([padded[r : r + 3, c : c + 3].sum() for c in (0, 2)]) for r in (0, 2)]
    )
    assert torch.equal(down(x)[0, 0], expected)


def test_upsampling_repeats_pixels() -> None:
    up = Upsample(1)
    assert up.conv.bias is not None
    up.conv.weight.zero_()
    up.conv.weight[0, 0, 1, 1] = 1.0
    up.conv.bias.zero_()
    x = torch.arange(4.0).view(1, 1, 2, 2)
    expected = x[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(up(x)[0, 0], expected)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float64, 1e-12)]
)
def test_upsampling_in_one_is_upsampling_and_a_convolution(dtype: torch.dtype, atol: float) -> None:
    upsample = Upsample(6)
    for name, value in upsample.named_parameters():
        value.copy_(random(*value.shape, seed=len(name)) / 6)
    upsample = upsample.to(dtype)
    x = random(2, 6, 5, 7).to(dtype)  # no square: rows and columns are not to be confused
    with torch.enable_grad():
        expected = upsample(x)
    found = upsample.in_one(x)
    assert expected.requires_grad
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.detach(), atol=atol, rtol=atol)
    # Taken in bf16 alone: elsewhere the bits stay what they were.
    assert torch.equal(upsample(x), found if dtype == torch.bfloat16 else expected)
    assert upsample.to("meta")(x.to("meta")).shape == found.shape  # as on an accelerator


def test_a_shortcut_only_where_widths_change() -> None:
    assert "nin_shortcut.weight" in ResBlock(32, 64, 32).state_dict()
    assert "nin_shortcut.weight" not in ResBlock(32, 32, 32).state_dict()


def test_parameter_names_are_the_released_ones() -> None:
    """Where attention and shortcuts lie in the released architecture, at a tenth of its width."""
    config = VQConfig(image_size=32, base_channels=32, z_channels=8, codebook_size=4)
    names = set(VQTokenizer(config).state_dict())

    def levels(part: str) -> set[str]:
        return {n.removesuffix(".weight") for n in names if part in n and n.endswith("weight")}

    assert levels("nin_shortcut") == {
        "encoder.conv_blocks.2.res.0.nin_shortcut",
        "encoder.conv_blocks.4.res.0.nin_shortcut",
        "decoder.conv_blocks.1.res.0.nin_shortcut",
        "decoder.conv_blocks.3.res.0.nin_shortcut",
    }
    assert levels("attn") == {
        f"{face}.attn.{i}.{part}"
        for face, count in (("encoder.conv_blocks.4", 2), ("decoder.conv_blocks.0", 3))
        for i in range(count)
        for part in ("norm", "q", "k", "v", "proj_out")
    }
    assert levels("upsample") == {f"decoder.conv_blocks.{i}.upsample.conv" for i in range(4)}
    assert levels("downsample") == {f"encoder.conv_blocks.{i}.downsample.conv" for i in range(4)}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_channels_come_last_on_a_cpu_alone(vq: VQTokenizer, device: str) -> None:
    seen: list[Tensor] = []
    decoder = VQTokenizer(vq.config).decoder.to(device)
    decoder.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decoder(torch.zeros(2, vq.config.z_channels, 4, 4, device=device))
    last = seen[0].is_contiguous(memory_format=torch.channels_last)
    assert last == (device == "cpu")
