"""What ``deploy`` holds, read and not built: what a container or a service must keep."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from openjanus.cli import parse

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.c*[!e]"))
KNOWN = {
    *("FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER"),
    *("EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
}
SECRET = re.compile(r"(?i)(api_?key|token|password|secret)\w*\s*=")


def instructions(path: Path) -> list[tuple[str, str]]:
    """Of a Dockerfile, lines that go on joined."""
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = text.replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in found]


def words_of(found: list[tuple[str, str]], name: str) -> list[str]:
    return json.loads(next(rest for one, rest in found if one == name))


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name)
def dockerfile(request) -> Path:
    return request.param


def test_there_is_one_for_each_kind():
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]


def test_a_container_is_not_root_and_holds_no_key(dockerfile):
    found = instructions(dockerfile)
    names = [name for name, _ in found]
    assert set(names) <= KNOWN
    (user,) = [rest for name, rest in found if name == "USER"]
    assert user.isdecimal() and int(user) > 0
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "FROM" not in names[names.index("USER") :]
    bases = [rest.split() for name, rest in found if name == "FROM"]
    assert all(":" in base[0] and not base[0].endswith(":latest") for base in bases)
    assert not [rest for name, rest in found if name in ("ENV", "ARG") and SECRET.search(rest)]
    # pip's configuration may have one: there while pip runs alone.
    assert all("--mount=type=secret" in rest for _, rest in found if "pip install" in rest)


def test_what_is_copied_is_there_and_nothing_else_is_sent(dockerfile):
    copied = [
        word
        for name, rest in instructions(dockerfile)
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    ]
    ignored = dockerfile.with_name(f"{dockerfile.name}.dockerignore").read_text(encoding="utf-8")
    lines = [line for line in ignored.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == set(copied)
    assert all((ROOT / path).exists() for path in copied)


def test_its_command_and_its_health_check_are_right(dockerfile):
    found = instructions(dockerfile)
    entry = words_of(found, "ENTRYPOINT")
    args = parse([*entry[1:], *words_of(found, "CMD")])
    assert (entry[0], args.host, args.model) == ("openjanus", "0.0.0.0", "nano")
    assert str(args.api_key_file) == "/run/secrets/keys"
    health = next(rest for name, rest in found if name == "HEALTHCHECK")
    python, option, code = json.loads(health[health.index("[") :])
    assert (python, option) == ("python", "-c") and f":{args.port}/health" in code
    compile(code, "health check", "exec")
    assert ("EXPOSE", str(args.port)) in found


def unit() -> dict[str, str]:
    lines = (DEPLOY / "openjanus.service").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def test_the_service_starts_again_drains_and_is_shut_in():
    found = unit()
    words = shlex.split(found["ExecStart"])
    args = parse(words[1:])
    assert str(args.api_key_file) == "%d/keys" and found["LoadCredential"].startswith("keys:")
    assert float(found["TimeoutStopSec"]) > args.drain
    assert (found["Restart"], found["DynamicUser"]) == ("always", "yes")
    assert found["CapabilityBoundingSet"] == ""
    for name in ("NoNewPrivileges", "PrivateTmp", "RestrictNamespaces", "ProtectHome"):
        assert found[name] == "yes"
    assert found["ProtectSystem"] == "strict"
    assert "MemoryDenyWriteExecute" not in found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_all_that_it_says(tmp_path):
    # The program is not installed where the unit looks for it.
    text = (DEPLOY / "openjanus.service").read_text(encoding="utf-8")
    copy = tmp_path / "openjanus.service"
    copy.write_text(text.replace("/opt/openjanus/bin/openjanus", "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "openjanus.service" in line]
    assert said == []
