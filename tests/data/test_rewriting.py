"""Shards and tables written anew: what is kept is as it was, and nothing half is left."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from openjanus.cli import main
from openjanus.data.files.parquet import ParquetFile
from openjanus.data.files.tar import TarShards, read_samples
from openjanus.data.select import Rules, filter_source

LONG = "ä" * 120  # past the 100 bytes of a plain header


def picture(side=32, value=0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (value, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members, kind=tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for number, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode, info.uid = len(data), 1e9 + number, 0o640, 7
            info.uname = "someone"
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path):
    """Two shards: small and broken pictures, and members that no source reads."""
    write_tar(
        tmp_path / "in" / "a" / "0.tar",
        [
            ("x/1.png", picture()),
            ("x/1.txt", b"one"),
            ("x/1.CLS", b"3"),
            ("x/2.png", picture(8)),
            ("x/2.txt", b"two"),
            (f"x/{LONG}.seg.npy", b"\0" * 700),
            (f"x/{LONG}.png", picture(40)),
            (f"x/{LONG}.txt", "dreï\n".encode()),
            ("x/4.png", picture()[:60]),
            ("x/4.txt", b"four"),
        ],
    )
    write_tar(
        tmp_path / "in" / "1.tar",
        [
            ("5.json", json.dumps({"caption": "five", "id": 5}).encode()),
            ("._5.png", b"Mac OS X"),
            ("5.png", picture(64)),
            ("6.png", picture(9)),
            ("6.txt", b"six"),
        ],
        tarfile.GNU_FORMAT,
    )
    return tmp_path / "in"


def raw_members(shard: Path) -> dict[str, bytes]:
    """Headers, contents and padding of all members of a shard's samples, by name."""
    data = shard.read_bytes()
    samples = [members for _, members in read_samples(shard)]
    return {
        member.info.name: data[member.info.offset : member.end]
        for members in samples
        for member in members or ()
    }


def lint(source: str, path: Path, *options: str) -> int:
    sets = [word for text in (f"path={path}", "face=gen", *options) for word in ("--set", text)]
    return main(["data", "lint", source, "--model", "tiny", *sets])


def test_shards_stay_shards_and_their_members_are_as_they_were(shards, tmp_path, capsys):
    output = tmp_path / "kept"
    command = ["data", "filter", "webdataset", "--set", f"path={shards}", "--set", "face=gen"]
    assert lint("webdataset", shards) == 1
    assert main([*command, "--min-side", "20", "--output", str(output)]) == 0
    said = capsys.readouterr()
    assert f"3 of 6 records kept, 1 broken: {output}" in said.out
    assert "left out: a/0.tar:x/4: the picture: the given picture is a broken" in said.err
    was = raw_members(shards / "a" / "0.tar")
    names = ["x/1.png", "x/1.txt", "x/1.CLS", f"x/{LONG}.seg.npy", f"x/{LONG}.png", f"x/{LONG}.txt"]
    kept = raw_members(output / "a" / "0.tar")
    assert list(kept) == names and kept == {name: was[name] for name in names}
    kept, was = raw_members(output / "1.tar"), raw_members(shards / "1.tar")
    assert kept == {name: was[name] for name in ("5.json", "5.png")}
    for shard in output.rglob("*.tar"):
        assert shard.stat().st_size % tarfile.RECORDSIZE == 0
    assert lint("webdataset", output) == 0
    source = TarShards(path=str(output), face="gen")
    assert [s.turns[0].text for s in source] == ["five", "one", "dreï"]
    assert sorted(path.name for path in output.rglob("*")) == ["0.tar", "1.tar", "a"]
    # What became of each is written down, the broken one too.
    items = [json.loads(line) for line in (tmp_path / "kept.items.jsonl").read_text().splitlines()]
    assert [item.get("kept") for item in items] == [True, False, True, False, True, None]
    assert items[-1]["key"] == "a/0.tar:x/4" and "the given picture" in items[-1]["error"]
    # The same command again finds all done, and tells the same count.
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")}
    assert main([*command, "--min-side", "20", "--output", str(output)]) == 0
    assert "3 of 6 records kept, 1 broken" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")}


def test_one_shard_may_become_one_file_and_what_is_cut_is_told(shards, tmp_path):
    path = shards / "a" / "0.tar"
    path.write_bytes(path.read_bytes()[:-11_000])
    source, told = TarShards(path=str(path), face="gen"), []
    output = tmp_path / "kept.tar"
    counts = filter_source(source, Rules(), output, tell=told.append)
    assert len(source) == 4 and counts == {"done": 4, "written": 3, "broken": 1, "files": 1}
    (line,) = told
    assert line.startswith("left out: 0.tar:cut at x/4: the shard is cut here, what follows is")
    assert lint("webdataset", output) == 0


def test_a_shard_of_which_nothing_is_kept_is_an_empty_one(shards, tmp_path):
    source = TarShards(path=str(shards / "*.tar"), face="gen")
    counts = filter_source(source, Rules(min_side=999), tmp_path / "kept", tell=print)
    assert counts == {"done": 2, "written": 0, "broken": 0, "files": 1}
    with tarfile.open(tmp_path / "kept" / "1.tar") as archive:
        assert archive.getnames() == []
    assert len(TarShards(path=str(tmp_path / "kept"), face="gen")) == 0


@pytest.fixture
def tables(tmp_path):
    """Two tables of several row groups, with columns of other types and notes on the schema."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sides = [32, 8, 33, 0, 34, 9, 8]
    rows = {
        "id": pa.array(range(7), pa.uint8()),
        "image": pa.array(
            [{"bytes": picture(s, n) if s else b"no", "path": None} for n, s in enumerate(sides)],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
        "caption": pa.array([f"c{n}" for n in range(7)]).dictionary_encode(),
        "tags": pa.array([["a", None], None, [], ["b"], ["c"], [], []], pa.list_(pa.string())),
    }
    schema = pa.schema(
        [pa.field(name, values.type, metadata={"of": name}) for name, values in rows.items()],
        metadata={"huggingface": "{}"},
    )
    table = pa.Table.from_arrays(list(rows.values()), schema=schema)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet", row_group_size=2)
    return tmp_path / "in"


def test_tables_stay_tables_of_their_schema(tables, tmp_path, capsys):
    import pyarrow.parquet as pq

    output = tmp_path / "kept"
    command = ["data", "filter", "parquet", "--set", f"path={tables}/*.parquet"]
    command += ["--set", "face=gen", "--min-side", "20", "--output", str(output)]
    assert main(command) == 0
    said = capsys.readouterr()
    assert f"6 of 14 records kept, 2 broken: {output}" in said.out
    assert "left out: a.parquet:3: the picture is not a picture" in said.err
    was = pq.read_table(tables / "a.parquet")
    for name in ("a", "b"):
        kept = pq.ParquetFile(output / f"{name}.parquet")
        assert kept.schema_arrow.equals(was.schema, check_metadata=True)
        assert kept.read().equals(was.take([0, 2, 4]))
        assert kept.num_row_groups == 3  # a row is read without all others
    assert lint("parquet", output) == 0


def test_a_table_that_is_broken_in_a_group_gives_the_others(tables, tmp_path):
    import pyarrow.parquet as pq

    path = tables / "a.parquet"
    place = pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 30] = b"\xff" * 30
    path.write_bytes(bytes(data))
    source, told = ParquetFile(path=str(path), face="gen"), []
    counts = filter_source(source, Rules(), tmp_path / "kept.parquet", tell=told.append)
    assert counts == {"done": 7, "written": 5, "broken": 2, "files": 1}
    assert [line.split(": ")[1] for line in told] == ["a.parquet:2", "a.parquet:3"]
    kept = pq.read_table(tmp_path / "kept.parquet")
    assert kept.column("id").to_pylist() == [0, 1, 4, 5, 6]
    assert lint("parquet", tmp_path / "kept.parquet") == 0


def test_a_job_that_was_stopped_goes_on(shards, tmp_path, monkeypatch):
    asked: list[str] = []
    scores = ModuleType("scores")

    def stopping(sample):
        asked.append(sample.key)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return sample.pictures[0].shape[0]

    scores.side = stopping  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "scores", scores)
    source, output = TarShards(path=str(shards), face="gen"), tmp_path / "kept"
    rules = Rules(score="scores:side", min_score=20)
    with pytest.raises(KeyboardInterrupt):
        filter_source(source, rules, output, tell=print)
    assert not output.exists()

    # Stopped again while the second file is written.
    rewrite = TarShards.rewrite

    def cut(self, number, changes, target, **options):
        rewrite(self, number, changes, target, **options)
        if number == 1:
            target.write_bytes(target.read_bytes()[:1000])
            assert not (output / "a" / "0.tar").exists()  # half a file has another name
            raise KeyboardInterrupt

    monkeypatch.setattr(TarShards, "rewrite", cut)
    with pytest.raises(KeyboardInterrupt):
        filter_source(source, rules, output, tell=print)
    assert len(asked) == len(set(asked)) + 1  # the one at which it was stopped
    assert [path.name for path in output.rglob("*.tar*")] == ["1.tar"]
    monkeypatch.setattr(TarShards, "rewrite", rewrite)
    (output / "a" / "0.tar.part").write_bytes(b"what a kill left")
    counts = filter_source(source, rules, output, tell=print)
    assert counts == {"done": 6, "written": 3, "broken": 1, "files": 2} and len(asked) == 6
    assert sorted(path.name for path in output.rglob("*")) == ["0.tar", "1.tar", "a"]
    whole = tmp_path / "whole"
    filter_source(source, Rules(min_side=20), whole, tell=print)
    for name in ("1.tar", "a/0.tar"):
        assert (whole / name).read_bytes() == (output / name).read_bytes()
    # A file that is lost is made again; other rules and other options are refused.
    (output / "1.tar").unlink()
    filter_source(source, rules, output, tell=print)
    assert (whole / "1.tar").read_bytes() == (output / "1.tar").read_bytes()
    with pytest.raises(ValueError, match="begun with another min_side: delete it"):
        filter_source(
            source, Rules(score="scores:side", min_score=20, min_side=3), output, tell=print
        )
    plain = TarShards(path=str(shards), face="gen", form="plain")
    with pytest.raises(ValueError, match="begun with another form: delete it"):
        filter_source(plain, rules, output, tell=print)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("in", "would be one of the files that are read"),
        ("in/kept", "would be one of the files that are read"),
        ("link/kept", "would be one of the files that are read"),
        ("kept.jsonl", r"from \.tar files is written as such, with their pictures: give a folder"),
        ("kept.parquet", r"a single file a name that ends with \.tar"),
        ("kept.tar", "is one file, for 2 that are read: name a folder"),
        ("taken", "is a file: name a folder"),
        ("full", r"full/1\.tar is there already, and not as this job wrote it"),
    ],
)
def test_outputs_of_no_use_are_refused_before_anything_is_written(shards, tmp_path, output, says):
    (tmp_path / "link").symlink_to(shards)
    (tmp_path / "taken").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "1.tar").write_text("precious")
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    source = TarShards(path=str(shards), face="gen")
    with pytest.raises(ValueError, match=says):
        filter_source(source, Rules(), tmp_path / output, tell=print)
    after = {path: path.stat() for path in tmp_path.rglob("*")}
    assert {path: stat.st_mtime_ns for path, stat in after.items()} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }


def test_beside_what_is_read_there_is_room(shards, tmp_path, monkeypatch):
    one = TarShards(path=str(shards / "1.tar"), face="gen")
    assert filter_source(one, Rules(), shards / "2.tar", tell=print)["written"] == 2
    with pytest.raises(ValueError, match="would be one of the files"):
        filter_source(one, Rules(), shards / "1.tar", tell=print)
    monkeypatch.chdir(shards)
    some = TarShards(path="1*.tar", face="gen")
    assert filter_source(some, Rules(), Path("kept"), tell=print)["written"] == 2
    with pytest.raises(ValueError, match="would be one of the files"):
        filter_source(some, Rules(), Path("13.tar"), tell=print)
    deep = TarShards(path="**/0.tar", face="gen")
    with pytest.raises(ValueError, match="would be one of the files"):
        filter_source(deep, Rules(), Path("kept"), tell=print)


def test_a_file_that_changed_since_is_not_taken_for_the_jobs(shards, tmp_path, capsys):
    source, output = TarShards(path=str(shards), face="gen"), tmp_path / "kept"
    filter_source(source, Rules(), output, tell=print)
    (output / "1.tar").write_bytes(b"another's")
    command = ["data", "filter", "webdataset", "--set", f"path={shards}", "--set", "face=gen"]
    assert main([*command, "--output", str(output)]) == 2
    said = capsys.readouterr().err
    assert "1.tar is there already, and not as this job wrote it: delete it or give" in said
    assert (output / "1.tar").read_bytes() == b"another's"


def test_what_is_kept_is_the_picture_that_was_judged(tmp_path):
    """Numbers of items and of their samples run alike, past a sample that is not kept."""
    members = []
    for number in range(12):
        members += [(f"{number}.png", picture(8 + number % 5, number)), (f"{number}.txt", b"x")]
    path = write_tar(tmp_path / "a.tar", members)
    source = TarShards(path=str(path), face="gen")
    filter_source(source, Rules(min_side=11), tmp_path / "b.tar", tell=print)
    kept = TarShards(path=str(tmp_path / "b.tar"), face="gen")
    reds = [int(np.asarray(sample.pictures[0])[0, 0, 0]) for sample in kept]
    assert reds == [3, 4, 8, 9]


def test_a_second_process_at_an_output_is_refused(shards, tmp_path, monkeypatch):
    """While items are judged, and while files are written."""
    output, refused = tmp_path / "kept", []
    scores = ModuleType("scores")
    source, rewrite = TarShards(path=str(shards), face="gen"), TarShards.rewrite

    def other() -> None:
        with pytest.raises(ValueError, match=f"another process writes {output}: wait for it"):
            filter_source(source, Rules(score="scores:side"), output, tell=print)
        refused.append(1)

    def side(sample):
        other()
        return 1.0

    def slow(self, *args, **options):
        other()
        rewrite(self, *args, **options)

    scores.side = side  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "scores", scores)
    monkeypatch.setattr(TarShards, "rewrite", slow)
    counts = filter_source(source, Rules(score="scores:side"), output, tell=print)
    assert counts == {"done": 6, "written": 5, "broken": 1, "files": 2} and len(refused) == 7


def test_lines_that_are_of_other_items_are_refused(shards, tmp_path):
    """As two processes left them that did not keep each other out."""
    source, output = TarShards(path=str(shards), face="gen"), tmp_path / "kept"
    filter_source(source, Rules(), output, tell=print)
    items = tmp_path / "kept.items.jsonl"
    note = items.with_name(items.name + ".job.json")
    lines = items.read_text().splitlines(keepends=True)
    state = json.loads(note.read_text())
    for spoilt in ([*lines[:2], *lines[1:]], [*lines, lines[-1]]):
        items.write_text("".join(spoilt))
        state["state"]["bytes"] = items.stat().st_size
        note.write_text(json.dumps(state))
        with pytest.raises(ValueError, match=r"kept\.items\.jsonl is of .*, where .* belongs: del"):
            filter_source(source, Rules(), output, tell=print)
