"""ONNX Runtime Web, which the page runs graphs with: two files of its npm package."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from openjanus.pinned import npm_pack
from openjanus.rules import require

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
"""What is fetched."""
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""Of the tarball that `npm pack` writes."""

_FILES = {
    "ort.wasm.bundle.min.mjs": "ort.js",  # not every file server knows what .mjs is
    "ort-wasm-simd-threaded.wasm": "ort.wasm",
}


def copy_runtime(target: Path, source: Path | None = None) -> str:
    """Copy the runtime's files.

    Args:
        target: New folder.
        source: An unpacked npm package; None fetches one with npm.

    Returns:
        Its version.

    Raises:
        ValueError: The source is no such package.
        FileNotFoundError: The source is not there, or there is no npm to fetch one with.
        OSError: npm failed.
    """
    if source is not None:
        return _copy(source, target)
    with tempfile.TemporaryDirectory() as folder:
        return _copy(_fetch(Path(folder)), target)


def _copy(source: Path, target: Path) -> str:
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}: give an unpacked npm package {PACKAGE}")
    facts = source / "package.json"
    told = json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else {}
    require(
        told.get("name") == PACKAGE,
        f"{source} is no npm package {PACKAGE}: unpack what `npm pack {PACKAGE}@{VERSION}` writes",
    )
    missing = [name for name in _FILES if not (source / "dist" / name).is_file()]
    require(
        not missing,
        f"{PACKAGE} {told['version']} has no dist/{' and no dist/'.join(missing)}: "
        f"take version {VERSION}",
    )
    target.mkdir()
    for name, new_name in _FILES.items():
        shutil.copyfile(source / "dist" / name, target / new_name)
    return told["version"]


def _fetch(folder: Path) -> Path:
    """The package of the pinned version, unpacked."""
    otherwise = f"unpack the npm package {PACKAGE} yourself and give --runtime FOLDER"
    try:
        packed = npm_pack(PACKAGE, VERSION, SHA256, folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or {otherwise}") from error
    except RuntimeError as error:  # npm's own trouble, of the network most of all
        raise OSError(f"{error}; {otherwise}") from error
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"
