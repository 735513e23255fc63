"""A Chameleon that has learnt documents composes: words, a picture, words, a picture, an end."""

from __future__ import annotations

import pytest

import openjanus
from openjanus.data.sources import build_source
from openjanus.pipeline import ComposedImage
from openjanus.train.recipes import run_recipe

SOURCE = "{type: toy-documents, options: {form: chat, length: 64}}"
SHORT = [
    *("--run.steps=60", "--run.save_every=60", "--batch_size=12", "--prefetch=false"),
    *("--ratio=[0, 0, 1]", f"--sources={{gen: [{SOURCE}]}}", "--mask_prompt=true"),
    *("--und_image_loss=false", "--image_start_loss=true"),
]


def test_what_was_learnt_from_documents_is_composed(tmp_path):
    run_recipe("tiny/chameleon", ["--run.dir", str(tmp_path / "run"), *SHORT])
    janus = openjanus.load(str(tmp_path / "run" / "final"))
    composition = janus.compose("a red circle, a blue square", seed=0, guidance_scale=1.0)
    kinds = ["image" if isinstance(p, ComposedImage) else "words" for p in composition.parts]
    assert kinds == ["words", "image", "words", "image", "words"]
    assert composition.parts[-1] == "done"
    assert composition.finish_reason == "stop"
    assert [image.size for image in composition.images] == [(32, 32)] * 2
    tokenizer = janus.processor.tokenizer
    ids = composition.token_ids
    starts = [at for at, token in enumerate(ids) if token == tokenizer.boi_id]
    assert len(starts) == 2
    for at in starts:
        assert all(384 <= code < 448 for code in ids[at + 1 : at + 17])
        assert ids[at + 17] == tokenizer.eoi_id
    assert ids[-1] == tokenizer.eos_id


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_the_toy_documents_are_functions_of_their_index(form):
    source = build_source("toy-documents", {"form": form, "length": 4})
    sample = source[3]
    assert (sample.form, sample.kind, len(sample.targets)) == (form, "gen", 2)
    assert (sample.targets[1] == source[0].targets[0]).all()  # the next one's first, around
    assert sample.turns == source[-1].turns
    with pytest.raises(ValueError, match="form must be chat or plain, got 'prose'"):
        build_source("toy-documents", {"form": "prose"})
