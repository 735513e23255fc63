"""The example of a training loop of one's own learns, and is as short as it says."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_loop.py"


def test_the_example_learns(capsys):
    history = runpy.run_path(str(EXAMPLE))["main"](20)
    assert len(history) == 20
    assert history[-1] < history[0] - 1.0
    assert "'und'" in capsys.readouterr().out


def test_the_example_is_short_and_uses_public_names_alone():
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    lines = {node.lineno for node in ast.walk(main) if isinstance(node, ast.stmt)}
    assert len(lines - {main.lineno}) - 1 <= 25  # the docstring is none
    modules = [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
    modules += [
        name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names
    ]
    assert not [module for module in modules if module.startswith("openjanus.")]
