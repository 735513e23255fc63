"""Odd files, as a user has them: each is named in one line, and the rest goes on."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openjanus.cli import main
from openjanus.data.files.captions import CaptionFile
from openjanus.data.files.parquet import ParquetFile
from openjanus.data.files.tar import TarShards
from openjanus.data.files.text import TextFiles
from openjanus.data.select import Rules, filter_source
from openjanus.processor.image import crop_to_square
from openjanus.train.recaption import recaption

GOOD = {"image": "red.png", "caption": "a red field"}
LINE = json.dumps(GOOD)


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.fixture
def folder(tmp_path):
    """Pictures that are whole, and those that are not."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "PNG")
    Image.new("RGB", (8, 6), (200, 30, 30)).save(tmp_path / "red.png")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:2000])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.png").write_text("words")
    (tmp_path / "folder.png").mkdir()
    size = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    bomb = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    return tmp_path


@pytest.fixture
def lint(folder, capsys):
    """``lint(bytes, "a.jsonl", ...)``: exit code, stdout and stderr of linting a file."""

    def run(content: bytes, name="a.jsonl", source="caption-jsonl", *options):
        (folder / name).write_bytes(content)
        given = [f"path={folder / name}", *(options or ("face=gen",))]
        sets = [word for text in given for word in ("--set", text)]
        code = main(["data", "lint", source, "--model", "tiny", *sets])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("cut.png", "cut.png: the given picture is a broken image"),
        ("empty.png", "empty.png is not a picture that Pillow can read"),
        ("words.png", "words.png is not a picture that Pillow can read"),
        ("gone.png", "no picture at"),
        ("folder.png", "no picture at"),
        ("bomb.png", "bomb.png has 10000 x 10000 pixels, at most"),
        ("../red.png", r"../red.png leads out of"),
        ("sub/../../red.png", r"leads out of"),
        ("~nobody-at-all/red.png", "begins with a user unknown here: write the whole path"),
        ("x" * 999, "is no path (File name too long): check it"),
        ("a\0b.png", "no picture at"),
        (None, "a picture must be a path or an address, got None"),
        (7, "a picture must be a path or an address, got 7"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named_and_the_rest_goes_on(lint, image, says):
    bad = json.dumps(GOOD | {"image": image})
    code, out, err = lint(f"{LINE}\n{bad}\n{LINE}\n".encode())
    (named,) = [line for line in out.splitlines() if "a.jsonl:2" in line]
    assert says in named and named.startswith("  a.jsonl:2")
    assert code == 1 and "2 samples: 2 gen" in out
    assert err == "openjanus: not every item can be used: caption-jsonl\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"image": "red.png", "caption": "a", "caption": "b"}', "the key 'caption' stands in it"),
        (b'{"image": "red.png"}', "no 'caption' in it"),
        (b"[]", "must be a JSON object, got list"),
        (b"{", "is not valid JSON"),
        (b"[" * 99_999, "maximum recursion depth"),
        (b'{"n": ' + b"9" * 5000 + b"}", "is not read (Exceeds the limit"),
        (b'{"image": "red.png", "caption": "\xe9"}', "is not UTF-8"),
        (b'{"image": "red.png", "caption": "\x00"}', "holds zero bytes, as UTF-16 does"),
        (b'{"image": "red.png", "caption": "\\ud800"}', "which is no whole character"),
        (b'{"image": "red.png", "caption": "<begin_of_image>"}', "holds the special token"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_the_rest_goes_on(lint, line, says):
    code, out, _ = lint(b"\n".join([LINE.encode(), line, LINE.encode()]) + b"\n")
    (named,) = [one for one in out.splitlines() if "a.jsonl:2" in one]
    assert says in named and code == 1 and "2 samples: 2 gen" in out


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (f"{LINE}\r\n{LINE}\r\n".encode(), 0, "2 samples: 2 gen"),
        (b"\xef\xbb\xbf" + f"{LINE}\n{LINE}\n".encode(), 0, "2 samples: 2 gen"),
        (b"", 1, "it holds nothing"),
        (b" \n\n", 1, "it holds nothing"),
        (f"{LINE}\n".encode("utf-16"), 1, "a.jsonl:1 is not UTF-8"),
        (f"{LINE}\n".encode("utf-16-be"), 1, "a.jsonl:1 holds zero bytes, as UTF-16 does"),
    ],
)
def test_files_of_other_systems(lint, content, code, says):
    found, out, _ = lint(content)
    assert found == code and says in out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("folder.png", "no .jsonl or .json files at"),
        ("red.png", "is no .jsonl or .json file"),
        ("nowhere", "no file or folder at"),
        ("", "path is empty"),
        ("~nobody-at-all/a.jsonl", "begins with a user unknown here"),
    ],
)
@pytest.mark.parametrize("verb", ["lint", "show", "filter"])
def test_a_path_that_leads_nowhere_is_a_mistake(folder, capsys, monkeypatch, verb, given, says):
    monkeypatch.chdir(folder)
    command = ["data", verb, "caption-jsonl", "--set", f"path={given}", "--set", "face=gen"]
    output = [] if verb == "lint" else ["--output", "out"]
    assert main([*command, *output]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("openjanus: ") and says in line
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("CMYK", "a.jpg", {}),
        ("I;16", "a.png", {}),
        ("P", "a.gif", {"save_all": True, "append_images": [Image.new("P", (8, 6), 3)]}),
        ("RGB", "a.jpg", {"exif": {0x112: 6}}),
        ("RGB", "a.png", {}),
    ],
)
def test_whole_pictures_of_every_make_are_read(lint, folder, mode, name, options):
    exif = Image.Exif()
    exif.update(options.pop("exif", {}))
    size = (1, 1) if mode == "RGB" and not exif else (8, 6)
    Image.new(mode, size).save(folder / name, exif=exif, **options)
    code, out, err = lint((json.dumps(GOOD | {"image": name}) + "\n").encode())
    assert (code, err) == (0, "") and "1 samples: 1 gen" in out
    wanted = (8, 6, 3) if exif else (size[1], size[0], 3)  # turned upright
    picture = CaptionFile(path=str(folder / "a.jsonl"), face="gen")[0].target
    assert picture is not None and picture.shape == wanted


def test_a_picture_that_is_a_line_does_not_take_gigabytes():
    line = np.zeros((1, 60_000, 3), np.uint8)
    line[:, 29_999:30_001] = 255
    cut = crop_to_square(Image.fromarray(line), 384)
    assert cut.size == (384, 384) and np.asarray(cut).mean() > 250


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'"),
        ({"role": ["user"], "content": "x"}, "unknown role ['user']"),
        ({"role": "user", "content": "<image><image><image>"}, "3 <image> in the texts for 2"),
        ({"role": "user", "content": "x<|User|>"}, "holds the special token"),
        ({"role": "assistant", "content": "x"}, None),
    ],
)
def test_messages_that_cannot_be_used_are_named(lint, message, says):
    answer = {"role": "assistant", "content": "yes"}
    good = {"messages": [{"role": "user", "content": "<image><image>?"}, answer]}
    bad = {"messages": [message, answer] if says else [answer, {"role": "user", "content": "x"}]}
    records = [one | {"images": ["red.png", "red.png"]} for one in (good, bad, good)]
    if not says:
        records[1]["images"], says = [], "must end with an assistant turn"
    text = "".join(json.dumps(record) + "\n" for record in records)
    code, out, _ = lint(text.encode(), "chat.jsonl", "chat-jsonl", "face=und")
    if "end with" in says:  # a text, so it is not among those of this face
        code, out, _ = lint(text.encode(), "chat.jsonl", "chat-jsonl", "form=chat")
    (named,) = [line for line in out.splitlines() if "chat.jsonl:2" in line]
    assert says in named and code == 1 and "2 samples: 2 und" in out


def shard(path, members):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_members_of_odd_names(folder):
    red = (folder / "red.png").read_bytes()
    names = ["é.png", "é.txt", "../up.png", "../up.txt", "/top.png", "/top.txt"]
    twice = ["2.png", "2.jpg", "2.txt", "3.png", "3.txt", "3.txt", ".hidden", "no-suffix"]
    shard(folder / "a.tar", [(name, red if name[-3:] != "txt" else b"x") for name in names + twice])
    source = TarShards(path=str(folder / "a.tar"), face="gen")
    found = {}
    for index in range(len(source)):
        try:
            found[source.key(index)] = source[index].turns[0].text
        except ValueError as error:
            found[source.key(index)] = str(error)
    assert [found[f"a.tar:{name}"] for name in (r"\xe9", "../up", "/top")] == ["x", "x", "x"]
    assert "it has more than one picture: give each sample a name" in found["a.tar:2"]
    assert "it has more than one .txt" in found["a.tar:3"]
    assert all("it has no picture" in found[f"a.tar:{name}"] for name in (".", "no-suffix"))


def test_two_samples_of_one_name_are_told(lint, folder):
    red = (folder / "red.png").read_bytes()
    members = [("1.png", red), ("1.txt", b"x"), ("2.png", red), ("2.txt", b"x")]
    shard(folder / "b.tar", [*members, *members[:2]])
    code, out, _ = lint((folder / "b.tar").read_bytes(), "b.tar", "webdataset", "face=gen")
    assert code == 1 and "b.tar:1: another sample has this name: rename one" in out


def test_a_table_that_is_broken_within_is_told(folder):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    red = (folder / "red.png").read_bytes()
    table = pyarrow.table({"image": [red] * 4, "caption": ["a"] * 4})
    parquet.write_table(table, folder / "a.parquet")
    data = bytearray((folder / "a.parquet").read_bytes())
    data[4:40] = b"\xff" * 36
    (folder / "a.parquet").write_bytes(bytes(data))
    source = ParquetFile(path=str(folder / "a.parquet"), face="gen")
    with pytest.raises(ValueError, match=r"a\.parquet:0: .*a\.parquet is broken in it .*again"):
        source[0]


MIXED = f'{{\n{LINE}\n{{"image": "red.png", "caption": "\\ud800"}}\n{LINE}\n'


def test_filter_goes_on_past_a_broken_first_line(folder):
    (folder / "a.jsonl").write_text(MIXED)
    source, told = CaptionFile(path=str(folder / "a.jsonl"), face="gen"), []
    output = folder / "out.jsonl"
    assert filter_source(source, Rules(), output, tell=told.append)["written"] == 3
    assert output.read_text() == MIXED[2:]  # half a character too, as it was
    assert len(told) == 1 and told[0].startswith("left out: a.jsonl:1 is not valid JSON")


def test_captioning_goes_on_past_a_broken_line(folder):
    (folder / "a.jsonl").write_text(MIXED)
    source, told = CaptionFile(path=str(folder / "a.jsonl"), face="und"), []
    teller: Any = SimpleNamespace(chat=lambda *_, **__: SimpleNamespace(text="red"))
    options: dict[str, Any] = {"prompt": "?", "max_new_tokens": 4, "name": "t"}
    counts = recaption(teller, source, folder / "out.jsonl", tell=told.append, **options)
    assert counts == {"done": 4, "written": 3} and "left out: a.jsonl:1" in told[0]
    (folder / "a.txt").write_text("words")
    words = TextFiles(path=str(folder / "a.txt"))
    with pytest.raises(ValueError, match="samples of this format are no lines"):
        recaption(teller, words, folder / "none.jsonl", tell=told.append, **options)
    assert not (folder / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("verb", "says"),
    [("filter", "holds nothing: check its options"), ("show", "no samples from --start 0 on")],
)
def test_nothing_to_do_is_a_mistake(folder, capsys, verb, says):
    (folder / "a.jsonl").write_text("\n")
    command = ["data", verb, "caption-jsonl", "--set", f"path={folder / 'a.jsonl'}"]
    assert main([*command, "--set", "face=gen", "--output", str(folder / "out")]) == 2
    assert says in capsys.readouterr().err and not (folder / "out").exists()


def test_the_page_names_what_is_broken(folder, capsys):
    (folder / "a.jsonl").write_text(MIXED)
    page = folder / "page.html"
    command = ["data", "show", "caption-jsonl", "--set", f"path={folder / 'a.jsonl'}"]
    command += ["--set", "face=gen", "--model", "tiny", "--output", str(page)]
    assert main(command) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('class="bad"') == 2 and text.count("<h2>") == 2
    assert "a.jsonl:1 is not valid JSON" in text and "sample a.jsonl:3: the text holds" in text
