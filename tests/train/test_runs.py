from __future__ import annotations

import shutil
import time

import pytest
import yaml

from openjanus.train.runs import run_training


def test_a_run_is_resumed_with_what_it_was_started_with(make_config, tmp_path):
    run_training(make_config(run={"steps": 3, "stop_at": 1}))
    for steps, changes, named in (
        (3, {"optim": {"lr": 3e-3}}, r"optim\.lr 0\.001, got 0\.003"),
        (3, {"ratio": (1, 3, 5)}, r"ratio \[2.0, 3.0, 5.0\], got \[1, 3, 5\]"),
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


def test_a_run_from_before_a_key_existed_goes_on(make_config, tmp_path):
    run_training(make_config(run={"steps": 2, "stop_at": 1}))
    path = tmp_path / "run" / "config.yaml"
    old = yaml.safe_load(path.read_text(encoding="utf-8"))
    del old["tokenize"]
    path.write_text(yaml.safe_dump(old), encoding="utf-8")
    with pytest.raises(ValueError, match="tokenize 'whole', got 'islands'"):
        run_training(make_config(run={"steps": 2, "resume": True}, tokenize="islands"))
    run_training(make_config(run={"steps": 2, "resume": True}))
    assert (tmp_path / "run" / "final").is_dir()


def test_a_result_is_not_overwritten(make_config, tmp_path):
    run_training(make_config(run={"steps": 1}))
    for checkpoint in (tmp_path / "run").glob("step-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(ValueError, match="holds a run already"):
        run_training(make_config(run={"steps": 1}))


def test_what_comes_after_a_stopped_run_is_refused(make_config, tmp_path):
    run_training(make_config(run={"steps": 2, "stop_at": 1}))
    after = make_config(run={"dir": str(tmp_path / "after")}, init=["run/final", "tiny"])
    with pytest.raises(ValueError, match=r"run is not complete: finish it with --run\.resume true"):
        run_training(after)


def test_a_second_process_is_kept_out_of_a_run_and_a_killed_one_holds_nothing(
    make_config, start_run, tmp_path
):
    folder = tmp_path / "run"
    going = make_config(run={"steps": 10_000, "save_every": 5})
    (first,) = start_run(going, 1)
    deadline = time.monotonic() + 300
    while not list(folder.glob("step-*")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"another process is at work in .*run: wait for it"):
            run_training(make_config(run={"steps": 10_000, "save_every": 5, "resume": resume}))
    assert first.poll() is None
    first.kill()
    first.wait()
    stop_at = 1 + last_step(folder)
    run_training(make_config(run={"steps": 10_000, "resume": True, "stop_at": stop_at}))
    assert last_step(folder) == stop_at


def last_step(folder):
    return max(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_a_run_of_a_folder_that_is_a_file_is_refused(make_config, tmp_path):
    (tmp_path / "run").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.dir is a folder, .*run is a file: give another"):
        run_training(make_config())


def test_a_run_from_before_there_was_a_lock_goes_on(make_config, tmp_path):
    run_training(make_config(run={"steps": 2, "stop_at": 1}))
    (tmp_path / "run" / "train.lock").unlink()
    run_training(make_config(run={"steps": 2, "resume": True}))
    assert (tmp_path / "run" / "final").is_dir()
