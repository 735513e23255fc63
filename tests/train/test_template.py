"""A run chooses a model's template once, and nothing changes it in passing."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing

import numpy as np
import pytest
import yaml

from openjanus.data.encoding import encode_sample
from openjanus.data.samples import Sample, Turn
from openjanus.presets import preset
from openjanus.processor.templates import with_template
from openjanus.processor.text import byte_tokenizer
from openjanus.train.lora_config import LoraConfig
from openjanus.train.recipes import load_recipe
from openjanus.train.runs import run_training
from openjanus.train.start import fresh_model, start_model, start_processor, start_shapes
from openjanus.train.trainer import JanusTrainer
from openjanus.weights.own import save_model

ASKED = (Turn(role="user", text="Hi"), Turn(role="assistant", text="Ho"))


@pytest.fixture
def saved(tiny_config, tmp_path):
    """``saved(name)``: the folder of a model with that template, and with roles that it has."""

    def make(name):
        processor = with_template(tiny_config.processor, name)
        model = fresh_model(dataclasses.replace(tiny_config, processor=processor), 0)
        folder = tmp_path / "trained" / name
        save_model(folder, model, byte_tokenizer(processor))
        return str(folder)

    return make


def test_a_fresh_model_is_given_a_template(make_config, tiny_config):
    own = tiny_config.processor
    for chosen, wanted in (
        (None, own),
        ("deepseek", own),
        ("paper", with_template(own, "paper")),
    ):
        config = make_config(template=chosen)
        model, processor = start_model(config, tell=False)
        assert model.config.processor == processor.config.processor == wanted
        assert start_processor(config).config.processor == wanted
        assert start_shapes(config, tell=False)[0].config.processor == wanted


def test_samples_are_written_in_it_and_only_answers_are_learnt(make_config):
    processor = start_processor(make_config(template="paper"))
    t = processor.tokenizer
    text = Sample(key="a", kind="text", turns=ASKED)
    found = encode_sample(text, processor, max_length=99)
    asked, answer = t.encode("User:Hi \n Assistant:"), [*t.encode(" Ho"), t.eos_id]
    assert list(found.input_ids) == [t.bos_id, *asked, *answer]
    assert list(found.loss_mask) == [False] * (1 + len(asked)) + [True] * len(answer)
    all_words = encode_sample(text, processor, max_length=99, mask_prompt=False)
    assert list(all_words.loss_mask) == [False] + [True] * (len(asked) + len(answer))
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    caption = (Turn(role="user", text="a cat"),)
    drawing = Sample(key="b", kind="gen", turns=caption, target=picture)
    slots = (t.pad_id,) * processor.config.num_gen_image_tokens
    prompt = (t.bos_id, *t.encode("User:a cat \n Assistant:"), t.boi_id)
    assert encode_sample(drawing, processor, max_length=99).input_ids == prompt + slots
    dropped = encode_sample(drawing, processor, max_length=99, drop_condition=True)
    assert dropped.input_ids == (t.bos_id, *(t.pad_id,) * (len(prompt) - 2), t.boi_id, *slots)


def test_questions_that_branch_do_so_after_the_role_in_either(make_config):
    turns = (
        Turn(role="user", text="What?"),
        Turn(role="assistant", text="A cat."),
        Turn(role="user", text="How?"),
        Turn(role="assistant", text="So."),
    )
    sample = Sample(key="a", kind="text", turns=turns, branched=True)
    for name in ("deepseek", "paper"):
        processor = start_processor(make_config(template=name))
        found = encode_sample(sample, processor, max_length=200)
        first, second = found.branch_starts
        t = processor.tokenizer
        for start, word in ((first, "What?"), (second, "How?")):
            assert t.decode(found.input_ids[start:]).startswith(word)
        learnt = [i for i, on in zip(found.input_ids, found.loss_mask, strict=True) if on]
        eos = processor.config.processor.eos_token
        assert t.decode(learnt, skip_special=False) == f" A cat.{eos} So.{eos}"


def test_a_trained_model_keeps_its_own(make_config, saved):
    for name in ("deepseek", "paper"):
        for asked in (None, name):
            config = make_config(init=[saved(name)], template=asked)
            assert start_processor(config).config.processor.template == name


def test_another_template_must_be_asked_for_twice(make_config, saved, tiny_config):
    released = saved("deepseek")
    config = make_config(init=[released], template="paper")
    message = "has the template 'deepseek', and template is 'paper': leave template out, or add"
    for start in (start_model, start_processor, start_shapes):
        with pytest.raises(ValueError, match=message):
            start(config)
    changed = dataclasses.replace(config, change_template=True)
    paper = with_template(tiny_config.processor, "paper")
    model, processor = start_model(changed, tell=False)
    assert model.config.processor == processor.config.processor == paper
    assert start_shapes(changed, tell=False)[0].config.processor == paper


def test_back_to_the_released_one_with_the_roles_that_there_are_tokens_for(
    make_config, saved, tiny_config, tmp_path
):
    back = {"template": "deepseek", "change_template": True}
    plain = make_config(init=[saved("paper")], **back)
    own = start_processor(plain).config.processor
    assert (own.template, own.user_role, own.assistant_role) == ("deepseek", "User", "Assistant")
    paper = with_template(tiny_config.processor, "paper")
    model = fresh_model(dataclasses.replace(tiny_config, processor=paper), 0)
    save_model(tmp_path / "both", model, byte_tokenizer(tiny_config.processor))
    config = make_config(init=[str(tmp_path / "both")], **back)
    assert start_processor(config).config.processor == tiny_config.processor


def test_what_a_run_cannot_ask_for(make_config):
    with pytest.raises(ValueError, match="unknown template 'papers'; did you mean 'paper'"):
        make_config(template="papers")
    with pytest.raises(ValueError, match="there is another template: add --template, one of deep"):
        make_config(change_template=True)
    with pytest.raises(ValueError, match="adapters are used with the template of the model below"):
        make_config(stage=3, lora=LoraConfig(), template="paper", change_template=True)
    with pytest.raises(ValueError, match="template"):
        load_recipe("tiny/stage1", ["--template", "papers"])
    assert load_recipe("tiny/stage1", ["--template", "paper"]).template == "paper"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_result_has_it_and_the_next_stage_takes_it_on(make_config, tmp_path):
    small = {"ratio": (1, 0, 1), "batch_size": 2, "bf16": False}
    run_training(make_config(run={"steps": 1}, template="paper", **small))
    written = json.loads((tmp_path / "run" / "final" / "config.json").read_text(encoding="utf-8"))
    assert written["processor"]["template"] == "paper"
    after = {"dir": str(tmp_path / "after"), "steps": 1}
    model, _ = start_model(make_config(run=after, init=["run/final"]), tell=False)
    assert model.config.processor == with_template(preset("tiny").processor, "paper")


def test_a_run_is_not_resumed_with_another(make_config, tmp_path):
    small = {"ratio": (1, 0, 1), "batch_size": 2, "bf16": False}
    run_training(make_config(run={"steps": 2, "stop_at": 1}, template="paper", **small))
    for other in (None, "deepseek"):
        with pytest.raises(ValueError, match=f"started with template 'paper', got {other!r}"):
            run_training(make_config(run={"steps": 2, "resume": True}, template=other, **small))
    path = tmp_path / "run" / "config.yaml"
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(told | {"template": None}), encoding="utf-8")
    message = "started with a model of the template 'paper', and init now gives one of 'deepseek'"
    with pytest.raises(ValueError, match=message):
        run_training(make_config(run={"steps": 2, "resume": True}, **small))
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    run_training(make_config(run={"steps": 2, "resume": True}, template="paper", **small))
    assert (tmp_path / "run" / "final").is_dir()


def test_a_checkpoint_from_before_templates_is_of_the_released_one(
    make_config,
):
    config = make_config(run={"steps": 1})
    model, processor = start_model(config, tell=False)
    with closing(JanusTrainer(model, processor, config)) as trainer:
        state = trainer.state_dict()
        assert state.pop("template") == "deepseek"
        trainer.load_state_dict(state)
    paper = make_config(run={"steps": 1}, template="paper")
    with (
        closing(JanusTrainer(*start_model(paper, tell=False), paper)) as trainer,
        pytest.raises(ValueError, match="of the template 'deepseek', and init now gives"),
    ):
        trainer.load_state_dict(state)
