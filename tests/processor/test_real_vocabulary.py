"""Janus's tokens on top of the vocabulary that the released models really have."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import Tokenizer

import openjanus
from openjanus.config import UND_SYSTEM_PROMPT, JanusConfig, ProcessorConfig
from openjanus.processor.chat import Role, Turn, render
from openjanus.processor.text import TextTokenizer
from openjanus.weights.formats import detect_format, export_model
from openjanus.weights.published import NEW_ROLES, OLD_ROLES

pytestmark = pytest.mark.long

NAMES = ProcessorConfig()
PLACEHOLDERS = [f"<｜place▁holder▁no▁{number}｜>" for number in range(1000)]
PICTURE = Image.radial_gradient("L").resize((40, 30))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What one checkpoint adds to the vocabulary.

    The ids are those that users of the released models have printed; what else lies between them
    is filled with tokens of no meaning.
    """

    vectors: str
    """Its name in the reference prompts."""
    roles: tuple[str, str]
    letters: bool
    ids: dict[str, int]

    def tokens(self, first_id: int) -> list[str]:
        """Added tokens in the order of their ids, the first of which is given."""
        by_id = {number: token for token, number in self.ids.items()}
        last = max(by_id)
        filled = [by_id.get(i, PLACEHOLDERS[i - first_id]) for i in range(first_id, last + 1)]
        after = [NAMES.eoi_token, *(role for role in self.roles if role in NEW_ROLES)]
        return [*filled, *(token for token in after if token not in self.ids)]


VARIANTS = {
    "1.3B": Variant(
        vectors="janus-1.3b",
        roles=OLD_ROLES,
        letters=False,
        ids={NAMES.pad_token: 100002, NAMES.boi_token: 100003, NAMES.image_token: 100581},
    ),
    "Pro-1B": Variant(
        vectors="janus-pro",
        roles=NEW_ROLES,
        letters=False,
        ids={NAMES.pad_token: 100002, NAMES.boi_token: 100003, NAMES.image_token: 100581},
    ),
    "Pro-7B": Variant(
        vectors="janus-pro",
        roles=NEW_ROLES,
        letters=True,
        ids={NAMES.pad_token: 100015, NAMES.boi_token: 100016},
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A variant with its tokenizer."""

    variant: Variant
    raw: Tokenizer
    names: ProcessorConfig
    text: TextTokenizer


@pytest.fixture(scope="module")
def checkpoints(real_vocabulary: Any) -> dict[str, Checkpoint]:
    made = {}
    for name, variant in VARIANTS.items():
        first = 100002 + (len(real_vocabulary.letters) if variant.letters else 0)
        tokens = variant.tokens(first)
        if NAMES.image_token not in variant.ids:
            tokens.append(NAMES.image_token)
        raw = real_vocabulary.with_added(tokens, letters=variant.letters)
        user, assistant = variant.roles
        names = dataclasses.replace(NAMES, user_role=user, assistant_role=assistant)
        text = TextTokenizer(raw, names)
        made[name] = Checkpoint(variant=variant, raw=raw, names=names, text=text)
    return made


@pytest.fixture(params=list(VARIANTS))
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    return checkpoints[request.param]


def test_the_vocabulary_is_whole(real_vocabulary: Any) -> None:
    assert real_vocabulary.tokenizer.get_vocab_size() == 100_000
    assert real_vocabulary.sentence_tokens == (NAMES.bos_token, NAMES.eos_token)
    # The symbols of those bytes that no UTF-8 text has, so that no merge knows them.
    expected = {chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}
    assert set(real_vocabulary.letters) == expected and len(real_vocabulary.letters) == 13


def test_every_case_of_the_authors_tokenizer(real_vocabulary: Any, checkpoint: Checkpoint) -> None:
    assert len(real_vocabulary.cases) == 46
    for text, ids in real_vocabulary.cases:
        assert tuple(checkpoint.text.encode(text)) == ids, text
        assert checkpoint.text.decode(ids) == text


def test_a_sentence_encodes_as_the_released_model_encodes_it(checkpoint: Checkpoint) -> None:
    ids = [17464, 11, 946, 418, 340, 30]  # printed by a user of Janus-Pro-1B, after BOS 100000
    assert checkpoint.text.encode("Hello, how are you?") == ids
    assert checkpoint.text.bos_id == 100000


def test_ids_come_by_name_and_differ(checkpoints: dict[str, Checkpoint]) -> None:
    for checkpoint in checkpoints.values():
        text = checkpoint.text
        found = {NAMES.pad_token: text.pad_id, NAMES.boi_token: text.boi_id}
        found[NAMES.image_token] = text.image_pad_id
        assert found | checkpoint.variant.ids == found
        assert (text.bos_id, text.eos_id) == (100000, 100001)
        assert len({*found.values(), text.eoi_id}) == 4
        assert 100_000 < text.vocab_size <= 102_400
    small, large = checkpoints["Pro-1B"].text, checkpoints["Pro-7B"].text
    for name in ("pad_id", "boi_id", "eoi_id", "image_pad_id"):
        assert getattr(small, name) != getattr(large, name)


def test_reference_prompts_encode(
    checkpoint: Checkpoint, read_vector: Callable[[str], Any]
) -> None:
    text, names = checkpoint.text, checkpoint.names
    user, assistant = checkpoint.variant.roles
    roles: dict[str, Role] = {user: "user", assistant: "assistant"}
    cases = [c for c in read_vector("templates") if c["model"] == checkpoint.variant.vectors]
    assert len(cases) == 7
    for case in cases:
        turns = [Turn(role=roles[m["role"]], text=m["content"]) for m in case["messages"]]
        ids = text.encode(render(turns, config=names, system=case["system"]))
        assert text.decode(ids, skip_special=False) == case["prompt"]
        said = [m["role"] for m in case["messages"]]
        if checkpoint.variant.roles == NEW_ROLES:
            role_ids = {role: text.encode(role)[0] for role in NEW_ROLES}
            assert [i for i in ids if i in role_ids.values()] == [role_ids[role] for role in said]
            assert all(text.is_special(i) for i in role_ids.values())
        else:
            assert [i for i in ids if text.is_special(i)] == [
                i for i in ids if i in (text.image_pad_id, text.eos_id)
            ]
        assert ids.count(text.image_pad_id) == case["prompt"].count(names.image_token)
        assert ids.count(text.eos_id) == case["prompt"].count(names.eos_token)


def test_roles_are_one_token_in_pro_and_words_before_it(checkpoints: dict[str, Checkpoint]) -> None:
    for name, checkpoint in checkpoints.items():
        for role in NEW_ROLES:
            ids = checkpoint.text.encode(f"{role}: Hi")
            assert checkpoint.text.decode(ids, skip_special=False) == f"{role}: Hi"
            if name == "1.3B":
                assert len(ids) > 5 and not any(map(checkpoint.text.is_special, ids))
            else:
                assert ids[0] == checkpoint.raw.token_to_id(role)
                assert checkpoint.text.is_special(ids[0])
                assert ids[1:] == checkpoint.text.encode(": Hi")
    old = checkpoints["1.3B"].text
    assert old.encode("User: Hi") == [*old.encode("User"), *old.encode(": Hi")]
    assert max(old.encode("User: Assistant:")) < 100_000


@pytest.fixture(params=["deepseek", "transformers"])
def folder(
    request: pytest.FixtureRequest,
    checkpoint: Checkpoint,
    make_model: Any,
    tiny_config: JanusConfig,
    tmp_path: Path,
) -> Path:
    """A small random model with this tokenizer, whose files say nothing of roles."""
    language = dataclasses.replace(
        tiny_config.language, vocab_size=102_400, max_position_embeddings=512
    )
    config = dataclasses.replace(tiny_config, language=language, processor=checkpoint.names)
    path = tmp_path / "checkpoint"
    any_size = request.param == "deepseek"
    export_model(path, make_model(config), checkpoint.text, layout=request.param, any_size=any_size)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    checkpoint.raw.save(str(path / "tokenizer.json"))
    assert detect_format(path).name == request.param
    return path


def test_a_checkpoint_knows_its_generation(folder: Path, checkpoint: Checkpoint) -> None:
    janus = openjanus.load(folder, device="cpu")
    names, text = janus.config.processor, janus.processor.tokenizer
    assert (names.user_role, names.assistant_role) == checkpoint.variant.roles
    assert names.und_system_prompt == UND_SYSTEM_PROMPT
    for name in ("bos_id", "eos_id", "pad_id", "boi_id", "eoi_id", "image_pad_id"):
        assert getattr(text, name) == getattr(checkpoint.text, name)

    user, assistant = checkpoint.variant.roles
    drawing = janus.processor.gen_prompt("  a photo of a cat ")
    words = text.encode(f"{user}: a photo of a cat\n\n{assistant}:")
    assert drawing == (text.bos_id, *words, text.boi_id)
    question = janus.processor.und_prompt(
        [Turn(role="user", text="<image_placeholder>\nWhat is it?")], [PICTURE]
    )
    slots = [text.image_pad_id] * janus.config.num_und_image_tokens
    assert question.input_ids == (
        text.bos_id,
        *text.encode(f"{UND_SYSTEM_PROMPT}\n\n{user}: "),
        text.boi_id,
        *slots,
        text.eoi_id,
        *text.encode(f"\nWhat is it?\n\n{assistant}:"),
    )
    assert text.decode(question.input_ids[-2:], skip_special=False).endswith(":")

    assert len(janus.draw("a photo of a cat", seed=0).images) == 1
    reply = janus.chat("What is it?", images=[PICTURE], max_new_tokens=3)
    assert reply.usage.prompt_tokens == len(question.input_ids)


def test_a_chat_template_tells_the_generation_as_well(folder: Path, checkpoint: Checkpoint) -> None:
    """Even against the vocabulary, and without it."""
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = "{{ 'User: ' + messages[0]['content'] + '\\n\\nAssistant:' }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    names = openjanus.load(folder, device="cpu").config.processor
    assert (names.user_role, names.assistant_role) == OLD_ROLES
