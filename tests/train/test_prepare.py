"""What prepares data with a model: new captions, and ids before a run."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from openjanus.data.encoding import with_image_ids
from openjanus.data.files.captions import CaptionFile
from openjanus.data.files.documents import DocumentFile
from openjanus.train.encode_images import encode_images
from openjanus.train.recaption import recaption
from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.trainer import JanusTrainer


@pytest.fixture
def captions(tmp_path):
    for name, colour in (("a", (200, 30, 30)), ("b", (30, 30, 200))):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
    path = tmp_path / "captions.jsonl"
    records = [{"image": f"{n}.png", "caption": n, "id": n} for n in ("a", "gone", "b")]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


class Teller:
    """Answers with the colour of the picture and how often it was asked."""

    def __init__(self):
        self.asked = 0

    def chat(self, prompt, *, images, max_new_tokens):
        self.asked += 1
        return SimpleNamespace(text=f" {images[0][0, 0].tolist()} ")


def test_captions_are_made_anew_and_nothing_is_lost(captions, tmp_path):
    source, output, told = CaptionFile(path=str(captions), face="und"), tmp_path / "out.jsonl", []
    teller: Any = Teller()
    options: dict[str, Any] = {
        "prompt": "?",
        "max_new_tokens": 4,
        "name": "teller",
        "tell": told.append,
    }
    first = recaption(teller, source, output, limit=1, **options)
    assert first == {"done": 1, "written": 1}
    rest = recaption(teller, source, output, **options)
    assert rest == {"done": 3, "written": 3} and teller.asked == 2
    a, gone, b = [json.loads(line) for line in output.read_text().splitlines()]
    assert a == {"image": "a.png", "caption": "[200, 30, 30]", "id": "a", "caption_before": "a"}
    assert b["caption"] == "[30, 30, 200]"
    assert (gone["caption"], gone["id"]) == ("gone", "gone")
    assert "no picture at" in gone["error"] and len(told) == 1
    options["prompt"] = "!"
    with pytest.raises(ValueError, match="begun with another prompt"):
        recaption(teller, source, output, **options)


@pytest.mark.parametrize("changes", [{"prompt": " "}, {"max_new_tokens": 0}, {"limit": -3}])
def test_options_of_no_use_are_refused_before_anything_is_written(captions, tmp_path, changes):
    source, output = CaptionFile(path=str(captions), face="und"), tmp_path / "out.jsonl"
    teller: Any = Teller()
    options: dict[str, Any] = {"prompt": "?", "max_new_tokens": 4, "limit": 1} | changes
    with pytest.raises(ValueError, match=f"^{next(iter(changes))} "):
        recaption(teller, source, output, name="teller", tell=print, **options)
    assert not output.exists()


def test_ids_made_before_a_run_are_those_it_finds(captions, make_config, tmp_path, monkeypatch):
    options = {"path": str(captions), "face": "gen"}
    config = make_config(
        sources=SourcesConfig(gen=[SourceConfig(type="caption-jsonl", options=options)]),
        ratio=(0, 0, 1),
        held_back=1,
        id_cache=str(tmp_path / "ids"),
    )
    encoded = counted(monkeypatch)
    told: list[str] = []
    assert encode_images(config, tell=told.append) == {"encoded": 2, "broken": 1}
    assert encoded == [2]
    assert told[0].startswith("not encoded: gen source 0 item 1: ValueError: captions.jsonl:2: no ")
    encode_images(config, tell=told.append)
    assert encoded == [2]  # all are known
    # Another picture under the same name: the list of pictures is as it was.
    Image.new("RGB", (32, 32), (30, 200, 30)).save(tmp_path / "a.png")
    encode_images(config, tell=told.append)
    assert encoded == [2, 1]
    # An edited list has a cache of its own.
    with captions.open("a") as file:
        file.write(json.dumps({"image": "b.png", "caption": "more"}) + "\n")
    assert encode_images(config, tell=told.append)["encoded"] == 3
    assert len(list((tmp_path / "ids").iterdir())) == 2


def test_workers_read_what_one_process_reads_and_go_on(make_config, tmp_path, monkeypatch):
    """More pictures than are encoded at once, some of them broken; a job is stopped between."""
    records = []
    for number in range(40):
        Image.new("RGB", (32, 32), (6 * number, 90, 30)).save(tmp_path / f"{number}.png")
        records.append({"image": f"{number}.png", "caption": "c"})
    for number in (3, 17, 33):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    options = {"path": str(tmp_path / "many.jsonl"), "face": "gen"}

    def config(folder, workers):
        return make_config(
            sources=SourcesConfig(gen=[SourceConfig(type="caption-jsonl", options=options)]),
            ratio=(0, 0, 1),
            held_back=1,
            id_cache=str(tmp_path / folder),
            num_workers=workers,
        )

    encoded, told = counted(monkeypatch), {0: [], 2: []}
    assert encode_images(config("ids0", 0), tell=told[0].append) == {"encoded": 37, "broken": 3}
    assert encoded == [15, 15, 7]  # of 16, 16 and 8
    with monkeypatch.context() as stopped:
        fill = JanusTrainer.fill

        def stopping(self, step):
            if len(encoded) > 3:
                raise KeyboardInterrupt
            fill(self, step)

        stopped.setattr(JanusTrainer, "fill", stopping)
        with pytest.raises(KeyboardInterrupt):
            encode_images(config("ids2", 0), tell=lambda line: None)
    assert encode_images(config("ids2", 2), tell=told[2].append) == {"encoded": 37, "broken": 3}
    assert encoded == [15, 15, 7, 15, 15, 7]
    assert told[0] == told[2]
    assert [line.split(": ")[3] for line in told[2]] == [f"many.jsonl:{n}" for n in (4, 18, 34)]
    one, other = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (tmp_path / "ids0", tmp_path / "ids2")
    ]
    assert one == other and {path.name for path in one} == {"cache.json", "ids.npy", "stamps.npy"}


def test_ids_are_made_where_the_run_says(captions, make_config, tmp_path, monkeypatch):
    options = {"path": str(captions), "face": "gen"}
    config = make_config(
        sources=SourcesConfig(gen=[SourceConfig(type="caption-jsonl", options=options)]),
        ratio=(0, 0, 1),
        held_back=1,
        id_cache=str(tmp_path / "ids"),
        device="nowhere",
    )
    with pytest.raises(ValueError, match="nowhere"):
        encode_images(config, tell=print)


def counted(monkeypatch):
    """How many pictures each call of the tokenizer was given, from now on."""
    encoded: list[int] = []
    made = JanusTrainer.encode_images

    def counting(self, pixel_values):
        encoded.append(len(pixel_values))
        return made(self, pixel_values)

    monkeypatch.setattr(JanusTrainer, "encode_images", counting)
    return encoded


@pytest.fixture
def documents(tmp_path):
    """Documents that draw two pictures, one, and one that is not there."""
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 30, 30)).save(tmp_path / f"{number}.png")
    path = tmp_path / "documents.jsonl"
    records = []
    for names in (("0", "1"), ("2",), ("gone", "0")):
        parts: list[dict[str, str]] = []
        for name in names:
            parts.append({"type": "text", "text": f"then {name} "})
            parts.append({"type": "target_image", "target_image": f"{name}.png"})
        records.append({"parts": parts})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def document_run(documents, make_config, tmp_path):
    options = {"path": str(documents), "face": "gen"}
    return make_config(
        sources=SourcesConfig(gen=[SourceConfig(type="document-jsonl", options=options)]),
        ratio=(0, 0, 1),
        held_back=1,
        cond_drop=0.5,
        batch_size=8,
        id_cache=str(tmp_path / "ids"),
    )


def test_ids_of_every_picture_of_a_document_are_kept(document_run, tmp_path, monkeypatch):
    encoded, told = counted(monkeypatch), []
    assert encode_images(document_run, tell=told.append) == {"encoded": 3, "broken": 1}
    assert encoded == [3] and "documents.jsonl:3: no picture at" in told[0]
    encode_images(document_run, tell=told.append)
    assert encoded == [3]
    # One picture is another: that of its neighbour in the document is known still.
    Image.new("RGB", (32, 32), (30, 200, 30)).save(tmp_path / "1.png")
    encode_images(document_run, tell=told.append)
    assert encoded == [3, 1]


def test_a_run_finds_the_ids_of_whole_and_dropped_documents(
    document_run, make_trainer, monkeypatch
):
    encode_images(document_run, tell=lambda line: None)
    encoded = counted(monkeypatch)
    trainer = make_trainer(document_run)
    steps = [trainer.stream.step(step) for step in range(4)]
    assert {len(s.drawings) for step in steps for s in step.samples} == {1, 2}
    assert {s.picture for step in steps for s in step.samples if s.gen_start is not None} == {0, 1}
    filled = [sample for step in steps for sample in trainer._ids.put_in(step)]
    assert encoded == []
    # They are the ids that the pictures have.
    pictures = [s for step in steps for s in step.samples]
    fresh = with_image_ids(pictures, trainer.processor, trainer.encode_images)
    for kept, made in zip(filled, fresh, strict=True):
        for (_, one), (_, other) in zip(kept.drawings, made.drawings, strict=True):
            assert one is not None and other is not None and one.tolist() == other.tolist()


def test_a_source_that_does_not_say_how_many_it_draws_is_told(document_run, documents, monkeypatch):
    monkeypatch.delattr(DocumentFile, "num_drawn")
    told: list[str] = []
    assert encode_images(document_run, tell=told.append) == {"encoded": 1, "broken": 2}
    assert "give it num_drawn(index)" in told[0]
