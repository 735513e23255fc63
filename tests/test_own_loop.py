"""The example of a training loop of one's own learns."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_loop.py"


def test_the_example_learns(capsys):
    history = runpy.run_path(str(EXAMPLE))["main"](12, batch_size=10)
    assert len(history) == 12
    assert history[-1] < history[0] - 0.5
    assert "gen" in capsys.readouterr().out
