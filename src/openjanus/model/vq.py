"""The generation tokenizer: a convolutional VQ auto-encoder (LlamaGen's VQ-16 and relatives).

Pixels in [-1, 1] go through the encoder to a grid of vectors, each snapped to the nearest row of
a codebook; the language model predicts the ids, and the pixel decoder turns them back into a
picture. Module names are the released checkpoint's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import VQConfig

NORM_EPS = 1e-6


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(norm_groups, out_channels, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        h += self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return h


class AttnBlock(nn.Module):
    """Single-head attention over all positions of a feature map."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=NORM_EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, c, h, w)."""
        height, width = x.shape[-2:]
        normed = self.norm(x)
        q, k, v = (
            conv(normed).flatten(2).transpose(1, 2)  # (B, h*w, c)
            for conv in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        h = h.transpose(1, 2).unflatten(2, (height, width))  # (B, c, h, w)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Halve the sides: pad right and bottom, then a strided 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, c, h/2, w/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # asymmetric, as in the released weights


class Upsample(nn.Module):
    """Double the sides by nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, c, 2h, 2w), in the dtype of ``x``."""
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.is_grad_enabled():
            # In fp32 other sums would be other bits, and narrow models are no sooner drawn.
            return self.in_one(x)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def in_one(self, x: Tensor) -> Tensor:
        """``forward`` in 4 products for each weight's 9: a CPU's time is that of its products.

        Of the 3x3 pixels that a pixel of the large picture is made of, most are the same of the
        small one. Weights of the same are added first, so that each small pixel is spread over
        4x4 large ones.
        """
        weight = self.conv.weight  # (out, in, 3, 3)
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))  # rounded once
        for dim in (2, 3):
            first, middle, last = weight.unbind(dim)
            weight = torch.stack([last, middle + last, first + middle, first], dim)
        weight = weight.transpose(0, 1).to(x.dtype)  # (in, out, 4, 4)
        return F.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)


class Level(nn.Module):
    """One resolution: residual blocks, attention at the lowest one, then a change of size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        norm_groups: int,
        *,
        attention: bool,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (num_blocks - 1)
        self.res = nn.ModuleList(ResBlock(width, out_channels, norm_groups) for width in widths)
        self.attn = nn.ModuleList(
            AttnBlock(out_channels, norm_groups) for _ in range(num_blocks if attention else 0)
        )
        self.downsample = Downsample(out_channels) if downsample else None
        self.upsample = Upsample(out_channels) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h', w')."""
        for index, block in enumerate(self.res):
            x = block(x)
            if len(self.attn) > 0:
                x = self.attn[index](x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


def _middle(channels: int, norm_groups: int) -> nn.ModuleList:
    return nn.ModuleList(
        [
            ResBlock(channels, channels, norm_groups),
            AttnBlock(channels, norm_groups),
            ResBlock(channels, channels, norm_groups),
        ]
    )


class VQEncoder(nn.Module):
    """Pixels to a grid of vectors, from the highest resolution to the lowest."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.channel_multipliers]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, config.base_channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        for index, (width_in, width) in enumerate(
            zip([config.base_channels, *widths[:-1]], widths, strict=True)
        ):
            level = Level(
                width_in,
                width,
                config.num_res_blocks,
                config.norm_groups,
                attention=index == last,
                downsample=index != last,
            )
            self.conv_blocks.append(level)
        self.mid = _middle(widths[-1], config.norm_groups)
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, z, g, g)."""
        h = self.conv_in(pixel_values)
        for block in (*self.conv_blocks, *self.mid):
            h = block(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class VQDecoder(nn.Module):
    """A grid of vectors to pixels; ``conv_blocks.0`` is the lowest resolution."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in reversed(config.channel_multipliers)]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.z_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0], config.norm_groups)
        self.conv_blocks = nn.ModuleList()
        for index, (width_in, width) in enumerate(
            zip([widths[0], *widths[:-1]], widths, strict=True)
        ):
            level = Level(
                width_in,
                width,
                config.num_res_blocks + 1,
                config.norm_groups,
                attention=index == 0,
                upsample=index != last,
            )
            self.conv_blocks.append(level)
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z, g, g) -> (B, 3, S, S), unclipped."""
        if z.device.type == "cpu":
            # With the channels last in memory, convolutions in bf16 need no copies there.
            z = z.contiguous(memory_format=torch.channels_last)
        h = self.conv_in(z)
        for block in (*self.mid, *self.conv_blocks):
            h = block(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class VectorQuantizer(nn.Module):
    """The codebook: L2-normalised rows, nearest by squared distance, in fp32."""

    def __init__(self, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, codebook_dim)

    def normalised_codebook(self) -> Tensor:
        """(C, d) unit rows in fp32."""
        return F.normalize(self.embedding.weight.float(), dim=-1)

    def nearest(self, z: Tensor) -> Tensor:
        """(..., d) vectors -> (...) ids of their nearest rows.

        Always in fp32, also under autocast: in bf16 near neighbours swap, and what was trained on
        is not what is decoded.
        """
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.float(), dim=-1)
            codebook = self.normalised_codebook()
            distance = (
                z.square().sum(-1, keepdim=True) + codebook.square().sum(-1) - 2 * (z @ codebook.T)
            )
        return distance.argmin(-1)

    def lookup(self, ids: Tensor) -> Tensor:
        """(...) ids -> (..., d) unit vectors in fp32."""
        return F.normalize(self.embedding(ids).float(), dim=-1)


class VQTokenizer(nn.Module):
    """Pictures to codebook ids and back: the ``ImageTokenizer`` of the generation face."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VQEncoder(config)
        self.quantize = VectorQuantizer(config.codebook_size, config.codebook_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.codebook_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_dim, config.z_channels, 1)
        self.decoder = VQDecoder(config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that pixels and vectors are computed in."""
        return self.quant_conv.weight.dtype

    def encode_to_vectors(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, d, g, g), before quantization."""
        return self.quant_conv(self.encoder(pixel_values.to(self.dtype)))

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """(B, d, g, g) unit vectors -> (B, 3, S, S), unclipped."""
        return self.decoder(self.post_quant_conv(vectors.to(self.dtype)))

    def encode_to_ids(self, pixel_values: Tensor) -> Tensor:
        """Tokenize pictures.

        Args:
            pixel_values: (B, 3, S, S) in [-1, 1]; S a multiple of the downsampling factor.

        Returns:
            (B, N) codebook ids in raster order.
        """
        vectors = self.encode_to_vectors(pixel_values)
        return self.quantize.nearest(vectors.flatten(2).transpose(1, 2))  # (B, g*g)

    def decode_ids(self, image_ids: Tensor, *, chunk_size: int = 8) -> Tensor:
        """Draw the pictures of codebook ids.

        Args:
            image_ids: (B, N) in [0, C), raster order, N a square number.
            chunk_size: Pictures decoded at once; many at once is what exhausts memory after a
                long generation.

        Returns:
            (B, 3, S, S), clipped to [-1, 1].

        Raises:
            ValueError: N is not a square number.
        """
        side = round(image_ids.shape[1] ** 0.5)
        if side * side != image_ids.shape[1]:
            raise ValueError(
                f"image_ids must hold a square number of ids an image, got {image_ids.shape[1]}"
            )
        rows = image_ids.unflatten(1, (side, side))  # (B, g, g)
        return torch.cat([self.decode_rows(some) for some in rows.split(chunk_size)])

    def decode_rows(self, image_ids: Tensor) -> Tensor:
        """Draw a rectangle of codebook ids as if it were a picture of its own.

        Args:
            image_ids: (B, h, w) in [0, C).

        Returns:
            (B, 3, h * S / g, w * S / g), clipped to [-1, 1]. Of some rows of a picture these are
            not that picture's pixels: norms and attention see the rows alone.
        """
        vectors = self.quantize.lookup(image_ids).permute(0, 3, 1, 2)  # (B, d, h, w)
        return self.decode_vectors(vectors).clamp(-1, 1)
