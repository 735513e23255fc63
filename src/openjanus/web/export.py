"""The folder of a page that runs a Janus: the server's page, with the model in its place.

index.html   page/    the page of ``openjanus serve``; its api.js asks the tab
tab/                  what answers it: a worker, and the model in JavaScript
model/                graphs, weights, model.json
runtime/              ONNX Runtime Web
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from importlib import resources
from pathlib import Path

from openjanus.pipeline.janus import Janus
from openjanus.web.graphs import check_exportable, make_graphs
from openjanus.web.manifest import describe_model
from openjanus.web.runtime import PACKAGE, copy_runtime
from openjanus.web.weights import NARROW, WIDE, write_graphs
from openjanus.weights.card import write_card
from openjanus.weights.formats import new_folder

_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self' data:; "
    "img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'"
)
_OPENING = """\
  <p class="note" id="tab-state" role="status">Opening. If this stays, the browser was given a file
    and not a page: run <code>python3 -m http.server</code> in this folder, then look at
    <code>http://127.0.0.1:8000/</code>. The page needs JavaScript.</p>
"""


def export_web(janus: Janus, folder: Path | str, *, runtime: Path | None = None) -> None:
    """Write a page that draws and answers in a browser, offline and without a server of its own.

    Args:
        janus: In fp32, on the CPU, not packed.
        folder: New or empty; it is there when everything in it is.
        runtime: An unpacked npm package ``onnxruntime-web``; None fetches one with npm.

    Raises:
        ValueError: The model is of a kind or size that a tab cannot run, or the folder holds
            something.
        FileNotFoundError: There is no npm to fetch the runtime with.
        ImportError: The extra ``web`` is missing.
    """
    check_exportable(janus.config)
    with new_folder(Path(folder)) as partial:
        version = copy_runtime(partial / "runtime", runtime)  # quick to fail, so first
        write_model(janus, partial / "model")
        write_page(partial, licence=janus.origin.licence, runtime=f"{PACKAGE} {version}")
        write_card(partial, janus.config, layout="web", origin=janus.origin)


def write_model(janus: Janus, folder: Path) -> None:
    """Write graphs, weights and ``model.json``.

    Args:
        janus: As ``export_web``.
        folder: New.

    Raises:
        ValueError, ImportError: As ``export_web``.
    """
    source = janus.origin.source
    facts = describe_model(janus.processor, name="janus" if source is None else Path(source).name)
    folder.mkdir()
    facts["graphs"] = write_graphs(folder, make_graphs(janus.model))
    facts["weights"] = [NARROW, WIDE]
    files = sorted(folder.iterdir())
    facts["bytes"] = {path.name: path.stat().st_size for path in files}
    facts["digests"] = {path.name: _digest(path) for path in files}
    (folder / "model.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def _digest(path: Path) -> str:
    """What tells a file from another of its name."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_page(folder: Path, *, licence: str, runtime: str) -> None:
    """Write the page and the scripts that run the model.

    Args:
        folder: There already.
        licence: Of the weights, as the page tells it.
        runtime: Name and version of what runs the graphs.
    """
    package = Path(str(resources.files("openjanus")))
    shutil.copytree(package / "serve" / "web", folder / "page")
    shutil.copytree(package / "web" / "tab", folder / "tab")
    (folder / "tab" / "api.js").replace(folder / "page" / "api.js")
    index = folder / "page" / "index.html"
    words = _in_a_tab(index.read_text(encoding="utf-8"), licence=licence, runtime=runtime)
    (folder / "index.html").write_text(words, encoding="utf-8")
    index.unlink()


def _in_a_tab(page: str, *, licence: str, runtime: str) -> str:
    """The server's page with what differs where there is none: its policy, and some words."""
    footer = (
        "<footer>\n    <p>Everything happens in this tab: what you write and show goes nowhere. "
        "Enter sends, Shift+Enter\n      begins a line, Esc stops. "
        f"Weights: {html.escape(licence)}. Runs with {html.escape(runtime)} (MIT).</p>\n  </footer>"
    )
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    changes = [
        (r'<meta charset="utf-8">', f'<meta charset="utf-8">\n  {policy}'),
        (r"</head>", '  <link rel="stylesheet" href="tab/tab.css">\n</head>'),
        (r"  <noscript>.*?</noscript>\n", _OPENING),
        (r"<footer>.*?</footer>", footer),
    ]
    for pattern, text in changes:
        page, count = re.subn(pattern, lambda _, text=text: text, page, flags=re.DOTALL)
        assert count == 1, f"the server's page has {pattern} {count} times"
    return page
