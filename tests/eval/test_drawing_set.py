from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from openjanus.eval.drawing_set import DrawingSet, read_prompts, seed_of
from openjanus.eval.runner import LOCK_NAME
from openjanus.folders import held

METADATA = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"},
    {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "two cats"},
    {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "x"},
]


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in METADATA))
    return path


def pictures(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("*.png"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_genevals_folders(prompts, tiny_janus, tmp_path):
    out = tmp_path / "out"
    drawn = DrawingSet(prompts=prompts, layout="geneval", n=2, batch_size=2)
    summary = drawn.draw(tiny_janus, out, seed=3)
    assert (summary["prompts"], summary["pictures"], summary["drawn"]) == (3, 6, 6)
    assert list(pictures(out)) == [f"0000{i}/samples/000{j}.png" for i in range(3) for j in (0, 1)]
    assert json.loads((out / "00001" / "metadata.jsonl").read_text()) == METADATA[1]
    # A picture is what `draw` gives for its prompt's own seed, whatever the batch.
    alone = tiny_janus.draw("two cats", n=2, seed=seed_of(3, "two cats"))
    with Image.open(out / "00001" / "samples" / "0001.png") as image:
        assert image.tobytes() == alone.images[1].tobytes()
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["format_version"], settings["prompts_file"]) == (1, prompts.name)
    assert settings["drawing"]["guidance_scale"] == tiny_janus.config.drawing.guidance_scale
    assert settings["template"] == tiny_janus.config.processor.template
    assert {"checkpoint_sha256", "prompts_sha256", "template_sha256", "dtype"} <= set(settings)


def test_a_set_goes_on_where_it_was(prompts, tiny_janus, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"

    def drawn() -> DrawingSet:
        return DrawingSet(prompts=prompts, layout="geneval", n=2, batch_size=1)

    drawn().draw(tiny_janus, whole)
    assert drawn().draw(tiny_janus, out, limit=1)["drawn"] == 2
    # As if stopped while a prompt's second picture was written.
    (out / "00000" / "samples" / "0001.png").unlink()
    (out / "00000" / "samples" / "0001.png.part").write_bytes(b"half")
    summary = drawn().draw(tiny_janus, out)
    assert (summary["pictures"], summary["drawn"]) == (6, 6)
    assert pictures(out) == pictures(whole)
    assert drawn().draw(tiny_janus, out)["drawn"] == 0
    with pytest.raises(ValueError, match="other n, seed: give another output folder"):
        DrawingSet(prompts=prompts, layout="geneval", n=1).draw(tiny_janus, out, seed=1)


def test_a_set_is_drawn_by_one_process_at_a_time(prompts, tiny_janus, tmp_path):
    out, one = tmp_path / "out", DrawingSet(prompts=prompts, layout="geneval", n=1)
    busy = pytest.raises(ValueError, match="another process is at work in")
    with held(out, LOCK_NAME, refusal="taken"), busy:
        one.draw(tiny_janus, out)
    assert pictures(out) == {}


def test_a_file_is_no_folder_of_a_set(prompts, tiny_janus):
    one = DrawingSet(prompts=prompts, layout="geneval", n=1)
    with pytest.raises(ValueError, match=r"output is a folder, .* is a file: give another"):
        one.draw(tiny_janus, prompts)


def test_what_cannot_be_drawn_is_named_and_left_out(prompts, tiny_janus, tmp_path):
    lines = prompts.read_text().splitlines()
    long = json.dumps(METADATA[0] | {"prompt": "dog " * 2000})
    null = json.dumps(METADATA[0] | {"prompt": None})
    bad = [json.dumps({"tag": "x"}), lines[1], null]
    prompts.write_text("\n".join([lines[0], "{", long, *bad]) + "\n")
    one = DrawingSet(prompts=prompts, layout="geneval", n=1)
    with pytest.warns(UserWarning, match="00005 cannot be drawn and is left out: line 6: prompt"):
        summary = one.draw(tiny_janus, tmp_path / "out")
    assert (summary["prompts"], summary["drawn"], summary["broken"]["n"]) == (6, 2, 4)
    assert sorted(summary["broken"]["items"]) == ["00001", "00002", "00003", "00005"]
    assert summary["broken"]["items"]["00001"].startswith("line 2: ")
    assert list(pictures(tmp_path / "out")) == ["00000/samples/0000.png", "00004/samples/0000.png"]


@pytest.mark.parametrize("wrong", [{"top_k": -1}, {"top_p": 7.0}, {"top_p": 0.0}])
def test_an_option_that_no_drawing_can_have_is_no_broken_prompt(prompts, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} must be "):
        DrawingSet(prompts=prompts, layout="geneval", n=1, **wrong)


def test_flat_sets(tiny_janus, tmp_path):
    (tmp_path / "captions.txt").write_text("a dog\n\na cat\n")
    flat = DrawingSet(prompts=tmp_path / "captions.txt", layout="flat")
    assert flat.draw(tiny_janus, tmp_path / "one")["broken"]["items"] == {
        "000001": "line 2 is empty"
    }
    assert list(pictures(tmp_path / "one")) == ["images/000000.png", "images/000002.png"]
    many = DrawingSet(prompts=tmp_path / "captions.txt", layout="flat", n=2)
    many.draw(tiny_janus, tmp_path / "two", limit=1)
    assert list(pictures(tmp_path / "two")) == ["images/000000_0000.png", "images/000000_0001.png"]


def test_dpgs_four_tiles(tiny_janus, tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "partiprompts1.txt").write_text("a dog on a mat\n")
    tiles = DrawingSet(prompts=folder, layout="dpg")
    tiles.draw(tiny_janus, tmp_path / "out")
    alone = tiny_janus.draw("a dog on a mat", n=4, seed=seed_of(0, "a dog on a mat"))
    size = alone.images[0].width
    with Image.open(tmp_path / "out" / "images" / "partiprompts1.png") as image:
        assert image.size == (2 * size, 2 * size)
        last = image.crop((size, size, 2 * size, 2 * size))
        assert last.tobytes() == alone.images[3].tobytes()


def test_dpgs_table_has_a_row_a_question(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    path.write_text("item_id,text,proposition_id\na,one dog,1\na,one dog,2\nb,a cat,1\n")
    assert [(job.name, job.prompt) for job in read_prompts(path, "dpg")] == [
        ("a", "one dog"),
        ("b", "a cat"),
    ]


def test_prompts_are_a_stream(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes(b"a dog\n" * 100_000 + b"\xff\n")
    stream = read_prompts(path, "flat")
    # What is not text stands far behind, where nothing has read yet.
    assert [next(stream).name for _ in range(3)] == ["000000", "000001", "000002"]
    with pytest.raises(ValueError, match=r"captions\.txt is no UTF-8 text"):
        list(stream)


def test_a_prompts_seed_is_its_own():
    seeds = {seed_of(0, "a"), seed_of(0, "b"), seed_of(1, "a")}
    assert len(seeds) == 3 and all(0 <= seed < 2**64 for seed in seeds)


def test_wrong_sets(prompts, tmp_path):
    with pytest.raises(ValueError, match=r"unknown layout 'genevall'; did you mean 'geneval'"):
        DrawingSet(prompts=prompts, layout="genevall")
    with pytest.raises(ValueError, match="n and batch_size must be at least 1"):
        DrawingSet(prompts=prompts, layout="flat", n=0)
    with pytest.raises(ValueError, match="temperature"):
        DrawingSet(prompts=prompts, layout="flat", temperature=-1.0)
    for layout, expected in (("geneval", "GenEval's"), ("flat", "a text file"), ("dpg", "DPG")):
        with pytest.raises(ValueError, match=f"does not exist: expected {expected}"):
            DrawingSet(prompts=tmp_path / "none", layout=layout).check()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no \.txt files"):
        DrawingSet(prompts=tmp_path / "empty", layout="dpg").check()
    (tmp_path / "x.csv").write_text("id\n1\n")
    with pytest.raises(ValueError, match="has no columns item_id and text"):
        DrawingSet(prompts=tmp_path / "x.csv", layout="dpg").check()
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ValueError, match="is empty: expected a text file"):
        DrawingSet(prompts=tmp_path / "x.txt", layout="flat").check()
