"""The plug-in of lmms-eval, without lmms-eval: another base stands for that of its models."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from openjanus.eval import lmms
from openjanus.eval.lmms import Answerer, decoding_options, manifest


@dataclass(frozen=True)
class Manifest:
    model_id: str
    chat_class_path: str


class Base:
    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}

    def generate_until(self, requests: Any) -> list[str]:
        raise AssertionError("ours comes first")


@pytest.fixture
def lmms_eval(monkeypatch):
    """Modules of lmms-eval's names, with what the plug-in takes from them."""
    for name, content in {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    lmms._model_class.cache_clear()
    yield
    lmms._model_class.cache_clear()


def test_the_entry_point_names_the_class(lmms_eval):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    value = project["entry-points"]["lmms_eval.models"]["openjanus"]
    assert value == f"{manifest.__module__}:{manifest.__name__}"
    module, _, name = manifest().chat_class_path.rpartition(".")
    made = getattr(sys.modules[module], name)
    assert issubclass(made, Base) and made.is_simple is False
    with pytest.raises(AttributeError, match="no attribute 'OpenJanos'"):
        _ = lmms.OpenJanos


@dataclass(frozen=True)
class Instance:
    args: tuple[Any, ...]


def test_answers_are_the_models_own_in_order(lmms_eval, tiny_janus):
    model = lmms.OpenJanus(pretrained="tiny", batch_size="2")
    picture = Image.new("RGB", (20, 20), (200, 30, 30))
    documents = [{"words": f"Question {i}?", "tokens": 3 + i % 2} for i in range(5)]
    model.task_dict = {"t": {"test": documents}}

    def to_messages(document: dict[str, Any]) -> list[dict[str, Any]]:
        content = [{"type": "image", "url": picture}, {"type": "text", "text": document["words"]}]
        return [{"role": "user", "content": content}]

    requests = [
        Instance(("", to_messages, {"max_new_tokens": document["tokens"]}, i, "t", "test"))
        for i, document in enumerate(documents)
    ]
    wanted = [
        tiny_janus.chat(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": picture},
                        {"type": "text", "text": d["words"]},
                    ],
                }
            ],
            max_new_tokens=d["tokens"],
        ).text
        for d in documents
    ]
    assert model.generate_until(requests) == wanted
    # One past the context is answered with nothing, and the others of its batch as ever.
    documents[3]["words"] = "dog " * 3000
    with pytest.warns(UserWarning, match="a question is answered with nothing: "):
        answers = model.generate_until(requests)
    assert answers == [*wanted[:3], "", wanted[4]]
    for wrong, says in (
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"do_sample": True, "top_p": 7.0}, "top_p must be in"),
    ):
        with pytest.raises(ValueError, match=says):
            decoding_options(wrong)


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, {"max_new_tokens": 512, "temperature": 0.0, "top_p": None, "stop": ()}),
        (
            {
                "max_new_tokens": 16,
                "temperature": 0,
                "do_sample": False,
                "top_p": 1.0,
                "num_beams": 1,
            },
            {"max_new_tokens": 16, "temperature": 0.0, "top_p": None, "stop": ()},
        ),
        (
            {"temperature": 0.7, "top_p": 0.9, "until": ["\n"]},
            {"max_new_tokens": 512, "temperature": 0.7, "top_p": 0.9, "stop": ("\n",)},
        ),
        (
            {"do_sample": True, "until": "x"},
            {"max_new_tokens": 512, "temperature": 1.0, "top_p": None, "stop": ("x",)},
        ),
        (
            {"do_sample": False, "temperature": 0.7},
            {"max_new_tokens": 512, "temperature": 0.0, "top_p": None, "stop": ()},
        ),
    ],
)
def test_decoding_is_what_a_task_asks_for(asked, options):
    assert decoding_options(asked) == options


def test_what_the_plug_in_refuses(lmms_eval):
    with pytest.raises(ValueError, match=r"generation_kwargs may have .*got \['beams'\]"):
        decoding_options({"beams": 2})
    with pytest.raises(ValueError, match="no beam search, got num_beams 3"):
        decoding_options({"num_beams": 3})
    with pytest.raises(ValueError, match="batch_size must be a whole number above 0, got 'auto'"):
        lmms.OpenJanus(pretrained="tiny", batch_size="auto")
    with pytest.raises(ValueError, match="choose a task of generate_until"):
        Answerer.loglikelihood(None, [])  # type: ignore[arg-type] - refused when run
    with pytest.raises(ValueError, match="tasks of one round"):
        Answerer.generate_until_multi_round(None, [])  # type: ignore[arg-type] - refused when run
    with pytest.raises(ValueError, match="text and images, got video"):
        lmms._message({"role": "user", "content": [{"type": "video", "url": "x"}]})
    assert lmms._message({"role": "system", "content": "x"}) == {"role": "system", "content": "x"}
