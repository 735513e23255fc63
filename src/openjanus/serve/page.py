"""The web page at ``/``: files of this package, and the headers that keep a browser to them.

The page is a client like any other: it asks the routes that everybody asks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

PAGE_PATH = "/"
FILES_PATH = "/page/"
"""What the page is made of lies below."""

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFile:
    """A file as it is answered."""

    path: str
    """Of the address."""
    body: bytes
    headers: dict[str, str]

    def is_known(self, etags: str) -> bool:
        """Whether a browser has it already.

        Args:
            etags: Its ``If-None-Match``.
        """
        return self.headers["etag"] in etags


def page_files() -> list[PageFile]:
    """The page, and all that it loads."""
    folder = files("openjanus.serve") / "web"
    found = sorted(folder.iterdir(), key=lambda file: file.name)
    return [_page_file(file.name, file.read_bytes()) for file in found]


def is_page_path(path: str) -> bool:
    """Whether an address is one of the page's, which tells nothing of anybody."""
    return path == PAGE_PATH or path.startswith(FILES_PATH)


def _page_file(name: str, body: bytes) -> PageFile:
    return PageFile(
        path=PAGE_PATH if name == "index.html" else FILES_PATH + name,
        body=body,
        headers={
            "content-type": _MEDIA_TYPES[name.rpartition(".")[2]],
            "content-security-policy": _POLICY,
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cache-control": "no-cache",  # asked again each time, and answered by the tag
            "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        },
    )
