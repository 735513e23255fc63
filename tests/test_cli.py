"""The commands: what they write, and that a user's mistake is one line and exit code 2."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import openjanus
from openjanus.cli import explain, main, parse
from openjanus.cli.parsing import engine_options
from openjanus.worlds.emoji.concepts import CONCEPTS
from openjanus.worlds.emoji.fetch import FORMAT_VERSION

EVAL = ["eval", "--model", "tiny", "--task", "emoji", "--output", "x"]
EVAL_TEXT = ["eval", "--model", "tiny", "--task", "emoji-text", "--output", "x"]
ENTRY = [sys.executable, "-c", "import sys; from openjanus.cli import main; sys.exit(main())"]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), (200, 30, 30)).save(path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world of flat sprites, one vendor, written as `fetch_emoji` writes it."""
    folder = tmp_path_factory.mktemp("world")
    stack = np.zeros((len(CONCEPTS), 8, 8, 4), dtype=np.uint8)
    stack[..., 0] = 200
    stack[..., 3] = 255
    shapes = np.full((len(CONCEPTS), 2), 8, dtype=np.int32)
    np.savez(folder / "sprites.npz", rgba=stack, shapes=shapes)
    names = [[concept, "flat"] for concept in CONCEPTS]
    digest = hashlib.sha256((folder / "sprites.npz").read_bytes()).hexdigest()
    record = {"format_version": FORMAT_VERSION, "sprites_sha256": digest, "names": names}
    (folder / "sprites.json").write_text(json.dumps(record))
    return folder


def refused(capsys, *arguments) -> str:
    """Run a command that must be refused; the one line that says why."""
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if not line.startswith("\r")]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("openjanus: ")
    return lines[0]


# what the commands do


def test_draw_writes_pictures_and_a_sheet_and_prints_their_paths(tmp_path, capsys):
    folder = tmp_path / "drawings"
    arguments = ["draw", "a red car", "--model", "tiny", "--n", "2", "--seed", "0"]
    assert main([*arguments, "--output", str(folder)]) == 0
    said = capsys.readouterr()
    paths = [folder / "0.png", folder / "1.png", folder / "sheet.png"]
    assert said.out.splitlines() == [str(path) for path in paths]
    assert "100%" in said.err
    for path in paths:
        with Image.open(path) as image:
            assert image.mode == "RGB"


def test_draw_draws_what_the_library_draws(tmp_path, capsys):
    import openjanus

    arguments = ["draw", "a red car", "--model", "tiny", "--seed", "7", "--top-k", "9"]
    assert main([*arguments, "--temperature", "0.5", "--output", str(tmp_path)]) == 0
    drawing = openjanus.load("tiny").draw("a red car", seed=7, top_k=9, temperature=0.5)
    with Image.open(tmp_path / "0.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(drawing.images[0]))


def test_weights_are_packed_unless_told_otherwise(tmp_path, monkeypatch):
    packed = []
    monkeypatch.setattr("openjanus.pipeline.janus.Janus.pack", lambda self: packed.append(self))
    arguments = ["draw", "a red car", "--model", "tiny", "--seed", "0", "--output", str(tmp_path)]
    assert main([*arguments, "--no-pack"]) == 0
    assert not packed
    assert main(arguments) == 0
    assert len(packed) == 1


@pytest.mark.parametrize(
    "verb", [["draw", "a car"], ["chat"], ["compose", "a car"], ["bench"], ["serve"]]
)
def test_steps_may_be_compiled_or_not(verb):
    for given, wanted in (([], "auto"), (["--compile"], "on"), (["--no-compile"], "off")):
        assert engine_options(parse([*verb, *given])).compile == wanted


def test_a_compiled_drawing_leaves_weights_as_they_lie(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("openjanus.pipeline.janus.Janus.pack", lambda _: pytest.fail("packed"))
    monkeypatch.setattr("torch.compile", lambda step, **_: made.append(step) or step)
    words = ["draw", "a red car", "--model", "tiny", "--seed", "0", "--output"]
    assert main([*words, str(tmp_path / "a"), "--compile"]) == 0
    assert len(made) == 1
    assert main([*words, str(tmp_path / "b"), "--no-compile", "--no-pack"]) == 0
    assert len(made) == 1
    assert (tmp_path / "a/0.png").read_bytes() == (tmp_path / "b/0.png").read_bytes()


def test_draw_keeps_the_best_of_some_candidates(tmp_path, capsys):
    import openjanus

    arguments = ["draw", "a red car", "--model", "tiny", "--seed", "7", "--best-of", "3"]
    question = ["--judge-question", "Is this {prompt}?"]
    assert main([*arguments, *question, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr()
    drawing = openjanus.load("tiny").draw(
        "a red car", seed=7, best_of=3, judge_question="Is this {prompt}?"
    )
    assert drawing.candidates is not None
    assert "asked: Is this a red car? (Yes or yes)" in said.err
    ids = 3 * openjanus.load("tiny").config.num_gen_image_tokens
    assert f"{ids}/{ids}" in said.err
    assert re.search(r"looking: 100%.* 3/3 ", said.err)
    assert f"picture 0: candidate {drawing.candidates.chosen[0]} of chances" in said.err
    with Image.open(tmp_path / "0.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(drawing.images[0]))
    told = json.loads((tmp_path / "drawing.json").read_text())
    assert told["candidates"]["chosen"] == list(drawing.candidates.chosen)
    assert main([*arguments, "--judge-question", "emoji", "--output", str(tmp_path)]) == 0
    assert "asked: What colour is the car? (red)" in capsys.readouterr().err


def test_draw_keeps_the_first_rows_of_a_picture(tmp_path, picture, capsys):
    import openjanus

    arguments = ["draw", "a red car", "--model", "tiny", "--seed", "7", "--output", str(tmp_path)]
    assert main([*arguments, "--from", str(picture), "--keep-rows", "2"]) == 0
    kept = openjanus.load("tiny").encode_image(picture)[:8].tolist()
    told = json.loads((tmp_path / "drawing.json").read_text())
    assert told["options"]["prefix_ids"] == kept
    assert main([*arguments, "--keep-rows", "2"]) == 2
    assert "--from and --keep-rows belong together" in capsys.readouterr().err
    assert main([*arguments, "--from", str(picture), "--keep-rows", "4"]) == 2
    assert "--keep-rows must be in [1, 3], got 4" in capsys.readouterr().err


def test_chat_prints_the_reply(picture, capsys):
    import openjanus

    arguments = ["chat", "What is this?", "--model", "tiny", "--image", str(picture)]
    assert main([*arguments, "--max-new-tokens", "6"]) == 0
    reply = openjanus.load("tiny").chat("What is this?", images=[picture], max_new_tokens=6)
    assert capsys.readouterr().out == f"{reply.text}\n"


@pytest.mark.parametrize("verb", ["chat", "compose"])
def test_top_k_of_words_is_given_on(verb, tmp_path, capsys):
    arguments = [verb, "What is this?", "--model", "tiny", "--max-new-tokens", "6"]
    if verb == "compose":
        arguments += ["--max-images", "0", "--output", str(tmp_path / "composition")]
    said = []
    for options in ([], ["--temperature", "50", "--seed", "1"]):
        for cut in ([], ["--top-k", "1"]):
            assert main([*arguments, *options, *cut]) == 0
            said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[3] != said[2]


def test_compose_writes_a_page_and_its_pictures(tmp_path, capsys):
    import openjanus

    folder = tmp_path / "composition"
    options = ["--temperature", "1", "--max-new-tokens", "60", "--max-images", "1", "--seed", "0"]
    arguments = ["compose", "a red car", "--model", "tiny", "--output", str(folder)]
    assert main([*arguments, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(folder / "page.html") and str(folder / "0.png") in lines
    composition = openjanus.load("tiny").compose(
        "a red car", temperature=1.0, max_new_tokens=60, max_images=1, seed=0
    )
    (image,) = composition.images
    with Image.open(folder / "0.png") as written:
        assert np.array_equal(np.asarray(written), np.asarray(image))
    data = json.loads((folder / "composition.json").read_text(encoding="utf-8"))
    assert data["token_ids"] == list(composition.token_ids)


def test_a_conversation_has_a_history(monkeypatch, capsys):
    import openjanus

    asked = []
    stream = openjanus.Janus.chat_stream

    def spy(self, messages, **options):
        asked.append([dict(message) for message in messages])
        return stream(self, messages, **options)

    monkeypatch.setattr(openjanus.Janus, "chat_stream", spy)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n\nAnd now?\n/exit\nnever asked\n"))
    assert main(["chat", "--model", "tiny", "--max-new-tokens", "4"]) == 0
    answers = capsys.readouterr().out.splitlines()
    assert [len(messages) for messages in asked] == [1, 3]
    assert [message["role"] for message in asked[1]] == ["user", "assistant", "user"]
    assert asked[1][0]["content"] == "Hello"
    assert asked[1][2]["content"] == "And now?"
    assert asked[1][1]["content"].strip() in "\n".join(answers)


def test_a_conversation_ends_with_its_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
    assert main(["chat", "--model", "tiny", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().err.endswith("> \n")


def test_a_conversation_survives_an_empty_reply(monkeypatch, capsys):
    import openjanus

    asked = []

    def mute(self, messages, **options):
        asked.append([message["content"] for message in messages])
        return iter(())

    monkeypatch.setattr(openjanus.Janus, "chat_stream", mute)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nAnd now?\n"))
    assert main(["chat", "--model", "tiny"]) == 0
    assert asked == [["Hello"], ["And now?"]]
    assert "no answer" in capsys.readouterr().err


def test_reconstruct_decodes_the_picture_s_own_ids(picture, tmp_path, capsys):
    import openjanus

    path = tmp_path / "new" / "r.png"
    assert main(["reconstruct", str(picture), "--model", "tiny", "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    janus = openjanus.load("tiny")
    wanted = janus.decode_image(janus.encode_image(picture))
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), np.asarray(wanted))


def test_info_counts_every_parameter_once(capsys):
    import openjanus

    assert main(["info", "tiny"]) == 0
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    model = openjanus.load("tiny").model
    counts = {
        name.removeprefix("parameters of "): int(value.strip().replace(",", ""))
        for name, value in told.items()
        if name.startswith("parameters of ")
    }
    assert sum(counts.values()) == sum(value.numel() for value in model.parameters())
    assert counts["language_model"] == sum(
        value.numel() for value in model.language_model.parameters()
    )
    assert {"context", "special ids", "licence"} <= {name.strip() for name in told}


def test_convert_writes_what_load_reads(tmp_path, capsys):
    folder = tmp_path / "converted"
    assert main(["convert", "tiny", str(folder), "--format", "transformers"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(folder)]
    (line,) = said.err.splitlines()
    assert line.startswith("openjanus: 64 of 64 codebook rows have not norm 1: pictures that tran")
    tiny, loaded = openjanus.load("tiny"), openjanus.load(folder)
    for one, other in zip(tiny.model.parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(one, other)
    says = refused(capsys, "convert", "tiny", folder, "--format", "openjanus")
    assert "is not empty: give a new folder" in says


def test_convert_changes_the_dtype_when_told_to(tmp_path):
    first, second = str(tmp_path / "one"), str(tmp_path / "two")
    options = ["--format", "openjanus", "--dtype"]
    assert main(["convert", "tiny", first, *options, "bfloat16"]) == 0
    assert main(["convert", first, second, *options[:2]]) == 0
    tensors = load_file(f"{second}/model.safetensors").values()
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}


def test_convert_quantizes_into_our_own_layout(tmp_path, capsys):
    folder = str(tmp_path / "small")
    assert main(["convert", "tiny", folder, "--quantize", "int4", "--group-size", "32"]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert main(["info", folder]) == 0
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    told = {name.strip(): value.strip() for name, value in told.items()}
    assert told["quantized"] == "int4 in groups of 32"
    size = (tmp_path / "small" / "model.safetensors").stat().st_size
    assert told["bytes of the weights"] == f"{size:,}"
    assert main(["info", "tiny"]) == 0
    plain = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert told["parameters in all"] in {value.strip() for value in plain.values()}
    assert "quantized" not in {name.strip() for name in plain}
    says = refused(capsys, "convert", folder, tmp_path / "x", "--format", "transformers")
    assert "no place for quantized weights" in says
    says = refused(capsys, "draw", "a car", "--model", folder, "--quantize", "int8")
    assert "holds int4 in groups of 32, and quantize asks for int8" in says
    options = ["--config", "tiny/stage2", "--run.dir", tmp_path / "run", "--init", f"[{folder}]"]
    assert "quantized weights cannot be trained" in refused(capsys, "train", *options, "--dry-run")
    assert main([str(argument) for argument in ["train", *options]]) == 2
    assert "quantized weights cannot be trained" in capsys.readouterr().err


def test_env_tells_versions_and_the_machine(capsys):
    import torch

    import openjanus

    assert main(["env"]) == 0
    said = capsys.readouterr().out
    assert openjanus.__version__ in said
    assert torch.__version__ in said
    assert f"{torch.get_num_threads()} threads" in said


def test_version(capsys):
    import openjanus

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"openjanus {openjanus.__version__}\n"


def test_a_sheet_of_scenes(world, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    arguments = ["data", "sheet", "--n", "5", "--size", "32", "--folder", str(world)]
    assert main([*arguments, "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    with Image.open(path) as image:
        assert image.width > 5 * 32


def test_a_scene_of_a_held_out_cell_with_its_answers(world, tmp_path, capsys):
    from openjanus.worlds.emoji.cells import held_out_cells

    cell = held_out_cells("counting")[0]
    path = tmp_path / "scene.png"
    arguments = ["data", "scene", "--cell", cell.name, "--folder", str(world), "--size", "48"]
    assert main([*arguments, "--output", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    told = json.loads((tmp_path / "scene.json").read_text())
    assert said[0] == str(path)
    assert said[1] == told["caption"]
    assert said[2:] == [f"{question} {answer}" for question, answer in told["questions"]]
    assert {"two", "three", "four"} & {answer for _, answer in told["questions"]}
    with Image.open(path) as image:
        assert image.size == (48, 48)


def test_a_scene_of_ones_own_words(world, tmp_path, capsys):
    path = tmp_path / "scene.png"
    arguments = ["data", "scene", "a red car left of two dogs", "--folder", str(world)]
    assert main([*arguments, "--output", str(path), "--size", "64"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [str(path), "a red car left of two dogs"]
    assert said[-1].endswith("? red")
    with Image.open(path) as image:
        assert image.size == (64, 64)


def test_the_shipped_artwork_draws_every_thing_of_the_world(tmp_path, capsys):
    for concept in list(CONCEPTS.values())[::11]:
        words = f"{concept.article} {concept.name}"
        assert main(["data", "scene", words, "--output", str(tmp_path / "scene.png")]) == 0


def test_a_scene_is_a_function_of_its_seed(world, tmp_path, capsys):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        path = str(tmp_path / f"{name}.png")
        assert (
            main(["data", "scene", "--seed", seed, "--folder", str(world), "--output", path]) == 0
        )
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_train_hands_options_to_the_recipe(monkeypatch, capsys, tmp_path):
    from openjanus.train import recipes

    given = []

    def run_recipe(name, overrides):
        given.append((name, overrides))
        return tmp_path

    monkeypatch.setattr(recipes, "run_recipe", run_recipe)
    overrides = ["--run.dir", "runs/a b", "--optim.lr", "-1", "--run.resume=true"]
    assert main(["train", "--config", "tiny/stage2", *overrides]) == 0
    assert given == [("tiny/stage2", overrides)]
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_eval_hands_its_options_to_the_task(monkeypatch, capsys, tmp_path):
    from openjanus.eval import runner

    given = []

    def run_task(janus, task, **options):
        given.append((task, options))
        return {"n": 3}

    monkeypatch.setattr(runner, "run_task", run_task)
    arguments = ["eval", "--model", "tiny", "--task", "emoji", "--limit", "3"]
    arguments += ["--set", "guidance_scale=5", "--set", "folder=art", "--data", "a", "--rule", "b"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    wanted = {
        "limit": 3,
        "output": tmp_path,
        "seed": 0,
        "options": {"guidance_scale": 5, "folder": "art", "data": "a", "rule": "b"},
        "retry_broken": False,
    }
    assert given == [("emoji", wanted)]
    assert json.loads(capsys.readouterr().out) == {"n": 3}


# what a user can get wrong


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a command"),
        (["drw", "x"], "did you mean 'draw'"),
        (["draw"], "required: prompt"),
        (["draw", "a", "red", "car"], "quotes"),
        (["compose", "a car", "--model", "tiny", "--max-images", "-1"], "0 is words alone"),
        (["compose", "a car", "--model", "tiny", "--form", "chatty"], "did you mean 'chat'"),
        (["draw", "a car", "--sed", "3"], "did you mean '--seed'"),
        (["draw", "a car", "--guidance-scal=3"], "did you mean '--guidance-scale'"),
        (["draw", "a car", "--n", "many"], "invalid int value"),
        (["draw", "a car", "--seed", "-1"], "seed"),
        (["draw", "a car", "--model", "tiny", "--n", "0"], "n must be"),
        (["draw", "a car", "--model", "tiny", "--n", "-2"], "n must be"),
        (["draw", "", "--model", "tiny"], "empty"),
        (["draw", "  \t ", "--model", "tiny"], "empty"),
        (["draw", "a car", "--model", "tiny", "--guidance-scale", "nan"], "guidance_scale"),
        (["draw", "a car", "--model", "tiny", "--guidance-scale", "inf"], "guidance_scale"),
        (["draw", "a car", "--model", "tiny", "--temperature", "-1"], "temperature"),
        (["draw", "a car", "--model", "tiny", "--top-p", "0"], "top_p"),
        (["draw", "a car", "--model", "tiny", "--top-k", "0"], "top_k"),
        (["draw", "a car " * 400, "--model", "tiny"], "context"),
        (["draw", "a car", "--model", "tiny", "--best-of", "0"], "best_of must be"),
        (["draw", "a car", "--model", "tiny", "--judge-question", "Is it?"], "at best_of 1"),
        (["draw", "a unicorn", "--best-of", "2"], "--judge-question of your own"),
        (["draw", "a car", "--model", "tinny"], "'tiny'"),
        (["draw", "a car", "--model", "no/such/folder"], "no/such/folder"),
        (["draw", "a car", "--model", "janus-pro-1b"], "deepseek-ai/Janus-Pro-1B"),
        (["draw", "a car", "--model", "tiny", "--dtype", "float7"], "float7"),
        (["draw", "a car", "--model", "tiny", "--device", "toaster"], "toaster"),
        (["draw", "a car", "--model", "no-such", "--output", __file__], "is a file: name a folder"),
        (["compose", "Hi", "--model", "no-such", "--output", __file__], "is a file: name a folder"),
        (
            ["draw", "a car", "--model", "no-such", "--output", f"{__file__}/a/b"],
            f"{__file__} is a file: name a folder",
        ),
        (["bench", "--threads", "99999999999"], "--threads must be at most 1024, got 99999999999"),
        (["chat", "Hello", "--model", "tiny", "--image", "missing.png"], "missing.png"),
        (["chat", "", "--model", "tiny"], "empty"),
        (["chat", "word " * 400, "--model", "tiny"], "context"),
        (["chat", "Hello", "--model", "tiny", "--max-new-tokens", "0"], "max_new_tokens"),
        (["reconstruct", "missing.png", "--model", "tiny"], "missing.png"),
        (["info", "nanno"], "nanno"),
        (["convert", "tiny", "x"], "--format"),
        (["convert", "tiny", "x", "--quantize", "int3"], "int8, int4 or fp8, got 'int3'"),
        (["convert", "tiny", "x", "--group-size", "32"], "belong to --quantize"),
        (["convert", "tiny", "x", "--quantize", "int8", "--group-size", "32"], "no groups"),
        (["convert", "tiny", "x", "--quantize", "int4", "--group-size", "128"], "multiple of it"),
        (
            ["convert", "tiny", "x", "--quantize", "int8", "--format", "transformers"],
            "no place for quantized weights",
        ),
        (["draw", "a car", "--model", "tiny", "--quantize", "fp4"], "int8, int4 or fp8, got 'fp4'"),
        (["convert", "tiny", "x", "--format", "gguf"], "unknown format 'gguf'"),
        (["convert", "tiny", "x", "--format", "deepseek"], "export it as 'transformers'"),
        (["convert", "tiny", "x", "--format", "transformers", "--dtype", "f8"], "unknown dtype"),
        (["convert", "tiny", ".", "--format", "openjanus", "--revision", "a"], "revision belongs"),
        (["data"], "WHAT"),
        (["data", "lint"], "either a source"),
        (["data", "lint", "chat-json", "--set", "path=x"], "'chat-jsonl'"),
        (["data", "lint", "chat-jsonl", "--set", "path=nowhere"], "no file or folder at nowhere"),
        (["data", "lint", "toy", "--set", "kind=und", "--limit", "0"], "--limit must be >= 1"),
        (["data", "lint", "toy", "--config", "tiny/stage2"], "either a source"),
        (["data", "show", "--config", "tiny/vq"], "trains no Janus"),
        (["data", "show", "toy", "--set", "kind=und", "--n", "0"], "--n must be >= 1"),
        (["data", "filter", "toy", "--set", "kind=und", "--output", "x"], "has no files"),
        (["data", "fetch", "lego"], "lego"),
        (["data", "sheet", "--n", "0"], "--n must be >= 1"),
        (["data", "scene", "--folder", "nowhere"], "nowhere"),
        (["data", "scene", "--tag", "color"], "'colors'"),
        (["data", "scene", "a dgo"], "did you mean dog"),
        (["data", "scene", "a teal car"], "'teal' of 'a teal car' is no colour of this world"),
        (["data", "scene", "a dog", "--size", "0"], "--size must be 1 to 4096 pixels, got 0"),
        (["data", "scene", "a dog", "--size", "100000"], "--size must be 1 to 4096 pixels"),
        (["data", "sheet", "--size", "4097"], "--size must be 1 to 4096 pixels, got 4097"),
        (["data", "scene", "a dog", "--split", "held_out"], "leave it out beside words"),
        (["data", "scene", "a dog", "--tag", "colors"], "not allowed with"),
        (["data", "scene", "a dog", "--folder", "x"], "openjanus data fetch emoji --folder x"),
        (["data", "scene", "--cell", "count/apples/3"], "nearest"),
        (["data", "scene", "--tag", "colors", "--cell", "count/cup/3"], "not allowed with"),
        (["train"], "--config"),
        (["train", "--config", "tiny/stage9"], "tiny/stage"),
        (["train", "--config", "tiny/stage2", "--optm.lr", "1"], "optim"),
        (["train", "--config", "missing.yaml"], "missing.yaml"),
        (["eval", "--model", "tiny", "--output", "x"], "--task"),
        ([*EVAL, "--set", "guidance_scale"], "--set takes NAME=VALUE, got 'guidance_scale'"),
        ([*EVAL, "--set", "guidence_scale=5"], "did you mean 'guidance_scale'"),
        ([*EVAL, "--set", "sprites=3"], "sprites must be Sprites | None, got 3"),
        ([*EVAL, "--set", "temperature=hot"], "temperature must be float | None, got 'hot'"),
        ([*EVAL, "--set", "questions=true"], "questions must be int, got True"),
        ([*EVAL, "--set", "folder=3"], "folder must be str | Path | None, got 3"),
        ([*EVAL, "--set", "temperature=-1"], "temperature must be finite and >= 0"),
        ([*EVAL, "--set", "guidance_scale=NaN"], "guidance_scale must be finite"),
        ([*EVAL_TEXT, "--set", "pieces=ten"], "pieces must be int, got 'ten'"),
        ([*EVAL_TEXT, "--set", "parts=5"], "parts must be Sequence"),
        ([*EVAL_TEXT, "--set", "prose=x"], "prose must be Prose | None, got 'x'"),
        (["eval", "--model", "tiny", "--task", "emogi", "--output", "x"], "emoji"),
        (["eval", "--model", "tiny", "--task", "emoji", "--output", "x", "--limit", "0"], "limit"),
        (["--vrsion"], "did you mean '--version'"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_image_is_one_line(capsys, tmp_path, picture):
    words = tmp_path / "words.png"
    words.write_text("not a picture")
    assert "words.png" in refused(capsys, "chat", "What?", "--model", "tiny", "--image", words)
    half = tmp_path / "half.png"
    half.write_bytes(picture.read_bytes()[:60])
    assert "half.png" in refused(capsys, "reconstruct", half, "--model", "tiny")


def test_an_output_that_cannot_be_written_is_one_line(capsys, tmp_path, picture):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    arguments = ("reconstruct", picture, "--model", "tiny", "--output")
    assert str(blocked) in refused(capsys, *arguments, blocked / "r.png")
    assert "extension" in refused(capsys, *arguments, tmp_path / "r.nothing")


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    from openjanus.cli import parsing

    def lookup(*_):
        return {}["key"]

    monkeypatch.setattr(parsing, "load", lookup)
    with pytest.raises(KeyError, match="key"):
        main(["draw", "a car", "--model", "tiny"])


def test_a_traceback_can_be_asked_for(monkeypatch):
    with pytest.raises(KeyError, match="tinny"):
        main(["--traceback", "info", "tinny"])
    with pytest.raises(KeyError, match="tinny"):
        main(["info", "tinny", "--traceback"])


def test_a_message_of_many_lines_becomes_one():
    assert explain(ValueError("first\n  second")) == "first second"
    assert explain(KeyError("no such thing: x")) == "no such thing: x"
    assert explain(KeyError("x")) is None


def test_a_missing_extra_is_named():
    error = ModuleNotFoundError("No module named 'yaml'", name="yaml")
    assert explain(error) == "pyyaml is missing: pip install 'openjanus[train]'"
    assert explain(ModuleNotFoundError("No module named 'x'", name="x")) is None


def test_an_option_is_not_guessed_from_its_beginning():
    with pytest.raises(ValueError, match="--guidance-scale"):
        parse(["draw", "a car", "--guidance", "3"])


# the process around the commands


def test_ctrl_c_ends_quietly():
    # A shell's background job ignores SIGINT, and so would what it starts.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from openjanus.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "chat", "--model", "tiny"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.read(2) == "> "
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in error


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*ENTRY, "--version"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == b""


def test_help_needs_no_torch():
    code = "import sys; from openjanus.cli import main\n"
    code += "try: main(['draw', '--help'])\nexcept SystemExit as end: assert end.code == 0\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--guidance-scale" in done.stdout


@pytest.fixture
def chat_file(tmp_path):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": said}) + "\n")
    return path


def test_lint_ends_with_1_where_an_item_is_broken(chat_file, capsys):
    command = ["data", "lint", "chat-jsonl", "--model", "tiny", "--set", f"path={chat_file}"]
    assert main(command) == 0
    assert "1 samples: 1 text" in capsys.readouterr().out
    assert main([*command, "--max-length", "3"]) == 1
    with chat_file.open("a") as file:
        file.write("{\n")
    assert main(command) == 1
    said = capsys.readouterr()
    assert "chat.jsonl:2 is not valid JSON" in said.out
    assert said.err.endswith("openjanus: not every item can be used: chat-jsonl\n")


def test_lint_and_show_take_a_recipe(tmp_path, capsys):
    assert main(["data", "lint", "--config", "tiny/stage2", "--model", "tiny", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert [f"sources.{kind}.0" in out for kind in ("und", "text", "gen")] == [True] * 3
    page = tmp_path / "new" / "page.html"
    command = ["data", "show", "--config", "tiny/stage2", "--model", "tiny", "--n", "1"]
    assert main([*command, "--output", str(page)]) == 0
    assert page.read_text(encoding="utf-8").count("<h2>") == 3


def test_lint_of_a_recipe_counts_the_tokens_of_what_it_trains(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    lines = (
        "kind: janus",
        "stage: 2",
        "init: [janus-pro-1b]",
        "preset: janus-pro-1b",
        "ratio: [0, 0, 1]",
        "sources: {gen: [{type: toy, options: {kind: gen, length: 2}}]}",
        "batch_size: 2",
        "max_length: 500",
        "run: {steps: 1}",
        "optim: {lr: 1.0e-3}",
    )
    recipe.write_text("\n".join(lines) + "\n")
    command = ["data", "lint", "--config", str(recipe)]
    assert main(command) == 1  # a picture is 576 tokens
    assert "too long (max_length 500): 2" in capsys.readouterr().out
    assert main([*command, "--model", "tiny"]) == 0
    recipe.write_text(recipe.read_text().replace("init: [janus-pro-1b]", "init: [gone/final]"))
    assert main(command) == 2
    assert "by --model" in capsys.readouterr().err


def test_encode_images_takes_every_key_of_the_recipe(tmp_path, capsys):
    command = ["data", "encode-images", "--config", "tiny/stage2", "--run-dir", str(tmp_path / "r")]
    assert main([*command, "--id_cache", str(tmp_path / "ids"), "--device", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main([*command, "--id_cach", "x"]) == 2
    assert "unknown key id_cach" in capsys.readouterr().err


def test_the_note_of_captions_names_the_adapter_too(tmp_path, monkeypatch):
    given = {}

    def recaption(janus, source, output, **options):
        given.update(options)
        return {"done": 1, "written": 1}

    monkeypatch.setattr("openjanus.cli.data.load", lambda args: None)
    monkeypatch.setattr("openjanus.train.recaption.recaption", recaption)
    path = tmp_path / "captions.jsonl"
    path.write_text(json.dumps({"image": "a.png", "caption": "a"}) + "\n")
    command = ["data", "caption", "caption-jsonl", "--set", f"path={path}", "--set", "face=und"]
    assert main([*command, "--output", str(tmp_path / "out.jsonl"), "--adapter", "lora/a"]) == 0
    assert given["name"] == "nano + lora/a"


def test_filter_copies_a_record_as_it_is(chat_file, tmp_path, capsys):
    output = tmp_path / "kept.jsonl"
    command = ["data", "filter", "chat-jsonl", "--set", f"path={chat_file}"]
    assert main([*command, "--output", str(output)]) == 0
    assert output.read_text() == chat_file.read_text()
    assert "1 of 1 records kept" in capsys.readouterr().out
