"""Pictures with words: jsonl, folders, shards and tables."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tarfile

import numpy as np
import pytest

from openjanus.data.files.base import QUESTION
from openjanus.data.files.captions import CaptionFile, ImageFolder
from openjanus.data.files.parquet import ParquetFile
from openjanus.data.files.tar import TarShards
from openjanus.data.samples import IMAGE_MARK

RED, BLUE = (200, 30, 30), (30, 30, 200)
LINE = {"image": "red.png", "caption": "a réd thing"}


def said(sample):
    return [(turn.role, turn.text) for turn in sample.turns]


@pytest.mark.parametrize(
    ("face", "form", "expected"),
    [
        ("und", "chat", [("user", f"{IMAGE_MARK}\n{QUESTION}"), ("assistant", "a réd thing")]),
        ("und", "plain", [("assistant", f"{IMAGE_MARK}a réd thing")]),
        ("gen", "chat", [("user", "a réd thing")]),
        ("gen", "plain", [("assistant", "a réd thing")]),
    ],
)
def test_a_caption_serves_both_faces_in_both_forms(write_lines, pictures, face, form, expected):
    sample = CaptionFile(path=str(write_lines("a.jsonl", [LINE])), face=face, form=form)[0]
    assert (sample.kind, sample.form, said(sample)) == (face, form, expected)
    shown = sample.images[0] if face == "und" else sample.target
    assert shown is not None and (shown == RED).all()
    assert (sample.target is None) == (face == "und")


def test_keys_and_question_are_options(write_lines, pictures):
    path = str(write_lines("a.jsonl", [{"file": "blue.png", "text": "blue"}]))
    source = CaptionFile(
        path=path, face="und", image_key="file", caption_key="text", question="What?"
    )
    assert said(source[0])[0] == (
        "user",
        f"{IMAGE_MARK}\nWhat?",
    )


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"image": "red.png"}, r"no 'caption' in it, only \['image'\]"),
        ({"caption": "a"}, "no 'image' in it"),
        ({"image": "red.png", "caption": ["a", "b"]}, "'caption' must be a text, got list"),
        ({"image": "red.png", "caption": " "}, "the caption is empty"),
        ({"image": "gone.png", "caption": "a"}, r"no picture at .*gone\.png"),
    ],
)
def test_broken_lines_are_named(write_lines, pictures, record, says):
    source = CaptionFile(path=str(write_lines("a.jsonl", [LINE, record])), face="gen")
    with pytest.raises(ValueError, match=rf"^a\.jsonl:2: {says}"):
        source[1]


def test_a_face_without_pictures_is_refused(write_lines):
    with pytest.raises(ValueError, match=r"face must be und .* got 'text'"):
        CaptionFile(path=str(write_lines("a.jsonl", [LINE])), face="text")


@pytest.fixture
def classes(tmp_path, picture_bytes):
    for name, colour in (("tree_frog", RED), ("owl", BLUE)):
        folder = tmp_path / "classes" / name
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(picture_bytes(colour))
        (folder / "notes.txt").write_text("no picture")
    return tmp_path / "classes"


def test_a_folder_of_classes_is_names_and_pictures(classes, tmp_path):
    source = ImageFolder(path=str(classes))
    assert [source.key(i) for i in range(len(source))] == ["owl/1.png", "tree_frog/1.png"]
    frog = source[1]
    assert (frog.kind, frog.form, said(frog)) == ("gen", "plain", [("assistant", "tree frog")])
    assert frog.target is not None and (frog.target == RED).all()
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"owl": "barn owl", "tree_frog": "frog"}))
    named = ImageFolder(path=str(classes), face="und", form="chat", names=str(names))
    assert said(named[0])[1] == ("assistant", "barn owl")
    assert named.fingerprint() != source.fingerprint()


def test_folders_that_are_no_classes_are_told(classes, tmp_path, picture_bytes):
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"owl": "barn owl"}))
    with pytest.raises(ValueError, match="no name for the class 'tree_frog'"):
        ImageFolder(path=str(classes), names=str(names))
    (classes / "loose.png").write_bytes(picture_bytes())
    with pytest.raises(ValueError, match=r"loose\.png lies in no folder of a class"):
        ImageFolder(path=str(classes))
    with pytest.raises(FileNotFoundError, match="no folder at"):
        ImageFolder(path=str(tmp_path / "nowhere"))


def write_tar(path, members, *, compressed=False):
    with tarfile.open(path, "w:gz" if compressed else "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_shards_are_read_in_any_order(tmp_path, picture_bytes):
    long = "ä" * 120  # past the 100 bytes of a plain header
    write_tar(
        tmp_path / "0.tar",
        [
            ("a/1.jpg", picture_bytes(RED, kind="JPEG")),
            ("a/1.txt", "réd\n".encode()),
            (f"a/{long}.json", json.dumps({"caption": "blue"}).encode()),
            (f"a/{long}.webp", picture_bytes(BLUE, kind="WEBP", lossless=True)),
        ],
    )
    write_tar(
        tmp_path / "1.tar",
        [("1.png", picture_bytes(BLUE)), ("1.seg.txt", b"no"), ("1.txt", b"third")],
    )
    source = TarShards(path=str(tmp_path), face="gen")
    keys = ["0.tar:a/1", f"0.tar:a/{long}", "1.tar:1"]
    assert [source.key(i) for i in range(len(source))] == keys
    for index in (2, 0, 1):
        sample = source[index]
        assert sample.turns[0].text == ["réd", "blue", "third"][index]
        assert sample.target is not None
        wanted = np.asarray([RED, BLUE, BLUE][index])
        assert abs(sample.target.astype(int) - wanted).max() < 6


@pytest.mark.parametrize("name", ["1.txt", "1.json"])
def test_a_mark_of_byte_order_is_no_part_of_a_caption(tmp_path, picture_bytes, name):
    words = "réd" if name == "1.txt" else json.dumps({"caption": "réd"})
    members = [("1.png", picture_bytes()), (name, words.encode("utf-8-sig"))]
    source = TarShards(path=str(write_tar(tmp_path / "a.tar", members)), face="gen")
    assert said(source[0]) == [("user", "réd")]


def test_what_macos_adds_to_a_shard_is_passed_over(tmp_path, picture_bytes):
    members = [("a/1.png", picture_bytes()), ("a/1.txt", b"red")]
    added = [(f"a/._{name[2:]}", b"Mac OS X") for name, _ in members]
    both = [one for pair in zip(added, members, strict=True) for one in pair]
    source = TarShards(path=str(write_tar(tmp_path / "a.tar", both)), face="gen")
    assert [sample.key for sample in source] == ["a.tar:a/1"]


@pytest.mark.parametrize("keep", [0.5, 0.6, 0.9])
def test_a_cut_shard_gives_what_is_whole_and_names_the_cut(tmp_path, picture_bytes, keep):
    members = []
    for number in range(4):
        members += [(f"{number}.png", picture_bytes(RED)), (f"{number}.txt", b"red")]
    path = write_tar(tmp_path / "a.tar", members)
    # Each member is a header and a block of 512 bytes. A cut between two members, one in a
    # header and one in a block all end the archive without the empty blocks of a whole one.
    path.write_bytes(path.read_bytes()[: int(512 * 16 * keep)])
    source = TarShards(path=str(path), face="und")
    assert 1 < len(source) < 5
    for index in range(len(source) - 1):
        assert source[index].key == f"a.tar:{index}"
    with pytest.raises(ValueError, match=r"^a\.tar:cut at \d: the shard is cut here"):
        source[len(source) - 1]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("1.txt", b"words")], "it has no picture"),
        ([("1.png", None)], "neither .txt nor .json"),
        ([("1.png", None), ("1.txt", b"\xff")], "not UTF-8"),
        ([("1.png", None), ("1.json", b"{")], "not valid"),
        ([("1.png", None), ("1.json", b"[]")], "must be an object, got list"),
        ([("1.png", None), ("1.json", b'{"text": "a"}')], "no 'caption' in it"),
        ([("1.png", b"words"), ("1.txt", b"a")], "not a picture"),
    ],
)
def test_broken_members_are_named(tmp_path, picture_bytes, members, says):
    members = [(n, picture_bytes() if data is None else data) for n, data in members]
    source = TarShards(path=str(write_tar(tmp_path / "a.tar", members)), face="gen")
    with pytest.raises(ValueError, match=rf"^a\.tar:1: .*{says}"):
        source[0]


def test_a_compressed_shard_is_told(tmp_path, picture_bytes):
    path = write_tar(tmp_path / "a.tar", [("1.png", picture_bytes())], compressed=True)
    with pytest.raises(ValueError, match=r"a\.tar is no plain tar file .*unpack"):
        TarShards(path=str(path), face="gen")


def write_parquet(path, rows, group=2):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def test_parquet_rows_hold_bytes_or_paths(tmp_path, pictures):
    blue = (pictures / "blue.png").read_bytes()
    rows = [
        {"image": {"bytes": blue, "path": "x.png"}, "caption": f"c{i}", "more": i} for i in range(5)
    ]
    write_parquet(tmp_path / "a.parquet", rows)
    write_parquet(
        tmp_path / "b.parquet", [{"image": {"bytes": None, "path": "red.png"}, "caption": "d"}]
    )
    source = ParquetFile(path=str(tmp_path), face="gen")
    assert [source.key(i) for i in (0, 4, 5)] == ["a.parquet:0", "a.parquet:4", "b.parquet:0"]
    for source_ in (source, pickle.loads(pickle.dumps(source))):
        assert [source_[i].turns[0].text for i in (4, 0, 3, 5)] == ["c4", "c0", "c3", "d"]
    assert source[5].target is not None and (source[5].target == RED).all()
    assert source[4].target is not None and (source[4].target == BLUE).all()


def test_wrong_columns_and_files_of_parquet_are_told(tmp_path, pictures):
    path = write_parquet(tmp_path / "a.parquet", [{"image": b"words", "text": "a"}])
    with pytest.raises(ValueError, match=r"no column 'caption', only \['image', 'text'\]"):
        ParquetFile(path=str(path), face="und")
    with pytest.raises(ValueError, match=r"^a\.parquet:0: the picture is not a picture"):
        ParquetFile(path=str(path), face="und", caption_key="text")[0]
    (tmp_path / "b.parquet").write_text("words")
    with pytest.raises(ValueError, match=r"b\.parquet is a broken parquet file"):
        ParquetFile(path=str(tmp_path / "b.parquet"), face="und")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_text("")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'openjanus\[train\]'"):
        ParquetFile(path=str(tmp_path / "a.parquet"), face="und")
