"""Checkpoints by hub id: fetched once into the library's cache, then found there."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from openjanus.weights.shards import PICKLE_FILE, SAFETENSORS_FILE

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""``owner/name``."""

_SETTINGS = ["*.json", "*.jinja", "*.md", "LICENSE*", "LICENCE*", "NOTICE*"]


def fetch(repo_id: str, *, revision: str | None = None) -> Path:
    """A checkpoint's folder in the hub's cache, fetched if need be.

    Only what a Janus is made of is fetched: settings, and safetensors where the repository has
    them, else ``pytorch_model.bin``. The hub's own variables (``HF_HOME``, ``HF_HUB_OFFLINE``,
    ``HF_TOKEN``) say where the cache is, whether to look further, and who asks.

    Args:
        repo_id: ``owner/name``.
        revision: A branch, a tag or a commit; None is the main branch.

    Raises:
        FileNotFoundError: It cannot be had; the message says why and what to type.
        ValueError: No valid id.
    """

    def download(patterns: list[str]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=patterns)
        )

    at = f"{repo_id} (revision {revision})" if revision else repo_id
    name = repo_id.rpartition("/")[2]
    try:
        folder = download([*_SETTINGS, f"{stem(SAFETENSORS_FILE)}*.safetensors"])
        if not any(folder.glob("*.safetensors")):
            folder = download([*_SETTINGS, f"{stem(PICKLE_FILE)}*.bin"])
    except errors.HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no hub id ({error}): write owner/name") from error
    except errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"{at} is gated: accept its terms on its page, then type: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} has no revision {revision!r}: give a branch, a tag or a commit of it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"the hub has no {repo_id}, or not for you: check the name, or type: hf auth login"
        ) from error
    except (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        ConnectionError,
        TimeoutError,
    ) as error:
        option = f" --revision {revision}" if revision else ""
        raise FileNotFoundError(
            f"{at} is no folder here, the hub cannot be reached and the cache lacks it: with a "
            f"network type: hf download {repo_id}{option} --local-dir {name}, then give the folder "
            f"./{name}"
        ) from error
    return folder


def stem(file: str) -> str:
    """What the names of a whole file and of its shards begin with."""
    return file.partition(".")[0]
