"""New captions for shards and tables."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from openjanus.cli import main
from openjanus.data.files.captions import CaptionFile
from openjanus.data.files.parquet import ParquetFile
from openjanus.data.files.tar import TarShards
from openjanus.train.recaption import recaption


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1_000_000_007, 0o640
            archive.addfile(info, io.BytesIO(data))
    return path


class Teller:
    """Answers with the red of the picture, and says nothing of one without."""

    def __init__(self, stop_at: int = -1):
        self.asked: list[int] = []
        self.stop_at = stop_at

    def chat(self, prompt, *, images, max_new_tokens):
        red = int(images[0][0, 0, 0])
        if red == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(red)
        return SimpleNamespace(text=f" rouge é {red} " if red else " ")


def tell_anew(teller: Any, source, output, **changes):
    told: list[str] = []
    options: dict[str, Any] = {"prompt": "?", "max_new_tokens": 4, "name": "t"} | changes
    return recaption(teller, source, output, tell=told.append, **options), told


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "in").mkdir()
    long = "ä" * 120
    both = {"caption": "of json", "id": 3}
    write_tar(
        tmp_path / "in" / "0.tar",
        [
            ("a/1.png", picture(1)),
            ("a/1.txt", b"\xef\xbb\xbfone\n"),
            ("a/1.seg.txt", b"seg"),
            ("a/2.json", '{"id": 2, "caption": "zwö"}'.encode("utf-8-sig")),
            ("a/2.png", picture(2)),
            ("a/3.txt", b"three"),
            ("a/3.json", json.dumps(both).encode()),
            ("a/3.png", picture(3)),
        ],
    )
    write_tar(
        tmp_path / "in" / "1.tar",
        [
            ("4.png", b"no picture"),
            ("4.txt", b"four"),
            (f"{long}.png", picture(5)),
            (f"{long}.txt", b"five"),
            ("6.png", picture(0)),
            ("6.txt", b"six"),
        ],
    )
    return tmp_path / "in"


def contents(path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member)) for member in archive]
        assert {(int(m.mtime), m.mode) for m, _ in members} == {(1_000_000_007, 0o640)}
        return {member.name: file.read() for member, file in members if file is not None}


def test_a_shards_captions_are_replaced_and_kept_beside(shards, tmp_path, capsys):
    source, output = TarShards(path=str(shards), face="gen"), tmp_path / "told"
    counts, told = tell_anew(Teller(), source, output)
    assert counts == {"done": 6, "written": 4, "broken": 2, "files": 2}
    assert told[0].startswith("not captioned: 1.tar:4: the picture is not a picture")
    assert told[1] == "not captioned: 1.tar:6: the model says nothing of it: ask in other words"
    first, was = contents(output / "0.tar"), contents(shards / "0.tar")
    assert first.pop("a/1.txt") == "rouge é 1".encode()
    assert first.pop("a/1.caption_before.txt") == was.pop("a/1.txt")
    told_json = {"id": 2, "caption": "rouge é 2", "caption_before": "zwö"}
    assert json.loads(first.pop("a/2.json")) == told_json
    was.pop("a/2.json")
    assert first.pop("a/3.txt") == "rouge é 3".encode()
    assert first.pop("a/3.caption_before.txt") == was.pop("a/3.txt")
    assert first == was  # pictures, and all else
    lint = ["data", "lint", "webdataset", "--model", "tiny", "--set", "face=gen"]
    assert main([*lint, "--set", f"path={output}"]) == 0
    captions = [sample.turns[0].text for sample in TarShards(path=str(output), face="und")]
    assert len(captions) == 4
    # Told once more, the captions before are those of the first telling, once.
    again = tmp_path / "again"
    tell_anew(Teller(), TarShards(path=str(output), face="gen"), again)
    names = list(contents(again / "0.tar"))
    assert names == list(contents(output / "0.tar")) and len(set(names)) == len(names)
    assert contents(again / "0.tar")["a/1.caption_before.txt"] == "rouge é 1".encode()
    assert main([*lint, "--set", f"path={again}"]) == 0


@pytest.fixture
def tables(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "in").mkdir()
    for number in range(2):
        values = [1, 2, 3] if number == 0 else [0]  # of the second file nothing can be told
        table = pa.table(
            {
                "text": pa.array([f"t{value}" for value in values], pa.large_string()),
                "image": [picture(value) if value != 2 else b"no" for value in values],
                "more": [{"a": value} for value in values],
            }
        ).replace_schema_metadata({"of": "us"})
        pq.write_table(table, tmp_path / "in" / f"{number}.parquet", row_group_size=2)
    return tmp_path / "in"


def test_a_tables_captions_are_replaced_and_kept_beside(tables, tmp_path):
    import pyarrow.parquet as pq

    options: dict[str, Any] = {"face": "gen", "caption_key": "text"}
    source, output = ParquetFile(path=str(tables), **options), tmp_path / "told"
    counts, told = tell_anew(Teller(), source, output)
    assert counts == {"done": 4, "written": 2, "broken": 2, "files": 2}
    assert [line.split(": ")[1] for line in told] == ["0.parquet:1", "1.parquet:0"]
    was, table = pq.read_table(tables / "0.parquet"), pq.read_table(output / "0.parquet")
    assert table.column_names == ["text", "image", "more", "caption_before"]
    assert table.column("text").to_pylist() == ["rouge é 1", "rouge é 3"]
    assert table.column("caption_before").to_pylist() == ["t1", "t3"]
    assert table.schema.remove(3).equals(was.schema, check_metadata=True)
    assert table.select(["image", "more"]).equals(was.select(["image", "more"]).take([0, 2]))
    # Files of which nothing is left still have the columns of the others.
    assert pq.read_schema(output / "1.parquet").equals(table.schema, check_metadata=True)
    lint = ["data", "lint", "parquet", "--model", "tiny", "--set", "face=gen"]
    assert main([*lint, "--set", "caption_key=text", "--set", f"path={output}"]) == 0
    again = tmp_path / "again"
    tell_anew(Teller(), ParquetFile(path=str(output), **options), again)
    told_again = pq.read_table(again / "0.parquet")
    assert told_again.schema.equals(table.schema, check_metadata=True)
    assert told_again.column("caption_before").to_pylist() == ["rouge é 1", "rouge é 3"]
    before = ParquetFile(path=str(output), face="gen", caption_key="caption_before")
    with pytest.raises(ValueError, match="caption_key is 'caption_before', where old captions"):
        tell_anew(Teller(), before, tmp_path / "no")
    assert not list(tmp_path.glob("no*"))


def test_captioning_that_was_stopped_goes_on_and_only_as_it_was_begun(shards, tmp_path):
    source, output = TarShards(path=str(shards), face="gen"), tmp_path / "told"
    counts, _ = tell_anew(Teller(), source, output, limit=2)
    assert counts == {"done": 2, "written": 2, "broken": 0, "files": 0} and not output.exists()
    with pytest.raises(KeyboardInterrupt):
        tell_anew(Teller(stop_at=5), source, output)
    counts, _ = tell_anew(Teller(), source, output, limit=1)
    assert counts == {"done": 5, "written": 4, "broken": 1, "files": 1}
    assert [path.name for path in output.iterdir()] == ["0.tar"]
    last = Teller()
    counts, _ = tell_anew(last, source, output)
    assert counts == {"done": 6, "written": 4, "broken": 2, "files": 2} and last.asked == [0]
    tell_anew(Teller(), source, tmp_path / "whole")
    for name in ("0.tar", "1.tar"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for change in ({"prompt": "!"}, {"name": "u"}, {"max_new_tokens": 5}):
        which = {"name": "model"}.get(next(iter(change)), next(iter(change)))
        with pytest.raises(ValueError, match=f"begun with another {which}: delete it"):
            tell_anew(Teller(), source, output, **change)
    with pytest.raises(ValueError, match="would be one of the files that are read"):
        tell_anew(Teller(), source, shards)


KILLED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from openjanus.data.files.tar import TarShards
from openjanus.train.recaption import recaption

class Teller:
    asked = 0
    def chat(self, prompt, *, images, max_new_tokens):
        self.asked += 1
        if self.asked == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return SimpleNamespace(text=f"rouge é {images[0][0, 0, 0]}")

source = TarShards(path=sys.argv[1], face="gen")
recaption(Teller(), source, Path(sys.argv[2]), prompt="?", max_new_tokens=4, name="t", tell=print)
"""


def test_a_kill_loses_no_caption(shards, tmp_path):
    """Three captions and a broken picture are written down when the fourth is asked for."""
    output = tmp_path / "told"
    command = [sys.executable, "-c", KILLED, str(shards), str(output)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not output.exists()
    rest = Teller()
    tell_anew(rest, TarShards(path=str(shards), face="gen"), output)
    assert rest.asked == [5, 0]
    tell_anew(Teller(), TarShards(path=str(shards), face="gen"), tmp_path / "whole")
    for name in ("0.tar", "1.tar"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_has_no_caption_yet_gets_one(tmp_path):
    members = [("1.png", picture(1)), ("2.PNG", picture(2)), ("2.cls", b"7")]
    members += [("3.png", picture(3)), ("3.json", b'{"id": 3}'), ("4.png", picture(4))]
    members += [("4.json", b'{"id": 4, "caption": null}'), ("5.png", picture(5)), ("5.json", b"{")]
    path, output = write_tar(tmp_path / "a.tar", members), tmp_path / "b.tar"
    counts, told = tell_anew(Teller(), TarShards(path=str(path), face="gen"), output)
    assert counts == {"done": 5, "written": 4, "broken": 1, "files": 1}
    assert [line[: line.index(" (")] for line in told] == [
        "not captioned: a.tar:5: its .json is not valid"
    ]
    found = contents(output)
    assert found.pop("1.txt") == "rouge é 1".encode() and found.pop("2.txt") == "rouge é 2".encode()
    for number in (3, 4):
        record = json.loads(found.pop(f"{number}.json"))
        assert record == {"id": number, "caption": f"rouge é {number}"}
    was = dict(members)
    assert found == {name: was[name] for name in ("1.png", "2.PNG", "2.cls", "3.png", "4.png")}
    texts = [sample.turns[0].text for sample in TarShards(path=str(output), face="gen")]
    assert texts == [f"rouge é {number}" for number in range(1, 5)]


def test_a_line_without_a_caption_gets_one(tmp_path):
    (tmp_path / "1.png").write_bytes(picture(1))
    lines = [{"image": "1.png"}, {"image": "1.png", "caption": None}, {"caption": "no picture"}]
    path, output = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, told = tell_anew(Teller(), CaptionFile(path=str(path), face="gen"), output)
    assert len(told) == 1 and told[0].startswith("not captioned: a.jsonl:3: no 'image' in it")
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert written[:2] == [{"image": "1.png", "caption": "rouge é 1"}] * 2
    assert set(written[2]) == {"caption", "error"}


@pytest.mark.parametrize("kind", ["string", "string_view", "null"])
def test_missing_captions_of_a_table_are_filled(tmp_path, kind):
    """A column of views, too, which pyarrow cannot filter."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    before = [None] * 4 if kind == "null" else ["one", None, "broken", None]
    images = [picture(1), picture(2), b"no", picture(4)]
    captions = pa.array(before, getattr(pa, kind)())
    table = pa.table({"image": pa.array(images, pa.binary()), "caption": captions})
    path, output = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(table, path)
    counts, _ = tell_anew(Teller(), ParquetFile(path=str(path), face="gen"), output)
    assert counts == {"done": 4, "written": 3, "broken": 1, "files": 1}
    written = pq.read_table(output)
    assert written.column("caption").to_pylist() == [f"rouge é {red}" for red in (1, 2, 4)]
    assert written.column("caption_before").to_pylist() == [before[0], None, None]
    wanted = pa.string() if kind == "null" else captions.type
    assert written.schema.types == [pa.binary(), wanted, wanted]


def test_a_column_that_can_hold_no_caption_is_told(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [picture(1)], "caption": pa.array([None], pa.int8())}), path)
    source = ParquetFile(path=str(path), face="gen")
    counts, told = tell_anew(Teller(), source, tmp_path / "b.parquet")
    assert counts["broken"] == 1
    (line,) = told
    assert "a.parquet:0: 'caption' must be a column of texts, got int8: name another by" in line
