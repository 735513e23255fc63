from __future__ import annotations

import pytest
import yaml

from openjanus.train.runs import run_training


def test_a_run_is_resumed_with_what_it_was_started_with(make_config, tmp_path):
    run_training(make_config(run={"steps": 3, "stop_at": 1}))
    for steps, changes, named in (
        (3, {"optim": {"lr": 3e-3}}, r"optim\.lr 0\.001, got 0\.003"),
        (3, {"ratio": (1, 3, 5)}, r"ratio \[2, 3, 5\], got \[1, 3, 5\]"),
        (4, {}, r"run\.steps 3, got 4"),
    ):
        with pytest.raises(ValueError, match=named):
            run_training(make_config(run={"steps": steps, "resume": True}, **changes))
    run_training(make_config(run={"steps": 3, "resume": True, "save_every": 1}, prefetch=False))
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_a_refused_run_leaves_the_other_ones_configuration(make_config, tmp_path):
    run_training(make_config(run={"stop_at": 1}))
    with pytest.raises(ValueError, match="holds a run already"):
        run_training(make_config(optim={"lr": 3e-3}))
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert config["optim"]["lr"] == 1e-3
