"""Rules on the shape of the package that no single module can keep."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "openjanus"
MODULES = sorted(PACKAGE.rglob("*.py"))

NO_ROOMS = {"utils", "util", "common", "helpers", "helper", "misc", "tokenizer", "core", "lib"}
"""Names that say nothing, or (tokenizer) two things."""

OPTIONAL = {
    "bitsandbytes",
    "fastapi",
    "httpx",
    "matplotlib",
    "onnx",
    "onnxscript",
    "peft",
    "prometheus_client",
    "pyarrow",
    "resvg_py",
    "tensorboard",
    "uvicorn",
    "wandb",
    "yaml",
}
"""What an extra installs; imported where it is used, since it may be missing."""

HEAVY = {"torch", "numpy", "PIL", "tokenizers", "safetensors", "huggingface_hub", "tqdm"}

LONGEST_FUNCTION = 80


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module is not None else []
    return []


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_imports_point_one_way():
    code = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("statement", ["import openjanus", "import openjanus.cli"])
def test_importing_the_surface_imports_nothing_heavy(statement):
    assert modules_after(statement) & (HEAVY | OPTIONAL) == set()


def test_the_configuration_is_usable_without_torch():
    statement = "from openjanus.presets import preset; preset('tiny')"
    assert modules_after(statement) & HEAVY == set()


def test_the_scheduler_is_usable_without_torch():
    # Through its file, for the room's __init__ may import what needs torch.
    names = {
        name
        for node in ast.walk(tree(PACKAGE / "engine" / "scheduler.py"))
        for name in imported(node)
    }
    assert {name.partition(".")[0] for name in names} & HEAVY == set()


SLOW = (
    *("torch.nn.attention.varlen", "torch.nn.attention.flex_attention"),  # and CUDA's alone
    "torch.utils.tensorboard",  # and of an extra
)
"""A second to import."""


def test_importing_says_nothing():
    done = subprocess.run(
        [sys.executable, "-c", "import openjanus.pipeline, openjanus.cli"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout + done.stderr == ""


def test_no_room_has_a_name_that_says_nothing():
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert names & NO_ROOMS == set()


def test_imports_inside_functions_are_for_what_may_be_missing():
    surface = {PACKAGE / "__init__.py", *(PACKAGE / "cli").glob("*.py")}
    found = []
    for path in MODULES:
        if path in surface:
            continue
        for function in ast.walk(tree(path)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            found += [
                f"{path.relative_to(ROOT)}: {name}"
                for node in ast.walk(function)
                for name in imported(node)
                if name.partition(".")[0] not in OPTIONAL and not name.startswith(SLOW)
            ]
    assert found == []


def test_optional_packages_are_declared_by_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = " ".join(
        line.replace("-", "_")
        for extra in ("train", "nano", "wandb", "lora", "adamw8bit", "serve", "web")
        for line in project["optional-dependencies"][extra]
    )
    for module in OPTIONAL:
        assert {"yaml": "pyyaml"}.get(module, module) in declared


def test_nothing_breaks_a_habit_that_no_linter_knows():
    """No global seed, no unsafe unpickling, no switched-off strictness, no work left to do."""
    found = []
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            options = {item.arg: ast.unparse(item.value) for item in node.keywords}
            if called in ("torch.manual_seed", "torch.seed", "np.random.seed", "random.seed"):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {called}")
            if called == "torch.load" and options.get("weights_only") != "True":
                found.append(
                    f"{path.relative_to(ROOT)}:{node.lineno}: torch.load without weights_only"
                )
            if called.endswith("load_state_dict") and options.get("strict") == "False":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: strict=False")
            if called == "NotImplementedError":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: a stub")
    assert found == []


def test_functions_stay_short():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.body[0].lineno >= LONGEST_FUNCTION
    ]
    assert found == []


def test_every_test_file_asserts_something():
    words = ("assert", "raises", "check_")
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if not any(word in path.read_text(encoding="utf-8") for word in words)
    ]
    assert silent == []
