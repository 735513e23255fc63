"""Two faces, one mind: the table of contents of the paper (Janus, section 3.1 and Figure 2).

Understanding:  pixels -> und_encoder -> und_aligner -> decoder -> lm_head  -> words
Generation:     words  -> decoder     -> gen_head    -> ids     -> vq       -> pixels,
                each id coming back in through gen_embed -> gen_aligner.

A semantic tokenizer (appendix A) reads ids itself and takes gen_embed's place.

Nothing but the decoder is shared. (The papers call the aligners "adaptors" and gen_head the
"image head".) Here is no loss, no sampling and no text tokenizer.

``OneVocabularyModel`` is what Janus is measured against, behind the same methods: Chameleon, where
words and codes are ids of one table and one head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openjanus.config import JanusConfig
from openjanus.model.attention import KVCache, Run
from openjanus.model.decoder import LanguageModel
from openjanus.model.doors import (
    ImageTokenizer,
    TokenizerEntrance,
    build_door,
    build_gen_embed,
    build_und_encoder,
)
from openjanus.model.packable import Packable
from openjanus.model.packed import pack_layers
from openjanus.model.quantized import QuantizedLinear, quantize_layers
from openjanus.quantization import QuantizationConfig
from openjanus.rules import require

INIT_STD = 0.02

Face = Literal["text", "image"]
"""What is predicted: words, or codebook ids."""


class Aligner(nn.Module):
    """Two layers from an encoder's width to the decoder's (the papers' adaptor)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_size) -> (..., D)."""
        return self.layers(x)


class GenHead(nn.Module):
    """Hidden states to logits over the codebook (the papers' image head)."""

    def __init__(self, hidden_size: int, codebook_size: int) -> None:
        super().__init__()
        self.output_mlp_projector = nn.Linear(hidden_size, hidden_size)
        self.vision_head = nn.Linear(hidden_size, codebook_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., C)."""
        return self.vision_head(F.gelu(self.output_mlp_projector(hidden_states)))


class JanusModel(Packable):
    """A bare Janus: embeddings in by any door, logits out by one of two heads."""

    def __init__(self, config: JanusConfig) -> None:
        super().__init__()
        self.config = config
        hidden_size = config.language.hidden_size
        self.language_model = LanguageModel(config.language)
        if config.quantization is not None:
            quantize_layers(self.language_model, config.quantization)
        self.vq = build_door(config.gen_tokenizer)
        self._build_faces()
        self.extra_encoders = nn.ModuleDict(
            {name: build_door(door) for name, door in config.extra_doors.items()}
        )
        self.extra_aligners = nn.ModuleDict(
            {
                name: Aligner(_output_size(encoder), hidden_size)
                for name, encoder in self.extra_encoders.items()
            }
        )

    def _build_faces(self) -> None:
        """What stands between the decoder and either door."""
        config, hidden_size = self.config, self.config.language.hidden_size
        self.und_encoder = build_und_encoder(config.und_encoder, self.vq, config.codebook_dim)
        self.und_aligner = Aligner(_output_size(self.und_encoder), hidden_size)
        self.gen_embed = build_gen_embed(self.vq, config.codebook_size, config.codebook_dim)
        self.gen_aligner = Aligner(self.gen_embed.embedding_dim, hidden_size)
        self.gen_head = GenHead(hidden_size, config.codebook_size)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """(B, T) text ids -> (B, T, D)."""
        return self.language_model.model.embed_tokens(input_ids)

    def embed_und(self, pixel_values: Tensor) -> Tensor:
        """Encode images for understanding (Janus, section 3.1).

        Args:
            pixel_values: (B, 3, S, S), normalised by the processor.

        Returns:
            (B, N, D) embeddings, in raster order, for the image slots.
        """
        return self.align_und(self.und_encoder(pixel_values))

    def align_und(self, features: Tensor) -> Tensor:
        """What ``und_encoder`` gave -> (B, N, D)."""
        return self.und_aligner(features)

    def embed_gen(
        self,
        image_ids: Tensor,
        *,
        cache: KVCache | None = None,
        runs: Sequence[Run] | None = None,
    ) -> Tensor:
        """Bring codebook ids back in (Janus, section 3.1).

        Args:
            image_ids: (B, N) in [0, C). Where the tokenizer reads ids itself, a picture's from its
                first; with a cache the next of each row.
            cache: From ``allocate_gen_cache``, where that gives one.
            runs: Where in the cache each row stands and how many ids it holds.

        Returns:
            (B, N, D).
        """
        if cache is None:
            return self.gen_aligner(self.gen_embed(image_ids))
        return self.gen_aligner(self.gen_embed(image_ids, cache=cache, runs=runs))

    def allocate_gen_cache(self, num_rows: int) -> KVCache | None:
        """Memory of the entrance for drawings in the making, a row each.

        None where an id is embedded without regard to those before it.
        """
        if isinstance(self.gen_embed, TokenizerEntrance):
            return self.gen_embed.allocate_cache(num_rows)
        return None

    def embed_extra(self, door: str, values: Tensor) -> Tensor:
        """Encode the input of a further door.

        Args:
            door: Its name in ``config.extra_doors``.
            values: Whatever its encoder takes, batch first.

        Returns:
            (B, N, D).

        Raises:
            KeyError: No such door.
        """
        if door not in self.extra_encoders:
            raise KeyError(f"no door {door!r}: config.extra_doors has {list(self.extra_encoders)}")
        return self.extra_aligners[door](self.extra_encoders[door](values))

    def embed_sequence(
        self, input_ids: Tensor, slots: Mapping[str, tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Embed text and put other embeddings into its slots.

        Args:
            input_ids: (B, T) text ids; ids at slots are looked up and replaced.
            slots: By any name: a bool mask (B, T), and the embeddings (..., D) that fill its True
                places in row-major order.

        Returns:
            (B, T, D); the inputs are left as they were.

        Raises:
            ValueError: A mask has another number of places than there are embeddings.
        """
        embeds = self.embed_text(input_ids)
        for name, (mask, values) in slots.items():
            rows = values.reshape(-1, values.shape[-1]).to(embeds.dtype)
            places = int(mask.sum())
            if places != len(rows):
                raise ValueError(
                    f"{name}: {places} slots for {len(rows)} embeddings: "
                    "each image needs exactly its own number of slots"
                )
            embeds = embeds.masked_scatter(mask[..., None], rows)
        return embeds

    def text_logits(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.language_model.lm_head(hidden_states)

    def image_logits(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., C); the state at ``<begin_of_image>`` predicts the first id."""
        return self.gen_head(hidden_states)

    def logits_for_loss(
        self, hidden_states: Tensor, targets: Tensor, face: Face
    ) -> tuple[Tensor, Tensor]:
        """What a place is trained to predict: each face by its own head, over its own ids.

        Args:
            hidden_states: (P, D).
            targets: (P,) text ids or codebook ids.
            face: Which.

        Returns:
            Logits (P, ids) and the targets as their indices.
        """
        head = self.text_logits if face == "text" else self.image_logits
        return head(hidden_states), targets

    def head_layers(self) -> list[nn.Linear | QuantizedLinear]:
        """The matrices that make logits of hidden states."""
        head = self.gen_head
        return [head.output_mlp_projector, head.vision_head, self.language_model.lm_head]

    @torch.no_grad()
    def init_weights(
        self,
        generator: torch.Generator,
        *,
        put: Callable[[str, Tensor], None] | None = None,
    ) -> None:
        """Fill every parameter with fresh random values, the same for the same generator state.

        Linear and embedding weights are normal with std 0.02; convolutions keep PyTorch's scale;
        the outputs of attention and feed-forward are smaller by the depth, as in GPT-2. A door
        with an ``init_weights(generator)`` of its own fills itself.

        Args:
            generator: What is drawn depends on it alone.
            put: Gets each parameter's name and values, one after another, in place of this model,
                which may then be on the meta device; no door may fill itself.

        Raises:
            ValueError: A door holds a parameter that none of these rules knows, or the model is
                quantized.
        """
        require(
            self.config.quantization is None,
            "a quantized model has no fresh weights: make a plain one and quantize it",
        )
        depth = 2 * self.config.language.num_hidden_layers
        filled: set[int] = set()
        for path, module in self.named_modules():
            fill_itself = getattr(module, "init_weights", None)
            if module is not self and callable(fill_itself):
                assert put is None, f"{path} fills itself"
                fill_itself(generator)
                filled.update(id(parameter) for parameter in module.parameters())
                continue
            std = INIT_STD
            if path.endswith(("o_proj", "down_proj")):
                std /= depth**0.5
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in filled:
                    continue
                values = parameter if put is None else torch.empty(parameter.shape)
                if not _fill(module, name, values, std, generator):
                    raise ValueError(
                        f"no rule fills {path}.{name}: give {type(module).__name__} a method "
                        "init_weights(generator)"
                    )
                if put is not None:
                    put(f"{path}.{name}", values)


class ImageIdsEncoder(nn.Module):
    """Pictures to understand as codebook ids: the generation tokenizer, registered as ``vq``."""

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self._tokenizer = (tokenizer,)  # in a tuple, so that its weights are not listed twice

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, N) ids."""
        return self._tokenizer[0].encode_to_ids(pixel_values)


class OneVocabularyModel(JanusModel):
    """Chameleon: codebook id i is id ``text_vocab_size`` + i of the one table and the one head.

    To write, only words are looked at; within a picture, a block of N ids, only codes: what
    ``text_logits`` and ``image_logits`` give. A loss looks at all.
    """

    def _build_faces(self) -> None:
        if not isinstance(self.vq, ImageTokenizer):
            raise ValueError(
                f"{type(self.vq).__name__} cannot serve both faces: a tokenizer of one vocabulary "
                "needs encode_to_ids, decode_ids and quantize"
            )
        self.und_encoder = ImageIdsEncoder(self.vq)

    def allocate_gen_cache(self, num_rows: int) -> KVCache | None:
        """None: an id is a word like any other."""
        return None

    def align_und(self, features: Tensor) -> Tensor:
        """(B, N) ids -> (B, N, D): a picture that is understood enters as one that is drawn."""
        return self.embed_gen(features)

    def embed_gen(
        self,
        image_ids: Tensor,
        *,
        cache: KVCache | None = None,
        runs: Sequence[Run] | None = None,
    ) -> Tensor:
        """(B, N) in [0, C) -> (B, N, D); there is nothing to remember."""
        assert cache is None and runs is None
        return self.embed_text(image_ids + self.config.text_vocab_size)

    def text_logits(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., V), of words alone."""
        return self.language_model.lm_head(hidden_states)[..., : self.config.text_vocab_size]

    def image_logits(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., C), of codes alone."""
        return self.language_model.lm_head(hidden_states)[..., self.config.text_vocab_size :]

    def logits_for_loss(
        self, hidden_states: Tensor, targets: Tensor, face: Face
    ) -> tuple[Tensor, Tensor]:
        """One softmax over words and codes at every place; as ``JanusModel``'s otherwise."""
        first = 0 if face == "text" else self.config.text_vocab_size
        return self.language_model.lm_head(hidden_states), targets + first

    def head_layers(self) -> list[nn.Linear | QuantizedLinear]:
        """The one head's matrix."""
        return [self.language_model.lm_head]


def _fill(
    module: nn.Module, name: str, parameter: Tensor, std: float, generator: torch.Generator
) -> bool:
    """Fill one parameter by its module's kind; False if no rule knows it."""
    if name == "bias":
        parameter.zero_()
    elif isinstance(module, nn.Linear | nn.Embedding) or name == "pos_embed":
        parameter.normal_(0.0, std, generator=generator)
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        bound = parameter[0].numel() ** -0.5
        parameter.uniform_(-bound, bound, generator=generator)
    elif name == "weight" and parameter.ndim == 1:
        parameter.fill_(1.0)  # norms
    else:
        return False
    return True


def _output_size(encoder: nn.Module) -> int:
    size = getattr(encoder, "output_size", None)
    if not isinstance(size, int):
        raise ValueError(
            f"{type(encoder).__name__} needs output_size, the width of its features, to be a door"
        )
    return size


def build_model(
    config: JanusConfig,
    *,
    device: torch.device | str = "meta",
    dtype: torch.dtype | None = None,
) -> JanusModel:
    """Build a bare model.

    Args:
        config: What to build.
        device: ``meta`` builds shapes alone; elsewhere weights are PyTorch's random ones, to be
            replaced by loading or by ``init_weights``.
        dtype: Of the parameters; None is fp32.
    """
    device = torch.device(device)
    with device, _NoInit() if device.type == "meta" else nullcontext():
        model = OneVocabularyModel(config) if config.one_vocabulary else JanusModel(config)
    return model if dtype is None else model.to(dtype)


def pack_model(model: JanusModel) -> int:
    """Lay out what a decode step multiplies by as this CPU reads it fastest; how many layers.

    The model is for inference then: it is saved and exported as before, and takes no other weights,
    device or dtype. Nothing happens but on a CPU, in bfloat16, where no bit has changed wherever it
    was tried, and in fp32, where the last ones do; quantized layers of one input become one in any
    dtype.
    """
    parts: list[nn.Module] = [model.language_model]
    if not model.config.one_vocabulary:
        parts += [model.gen_head, model.gen_aligner]
    return sum(pack_layers(part) for part in parts)


def quantize_model(model: JanusModel, quantization: QuantizationConfig) -> None:
    """Quantize the decoder's linear layers in place.

    Args:
        model: Plain; on the meta device shapes alone change.
        quantization: How.

    Raises:
        ValueError: It cannot be quantized so, or is quantized or packed already.
    """
    require(
        model.config.quantization is None,
        f"the model is quantized already, in {model.config.quantization}: load it again",
    )
    require(
        not model.is_packed,
        "packed weights cannot be quantized: load the model again, quantize it, and pack it then",
    )
    config = replace(model.config, quantization=quantization)
    quantize_layers(model.language_model, quantization)
    model.config = config


class _NoInit(TorchFunctionMode):
    """Leaves new parameters unfilled: on meta there is nothing to fill.

    PyTorch would do so at the price of importing its compiler, which takes longer than all else.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
