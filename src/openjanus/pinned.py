"""Public packages, fetched by the ordinary clients of their registries and checked by sha256."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path


def npm_pack(package: str, version: str, sha256: str, folder: Path) -> Path:
    """Fetch an npm package's tarball into a folder.

    Raises:
        FileNotFoundError: npm is not installed.
        RuntimeError: npm failed.
        ValueError: The tarball has another sha256.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(f"fetching {package} needs the command npm: install Node.js")
    run([npm, "pack", f"{package}@{version}", "--pack-destination", str(folder)])
    stem = package.removeprefix("@").replace("/", "-")
    return checked(folder / f"{stem}-{version}.tgz", sha256)


def pip_wheel(package: str, version: str, sha256: str, folder: Path) -> Path:
    """Fetch a PyPI package's wheel into a folder, without what it depends on.

    Raises:
        RuntimeError: pip failed.
        ValueError: The wheel has another sha256.
    """
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    run([*pip, "--dest", str(folder), f"{package}=={version}"])
    return checked(next(folder.glob(f"{package.replace('-', '_')}-*.whl")), sha256)


def run(command: list[str], cwd: Path | None = None) -> None:
    """Run a client; what it says is quoted where it fails.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"command must succeed, {' '.join(command)!r} ended with {done.returncode}: "
            f"{done.stderr.strip()[-500:]}"
        )


def checked(path: Path, sha256: str) -> Path:
    """A file, if it is the pinned one.

    Raises:
        ValueError: It has another sha256.
    """
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if got != sha256:
        raise ValueError(
            f"{path.name} must have sha256 {sha256}, got {got}: fetch the pinned version"
        )
    return path
