"""Fetching by hub id, with a hub that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from openjanus.weights.hub import HUB_ID, fetch


def bare(kind: type[Exception]) -> Exception:
    """An error of the library without the answer of a server that its constructors want."""
    return kind.__new__(kind, "x")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """``hub(result)``: what the library answers, a folder or an error; returns its calls."""

    def install(result: Any) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def snapshot(repo_id: str, **options: Any) -> str:
            calls.append({"repo_id": repo_id, **options})
            if isinstance(result, Exception):
                raise result
            return str(result)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return calls

    return install


def test_safetensors_are_fetched_and_nothing_twice(
    hub: Callable[[Any], list[dict[str, Any]]], tmp_path: Path
) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    calls = hub(tmp_path)
    assert fetch("a/b", revision="v1") == tmp_path
    assert len(calls) == 1
    assert calls[0]["revision"] == "v1"
    assert "model*.safetensors" in calls[0]["allow_patterns"]
    assert not any("bin" in pattern for pattern in calls[0]["allow_patterns"])


def test_pickles_are_fetched_where_there_is_nothing_else(
    hub: Callable[[Any], list[dict[str, Any]]], tmp_path: Path
) -> None:
    calls = hub(tmp_path)
    fetch("a/b")
    assert "pytorch_model*.bin" in calls[1]["allow_patterns"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errors.LocalEntryNotFoundError("offline"),
            r"type: hf download a/b --revision v1 --local-",
        ),
        (ConnectionError("no route"), r"then give the folder \./b"),
        (errors.OfflineModeIsEnabled("offline"), "the hub cannot be reached"),
        (bare(errors.RevisionNotFoundError), "a/b has no revision 'v1'"),
        (bare(errors.RepositoryNotFoundError), "the hub has no a/b"),
        (bare(errors.GatedRepoError), "is gated: accept its terms"),
        (bare(errors.HfHubHTTPError), "the hub cannot be reached"),
    ],
)
def test_what_cannot_be_had_says_what_to_type(
    error: Exception, message: str, hub: Callable[[Any], list[dict[str, Any]]]
) -> None:
    hub(error)
    with pytest.raises(FileNotFoundError, match=message) as raised:
        fetch("a/b", revision="v1")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), PermissionError(13, "denied")])
def test_trouble_with_the_disk_keeps_its_own_words(
    error: OSError, hub: Callable[[Any], list[dict[str, Any]]]
) -> None:
    hub(error)
    with pytest.raises(OSError, match=r"No space left|denied"):
        fetch("a/b")


def test_a_name_that_no_hub_has_is_refused(hub: Callable[[Any], list[dict[str, Any]]]) -> None:
    hub(errors.HFValidationError("too long"))
    with pytest.raises(ValueError, match="is no hub id"):
        fetch("a/b")


@pytest.mark.parametrize(
    ("source", "is_id"),
    [
        ("deepseek-ai/Janus-Pro-1B", True),
        ("a/b", True),
        ("./a/b", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("../a", False),
        ("nano", False),
        ("~/a", False),
    ],
)
def test_what_looks_like_a_hub_id(source: str, is_id: bool) -> None:
    assert (HUB_ID.fullmatch(source) is not None) == is_id
