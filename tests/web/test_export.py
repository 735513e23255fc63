"""The folder of a page: its files, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from openjanus.cli import main
from openjanus.pipeline import Janus
from openjanus.processor.text import TextTokenizer, add_special_tokens
from openjanus.web.export import export_web, write_page
from openjanus.web.manifest import describe_tokenizer
from openjanus.web.runtime import PACKAGE, VERSION, copy_runtime


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A package of nothing."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": PACKAGE, "version": "9.9"}))
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / "dist" / name).write_text(name)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_page_is_the_servers_with_another_policy_and_no_server(tmp_path: Path):
    write_page(tmp_path, licence="a <licence>", runtime="a runtime")
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "a &lt;licence&gt;" in index
    assert "Content-Security-Policy" in index
    assert "server" not in re.sub(r"<dialog.*?</dialog>", "", index, flags=re.DOTALL).replace(
        "http.server", ""
    )
    for place in re.findall(r'(?:src|href)="([^#"]+)"', index):
        assert (tmp_path / place).is_file(), place
    assert not (tmp_path / "page" / "index.html").exists()


def test_scripts_ask_for_what_is_there(tmp_path: Path, runtime: Path):
    write_page(tmp_path, licence="none", runtime="none")
    copy_runtime(tmp_path / "runtime", runtime)
    scripts = [*tmp_path.glob("page/*.js"), *tmp_path.glob("tab/*.js")]
    imported = [
        (script.parent / place).resolve()
        for script in scripts
        for place in re.findall(r'(?:from |new URL\()"(\.[^"]+[a-z])"', script.read_text())
    ]
    assert {path.name for path in imported} >= {"worker.js", "ort.js", "ort.wasm", "noise.js"}
    missing = [path for path in imported if not path.exists() and path.name != "model.json"]
    assert missing == []
    # Whatever the page takes from the server's routes, this one has too.
    ours = (tmp_path / "page" / "api.js").read_text()
    for script in tmp_path.glob("page/*.js"):
        for names in re.findall(r'import \{([^}]+)\} from "./api.js"', script.read_text()):
            for name in names.split(","):
                wanted = name.partition(" as ")[0].strip()
                assert re.search(rf"export [a-z* ]+ {wanted}\b", ours), wanted


def test_the_model_says_what_it_is(tab_folder: Path, janus: Janus):
    facts = json.loads((tab_folder / "model.json").read_text(encoding="utf-8"))
    assert facts["format_version"] == 1
    assert facts["drawing"] == {"guidance_scale": 5.0, "temperature": 1.0}
    assert [band["end"] for band in facts["bands"]] == [1, 2, 3]
    on_disk = {path.name: path.stat().st_size for path in tab_folder.iterdir()}
    assert facts["bytes"] == {n: s for n, s in on_disk.items() if n != "model.json"}
    assert {f"{name}.onnx" for name in facts["graphs"]} < set(on_disk)
    assert facts["digests"].keys() == facts["bytes"].keys()
    wide = (tab_folder / "weights.f32").read_bytes()
    assert hashlib.sha256(wide).hexdigest().startswith(facts["digests"]["weights.f32"])


def test_a_folder_is_all_that_a_page_needs(
    tmp_path: Path, tab_folder: Path, janus: Janus, runtime: Path, monkeypatch
):
    def copy_model(_: Janus, folder: Path) -> None:
        shutil.copytree(tab_folder, folder)

    monkeypatch.setattr("openjanus.web.export.write_model", copy_model)  # which takes a while
    export_web(janus, tmp_path / "out", runtime=runtime)
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"README.md", "index.html", "model", "page", "runtime", "tab"}
    assert f"{PACKAGE} 9.9" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "a page that runs it in a browser" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.long
def test_the_command_writes_a_page(tmp_path: Path, capsys, runtime: Path):
    out = tmp_path / "out"
    assert main(["export", "web", str(out), "--model", "tiny", "--runtime", str(runtime)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out / "index.html")
    assert said.err == ""
    assert json.loads((out / "model" / "model.json").read_text())["graphs"][3] == "decoder"


def test_a_runtime_is_taken_from_where_it_lies(tmp_path: Path, runtime: Path):
    assert copy_runtime(tmp_path / "copied", runtime) == "9.9"
    assert (tmp_path / "copied" / "ort.wasm").read_text() == "ort-wasm-simd-threaded.wasm"


def test_what_is_no_runtime_is_refused(tmp_path: Path, runtime: Path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="give an unpacked npm package"):
        copy_runtime(tmp_path / "copied", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"npm pack {PACKAGE}@{VERSION}"):
        copy_runtime(tmp_path / "copied", runtime / "dist")
    (runtime / "dist" / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(ValueError, match=rf"has no dist/ort-wasm-simd.*take version {VERSION}"):
        copy_runtime(tmp_path / "copied", runtime)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"install Node.js; or unpack .* --runtime FOLDER"):
        copy_runtime(tmp_path / "copied")


def test_mistakes_are_one_line(tmp_path: Path, capsys, runtime: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    new = tmp_path / "new"
    assert str(tmp_path / "full") in refused(capsys, "export", "web", tmp_path / "full")
    assert "did you mean 'nano'" in refused(capsys, "export", "web", new, "--model", "nanu")
    given = ["export", "web", new, "--model", "tiny", "--runtime", runtime / "dist"]
    assert "is no npm package" in refused(capsys, *given)
    assert "see openjanus export --help" in refused(capsys, "export", "tab", new)
    assert not new.exists()


def test_a_model_that_a_tab_cannot_run_is_refused_at_once(tmp_path: Path, make_model, tokenizer):
    from openjanus.presets import preset

    semantic = Janus(make_model(preset("tiny-semantic")), tokenizer)
    with pytest.raises(ValueError, match="the page draws with type 'vq'"):
        export_web(semantic, tmp_path / "page", runtime=tmp_path)
    assert not (tmp_path / "page").exists()


def test_a_tokenizer_that_the_page_does_not_know_is_refused(janus: Janus):
    config = janus.config.processor

    def byte_level() -> Tokenizer:
        return Tokenizer.from_str(janus.processor.tokenizer.to_json())

    def check_refused(tokenizer: Tokenizer, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            describe_tokenizer(TextTokenizer(tokenizer, config))

    lower = byte_level()
    lower.normalizer = normalizers.Lowercase()
    check_refused(lower, "of another kind")
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    add_special_tokens(words, config)
    check_refused(words, "of another kind")
    digits = byte_level()
    digits.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    check_refused(digits, "split elsewhere")
    digits.pre_tokenizer = pre_tokenizers.Whitespace()
    check_refused(digits, "cut elsewhere")
