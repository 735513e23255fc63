"""Packages that several parts of the world are made from."""

from __future__ import annotations

from typing import Final

EMOJIBASE: Final[dict[str, str]] = {
    "package": "emojibase-data",
    "version": "17.0.0",
    "sha256": "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "licence": "MIT",
    "author": "Miles Johnson",
}
"""What emoji are called, in many languages, and their groups."""
