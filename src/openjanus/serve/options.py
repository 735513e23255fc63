"""How a server is run: frozen, checked before anything is loaded."""

from __future__ import annotations

import ipaddress
import logging
import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from openjanus.rules import require, require_at_least_one

LOG = logging.getLogger("openjanus.serve")

MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """How a server is run.

    Raises:
        ValueError: An option breaks its rule, or others could come in without a key.
        FileNotFoundError: No certificate at a path.
    """

    model_names: tuple[str, ...]
    """What clients may call the model; answers carry the first."""
    adapter_names: tuple[str, ...] = ()
    """What clients call the model with each of its adapters."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    api_keys: tuple[str, ...] = ()
    """Without any, whoever reaches a loopback address is let in."""
    max_requests: int = 64
    """Requests that are taken at once, running or waiting; more are refused."""
    max_requests_per_key: int | None = None
    """Of one key at once; None is as many as there are."""
    requests_per_minute: int | None = None
    """Of one key; None sets no limit."""
    max_connections: int = 1024
    max_body_bytes: int = 16 * MIB
    max_images: int = 8
    """Pictures in the messages of a request."""
    max_image_bytes: int = 8 * MIB
    """Of a picture's file."""
    max_image_pixels: int = 16_000_000
    """Of a picture, read from its header before it is decoded."""
    max_request_pixels: int = 32_000_000
    """Of all pictures of a request together."""
    fetch_images: bool = False
    """Whether http and https addresses of pictures are fetched; never private ones."""
    fetch_timeout_s: float = 10.0
    """For a picture's address, redirects included."""
    header_timeout_s: float = 10.0
    """For a request's first line and headers."""
    body_timeout_s: float = 30.0
    """For a request's body."""
    write_timeout_s: float = 20.0
    """For a client to take a byte of what has been answered."""
    linger_s: float = 5.0
    """For the rest of a body that was answered before its end."""
    deadline_s: float = 600.0
    """For a whole answer, from the time that its request was read."""
    drain_s: float = 60.0
    """What running requests get after SIGTERM."""
    url_store_bytes: int = 64 * MIB
    """Of pictures that are answered as addresses."""
    url_lifetime_s: float = 3600.0
    cors_origins: tuple[str, ...] = ()
    """Web pages of other origins that may call; none may without."""
    public_url: str | None = None
    """How clients reach the server, for addresses of pictures; None is what a request came to."""
    page: bool = True
    """Whether a web page is at ``/``."""
    log_prompts: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        require(
            len(self.model_names) > 0 and all(self.model_names),
            "a served model needs a name: give --served-model-name",
        )
        doubled = {name for name in self.all_names if self.all_names.count(name) > 1}
        require(
            not doubled and all(self.adapter_names),
            f"models and adapters need a name each, of their own, got {[*self.all_names]}",
        )
        require(0 <= self.port < 2**16, f"port must be in [0, 65535], got {self.port}")
        require(
            all(key.strip() == key and key for key in self.api_keys),
            "an API key is empty or has spaces around it: give one word",
        )
        require(
            bool(self.api_keys) or is_loopback(self.host),
            f"host {self.host} can be reached from other machines and no API key is set: give "
            "--api-key-file (or --api-key), or serve 127.0.0.1",
        )
        for name in ("max_requests_per_key", "requests_per_minute"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be >= 1, got {value}")
        for name in (
            *("max_requests", "max_connections", "max_body_bytes", "max_images"),
            *("max_image_bytes", "max_image_pixels", "max_request_pixels", "url_store_bytes"),
        ):
            require_at_least_one(name, getattr(self, name))
        for name in (
            *("fetch_timeout_s", "header_timeout_s", "body_timeout_s", "deadline_s"),
            *("drain_s", "url_lifetime_s", "write_timeout_s", "linger_s"),
        ):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name} must be a number of seconds > 0, got {value}")
        url = self.public_url
        require(
            url is None or re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", url) is not None,
            f"public_url must read https://host or https://host/path, got {url!r}",
        )
        require(
            (self.tls_cert is None) == (self.tls_key is None),
            "--tls-cert and --tls-key belong together: give both, or neither",
        )
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise FileNotFoundError(f"no file at {path}: check the path of the certificate")

    @property
    def all_names(self) -> tuple[str, ...]:
        """Whatever clients may ask for, the model's first name first."""
        return self.model_names + self.adapter_names

    @property
    def is_open(self) -> bool:
        """Whether any key is let in."""
        return not self.api_keys


def is_loopback(host: str) -> bool:
    """Whether an address to serve, or the name in a request, is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_keys(path: Path) -> tuple[str, ...]:
    """API keys from a file: one a line; empty lines and those that begin with # are left out.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No key in it.
    """
    if not path.exists() or path.is_dir():  # a pipe is as good as a file
        raise FileNotFoundError(f"no file of API keys at {path}: check the path")
    if path.is_file() and path.stat().st_mode & stat.S_IROTH:
        LOG.warning("%s can be read by every user of this machine: chmod 600", path)
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    require(len(keys) > 0, f"{path} holds no API key: write one a line")
    return keys
