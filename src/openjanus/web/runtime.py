"""ONNX Runtime Web, which the page runs graphs with: two files of its npm package."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from openjanus.rules import require

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
"""What is fetched."""

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
    """The package of the pinned version, by the ordinary client of its registry."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"the page runs with {PACKAGE}, and there is no npm to fetch it with: install Node.js, "
            f"or unpack its npm package yourself and give --runtime FOLDER"
        )
    done = subprocess.run(
        [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it does not say why"]
        raise OSError(f"npm did not fetch {PACKAGE}@{VERSION}: {said[-1]}")
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"
