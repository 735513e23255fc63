"""Lint, the page of samples, and the jobs that write a file item by item."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from openjanus.data.files.captions import CaptionFile
from openjanus.data.files.chat import ChatFile
from openjanus.data.files.text import TextFiles
from openjanus.data.journal import write_each
from openjanus.data.lint import describe, histogram, lint
from openjanus.data.page import sample_page
from openjanus.data.samples import DRAW_MARK, IMAGE_MARK, Sample, Turn
from openjanus.data.select import Rules, filter_source, find_score
from openjanus.data.toy import ToyScenes


def talk(question, answer, **others):
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": said, **others}


@pytest.fixture
def chat(tmp_path):
    """A good line of each kind, a missing picture, a mark too many, and a long one."""
    Image.new("RGB", (6, 4), (200, 30, 30)).save(tmp_path / "red.png")
    records = [
        talk("<image>?", "Red.", images=["red.png"]),
        {"messages": [{"role": "user", "content": "red"}], "target_image": "red.png"},
        talk("Hi <b>", "Yö."),
        talk("<image>?", "Red.", images=["gone.png"]),
        talk("<image><image>?", "Red.", images=["red.png"]),
        talk("x" * 300, "y"),
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return ChatFile(path=str(path))


def test_lint_counts_and_names(chat, processor):
    report = lint(chat, processor, max_length=200)
    assert dict(report.kinds) == {"und": 1, "gen": 1, "text": 2}
    assert [line.partition(": ")[0] for line in report.broken] == ["chat.jsonl:5"]
    assert [line.partition(": ")[0] for line in report.missing] == ["chat.jsonl:4"]
    assert [key for key, _ in report.too_long] == ["chat.jsonl:6"]
    assert len(report.lengths) == 4 and not report.is_clean
    text = describe(report, max_length=200)
    for part in ("4 samples: 1 und, 2 text, 1 gen", "missing files: 1", "chat.jsonl:6: 3"):
        assert part in text


def test_lint_of_what_is_whole_is_clean(processor):
    report = lint(ToyScenes(kind="und", length=5), processor, max_length=200)
    assert report.is_clean and report.kinds["und"] == 5
    assert not lint(ToyScenes(kind="und", length=5), processor, max_length=9).is_clean
    assert len(lint(ToyScenes(kind="und"), processor, max_length=200, limit=3).lengths) == 3


def test_lint_holds_a_source_to_its_kind(chat, processor):
    report = lint(chat, processor, max_length=999, kind="und")
    assert dict(report.kinds) == {"und": 1}
    assert any("add the option face: und" in line for line in report.broken)


def test_a_histogram_counts_every_length():
    lines = histogram([5, 5, 5, 6, 104])
    assert [int(line.split()[1]) for line in lines] == [4, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert lines[0].count("#") == 40 and lines[-1].count("#") == 10 and "#" not in lines[1]
    assert len(histogram([7])) == 1


def test_the_page_shows_what_the_model_sees(chat, processor):
    page = sample_page([chat[0], chat[1], chat[2], "a & b is broken"], processor, title="t<")
    assert "<title>t&lt;</title>" in page and "a &amp; b is broken" in page
    assert "<b>" not in page and "http" not in page
    assert page.count("[16 slots]") == 1 and page.count("[16 ids]") == 1
    learnt = "".join(re.findall(r'<span class="learnt">([^<]*)</span>', page.split("</p>", 1)[1]))
    eos = processor.config.processor.eos_token.replace("<", "&lt;").replace(">", "&gt;")
    assert learnt == f" Red.{eos} Yö.{eos}"
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    ]
    assert [picture.size for picture in pictures] == [(32, 32), (32, 32)]
    # Understood: padded to a square. Drawn: cropped to one.
    assert pictures[0].getpixel((0, 0)) == (127, 127, 127)
    assert pictures[1].getpixel((0, 0)) == (200, 30, 30)


def test_the_page_shows_hidden_prompts_and_documents(chat, processor):
    hidden = sample_page([chat[1]], processor, title="t", drop_condition=True)
    assert re.search(r'class="pad">\[\d+ pads\]', hidden)
    picture = np.zeros((4, 4, 3), np.uint8)
    document = Sample(
        key="k",
        kind="gen",
        turns=(Turn(role="assistant", text=f"a {IMAGE_MARK} b {DRAW_MARK}{DRAW_MARK} c"),),
        images=(picture,),
        targets=(picture, picture),
        form="plain",
    )
    page = sample_page([document], processor, title="t")
    assert page.count("[16 ids]") == 2 and page.count("[16 slots]") == 1
    assert page.count("<img") == 3
    with_starts = sample_page([document], processor, title="t", learn_image_start=True)
    learnt = [int(re.findall(r"(\d+) learnt", text)[0]) for text in (page, with_starts)]
    assert learnt[1] == learnt[0] + 2
    alone = sample_page([document], processor, title="t", drop_condition=True)
    # "a ", a picture between its edges, and " b ".
    assert alone.count("[16 ids]") == 1 and alone.count("[23 pads]") == 1
    assert alone.count("<img") == 1 and "16 learnt" in alone


def test_a_job_that_was_stopped_gives_the_same_file(tmp_path):
    def make(index):
        return None if index % 3 == 0 else {"n": index, "ü": "é"}

    def stopping(index):
        if index == 5:
            raise KeyboardInterrupt
        return make(index)

    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert write_each(whole, 10, make, job={"a": 1}) == {"done": 10, "written": 6}
    with pytest.raises(KeyboardInterrupt):
        write_each(parts, 10, stopping, job={"a": 1})
    with parts.open("ab") as file:
        file.write(b'{"n": half a li')  # what a kill left
    assert write_each(parts, 10, make, job={"a": 1}, limit=2) == {"done": 7, "written": 4}
    assert write_each(parts, 10, make, job={"a": 1}) == {"done": 10, "written": 6}
    assert parts.read_bytes() == whole.read_bytes()
    with pytest.raises(ValueError, match="begun with another a: delete it"):
        write_each(parts, 10, make, job={"a": 2})


def test_a_file_of_someone_else_is_left_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("precious")
    with pytest.raises(ValueError, match="is there already"):
        write_each(path, 1, lambda index: {}, job={})
    assert path.read_text() == "precious"


def test_a_job_that_was_killed_before_it_noted_an_item_goes_on(tmp_path):
    """A kill leaves what lies on the disk while an item is made."""

    def make(index):
        if index == 2:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")
        return {"n": index}

    write_each(tmp_path / "whole" / "a.jsonl", 5, make, job={})
    path = tmp_path / "killed" / "a.jsonl"
    assert write_each(path, 5, lambda index: {"n": index}, job={}) == {"done": 5, "written": 5}
    assert path.read_bytes() == (tmp_path / "whole" / "a.jsonl").read_bytes()


def test_a_second_process_at_a_file_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"

    def make(index):
        with pytest.raises(ValueError, match=r"another process writes .*a\.jsonl: wait for it"):
            write_each(path, 3, lambda index: {"n": -index}, job={})
        return {"n": index}

    assert write_each(path, 3, make, job={}) == {"done": 3, "written": 3}
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [0, 1, 2]


@pytest.fixture
def captions(tmp_path):
    sizes = {"wide": (90, 30), "small": (8, 8), "good": (40, 30)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    records = [{"image": f"{n}.png", "caption": n, "id": 7} for n in (*sizes, "gone")]
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return CaptionFile(path=str(path), face="gen")


def kept(captions, path, **rules):
    told = []
    counts = filter_source(captions, Rules(**rules), path, tell=told.append)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert counts == {"done": 4, "written": len(lines)}
    (line,) = told
    assert line.startswith(f"left out: captions.jsonl:4: no picture at {path.parent}/gone.png")
    return lines


def test_filter_keeps_records_by_size_shape_and_score(captions, tmp_path, monkeypatch):
    scores = ModuleType("scores")
    scores.length = lambda sample: len(sample.turns[0].text)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "scores", scores)
    good = {"image": "good.png", "caption": "good", "id": 7}
    assert kept(captions, tmp_path / "1.jsonl", min_side=20, max_aspect=2) == [good]
    names = [r["caption"] for r in kept(captions, tmp_path / "2.jsonl", min_side=30)]
    assert names == ["wide", "good"]
    scored = kept(captions, tmp_path / "3.jsonl", score="scores:length", min_score=5)
    assert [record["caption"] for record in scored] == ["small"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("length", "named module:function"),
        ("no_such_module:f", "no score 'no_such_module:f'"),
        ("json:no_such", "no score 'json:no_such'"),
        ("json:__name__", "is no function, but a str"),
    ],
)
def test_what_is_no_score_is_told(name, says):
    with pytest.raises(ValueError, match=says):
        find_score(name)


def test_a_format_without_records_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    source = TextFiles(path=str(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match=r"a\.txt:1: samples of this format are no lines"):
        filter_source(source, Rules(), tmp_path / "out.jsonl", tell=print)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_job_whose_output_is_gone_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    write_each(path, 9, lambda index: {"n": index}, job={}, limit=5)
    whole = path.read_bytes()
    for left in (whole[:-1], None):
        path.unlink() if left is None else path.write_bytes(left)
        with pytest.raises(ValueError, match=r"of the 45 that a\.jsonl\.job\.json tells of"):
            write_each(path, 9, lambda index: {"n": index}, job={})
        assert path.exists() == (left is not None)


def test_a_score_that_fails_is_named_and_one_that_is_nan_leaves_its_sample_out(
    captions, tmp_path, monkeypatch
):
    scores = ModuleType("scores")
    scores.none = lambda sample: None  # pyright: ignore[reportAttributeAccessIssue]
    scores.fails = lambda sample: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
    scores.nan = lambda sample: float("nan")  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "scores", scores)
    for name, says in (("none", "TypeError"), ("fails", "ZeroDivisionError")):
        rules = Rules(score=f"scores:{name}")
        with pytest.raises(ValueError, match=rf"no number for captions\.jsonl:1 \({says}: "):
            filter_source(captions, rules, tmp_path / f"{name}.jsonl", tell=print)
    told = []
    rules = Rules(score="scores:nan")
    counts = filter_source(captions, rules, tmp_path / "nan.jsonl", tell=told.append)
    assert counts == {"done": 4, "written": 0}
    assert told[0] == "left out: captions.jsonl:1: score 'scores:nan' is not a number (NaN)"
