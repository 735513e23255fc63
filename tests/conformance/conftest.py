"""A kit, written once a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from openjanus.conformance import check_kit, write_kit
from openjanus.conformance.openjanus import OpenjanusSubject


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not change it; ``copied_kit`` is one to break."""
    folder = tmp_path_factory.mktemp("conformance") / "kit"
    write_kit(folder)
    return folder


@pytest.fixture
def copied_kit(kit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kit, tmp_path / "copy"))


class Quick(OpenjanusSubject):
    """Without the vectors that read the checkpoint once more."""

    absent: Mapping[str, str] = {"weights_deepseek": "", "weights_transformers": ""}


@pytest.fixture
def differing(kit: Path) -> Callable[[], set[str]]:
    """Checks openjanus as it is now: the vectors that differ."""
    return lambda: set(check_kit(kit, Quick).unexpected)
