"""The vocabulary of DeepSeek-LLM, which every released Janus has, fetched for the long tests.

It lies in the source package of llama-cpp-python, beside texts and the ids that the authors'
tokenizer gives them. It is DeepSeek's, and no copy of it belongs into this repository.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

PACKAGE, VERSION = "llama-cpp-python", "0.3.16"
SHA256 = "34ed0f9bd9431af045bb63d9324ae620ad0536653740e9bb163a2e1fcb973be6"
LLAMA_CPP = f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
GGUF = f"{LLAMA_CPP}/models/ggml-vocab-deepseek-llm.gguf"
SPLITS = f"{LLAMA_CPP}/src/llama-vocab.cpp"
SPLITS_OF = "case LLAMA_VOCAB_PRE_TYPE_DEEPSEEK_LLM:"
BETWEEN_CASES = "\n__ggml_vocab_test__\n"

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
"""GGUF's types of tokens: words, what is no text, and text that is cut out first."""

NO_BUILD = """
from pathlib import Path


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = Path(metadata_directory) / "{stem}-{version}.dist-info"
    folder.mkdir()
    text = "Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n"
    (folder / "METADATA").write_text(text, encoding="utf-8")
    return folder.name
"""
"""Before pip hands a source package over, it asks the package's build backend for metadata. This
one stands in for it: it says what pip wants to hear and builds nothing."""


@dataclass(frozen=True, slots=True)
class RealVocabulary:
    """Words and merges, the letters that DeepSeek-LLM adds to them, and texts with their ids."""

    tokenizer: Tokenizer
    """Words alone, without any added token; do not change it."""
    sentence_tokens: tuple[str, ...]
    """Begin and end of sentence, the first ids after the words."""
    letters: tuple[str, ...]
    """What follows these in the base model's own tokenizer."""
    cases: tuple[tuple[str, tuple[int, ...]], ...]

    def with_added(self, added: Sequence[str], *, letters: bool = False) -> Tokenizer:
        """A tokenizer with special tokens, whose ids follow each other after the words'."""
        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.add_special_tokens(_special(self.sentence_tokens))
        if letters:
            tokenizer.add_tokens([AddedToken(letter) for letter in self.letters])
        tokenizer.add_special_tokens(_special(added))
        return tokenizer


def _special(tokens: Sequence[str]) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


@pytest.fixture(scope="session")
def real_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> RealVocabulary:
    """Of DeepSeek-LLM; fetches 50 MB."""
    folder = tmp_path_factory.mktemp("vocabulary")
    with tarfile.open(fetch_source(folder)) as archive:
        for name in (GGUF, f"{GGUF}.inp", f"{GGUF}.out", SPLITS):
            archive.extract(name, folder, filter="data")
    return read_vocabulary(folder)


def fetch_source(folder: Path) -> Path:
    """Download the source package with pip, which neither builds nor runs anything of it."""
    stem = PACKAGE.replace("-", "_")
    backend = folder / "backend" / "scikit_build_core" / "build.py"
    backend.parent.mkdir(parents=True)
    (backend.parent / "__init__.py").touch()
    backend.write_text(NO_BUILD.format(stem=stem, package=PACKAGE, version=VERSION))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    command += ["--no-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    environment = os.environ | {"PYTHONPATH": str(backend.parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = folder / f"{stem}-{VERSION}.tar.gz"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    return path


def read_vocabulary(folder: Path) -> RealVocabulary:
    """The vocabulary and its cases, out of the unpacked files."""
    from gguf import GGUFReader  # the quick tests of this folder do without it

    fields = GGUFReader(folder / GGUF).fields
    tokens, types, merges = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges")
    )
    words = {t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind == NORMAL}
    tokenizer = Tokenizer(
        models.BPE(vocab=words, merges=[tuple(merge.split(" ")) for merge in merges])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(split), "isolated") for split in read_splits(folder)),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = (folder / f"{GGUF}.inp").read_bytes().decode().split(BETWEEN_CASES)
    lines = (folder / f"{GGUF}.out").read_text(encoding="utf-8").splitlines()
    assert texts.pop() == "", "the last case ends with the mark as well"
    ids = [tuple(map(int, line.split())) for line in lines]
    added = [(t, kind) for t, kind in zip(tokens, types, strict=True) if kind != NORMAL]
    return RealVocabulary(
        tokenizer=tokenizer,
        sentence_tokens=tuple(t for t, kind in added if kind == CONTROL),
        # The file fills up with [PAD100015] and so on, which no tokenizer has.
        letters=tuple(t for t, kind in added if kind == USER_DEFINED and not t.startswith("[PAD")),
        cases=tuple(zip(texts, ids, strict=True)),
    )


def read_splits(folder: Path) -> list[str]:
    """The patterns at which a text is cut before merging: strings in llama.cpp's source."""
    source = (folder / SPLITS).read_text(encoding="utf-8")
    block = source.partition(SPLITS_OF)[2].partition("break;")[0]
    return [json.loads(literal) for literal in re.findall(r'"(?:[^"\\]|\\.)*"', block)]
