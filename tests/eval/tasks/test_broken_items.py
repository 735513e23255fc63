"""A run survives broken items and kill -9, and says what it did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from openjanus.eval.record import template_hash, weights_hash
from openjanus.eval.runner import run_task


def write_gqa(folder: Path, number: int, side: int = 16) -> Path:
    (folder / "images").mkdir(parents=True)
    questions = {}
    for i in range(number):
        Image.new("RGB", (side, side), (i, 0, 0)).save(folder / "images" / f"{i}.jpg")
        questions[f"q{i}"] = {"imageId": str(i), "question": f"Question {i}?", "answer": "yes"}
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    return folder


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_broken_items_are_named_counted_and_left_out(scripted, tmp_path):
    data = write_gqa(tmp_path / "gqa", 6)
    (data / "images" / "1.jpg").unlink()
    whole = (data / "images" / "3.jpg").read_bytes()
    (data / "images" / "3.jpg").write_bytes(whole[:100])
    (data / "images" / "4.jpg").write_text("no picture")
    janus = scripted(lambda words: "yes")
    options = {"data": str(data), "batch_size": 4}
    with pytest.warns(UserWarning, match="is broken and left out"):
        summary = run_task(janus, "gqa", output=tmp_path / "run", options=options)
    assert (summary["n"], summary["broken"]["n"], summary["prompts"]) == (3, 3, 6)
    assert list(summary["broken"]["items"]) == ["q1", "q3", "q4"]
    assert "no image at" in summary["broken"]["items"]["q1"]
    assert "broken image" in summary["broken"]["items"]["q3"]
    assert "not an image" in summary["broken"]["items"]["q4"]
    assert summary["score"]["value"] == 100.0
    assert len(janus.asked) == 3
    # A broken item is not asked again, unless that is wanted, and then it alone.
    (data / "images" / "3.jpg").write_bytes(whole)
    with pytest.warns(UserWarning, match="q1 and 2 others were broken before and stay left out"):
        again = run_task(janus, "gqa", output=tmp_path / "run", options=options)
    assert (again["n"], len(janus.asked)) == (3, 3)
    with pytest.warns(UserWarning, match="q[14] is broken"):
        mended = run_task(janus, "gqa", output=tmp_path / "run", options=options, retry_broken=True)
    assert (mended["n"], mended["broken"]["n"], len(janus.asked)) == (4, 2, 4)
    keys = [line["key"] for line in lines_of(tmp_path / "run")]
    assert sorted(keys) == [f"q{i}" for i in range(6)]


def test_answers_about_other_pictures_are_not_kept(scripted, tmp_path):
    data = write_gqa(tmp_path / "gqa", 2)
    other = write_gqa(tmp_path / "other", 2, side=40) / "images"
    janus, out = scripted(lambda words: "yes"), tmp_path / "run"
    first = run_task(janus, "gqa", output=out, options={"data": str(data)})
    assert first["options"]["images"] == str(data / "images")
    assert run_task(janus, "gqa", output=out, options={"data": str(data)})["n"] == 2
    with pytest.raises(ValueError, match="a run with other options: give another output folder"):
        run_task(janus, "gqa", output=out, options={"data": str(data), "images": str(other)})
    # The same folder, and another picture in it.
    (data / "images" / "1.jpg").write_bytes((other / "1.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"answers q1 about other pictures than 1\.jpg \d+: give"):
        run_task(janus, "gqa", output=out, options={"data": str(data)})
    assert len(janus.asked) == 2


def test_a_question_past_the_context_breaks_alone(scripted, tmp_path):
    data = write_gqa(tmp_path / "gqa", 3)
    file = data / "testdev_balanced_questions.json"
    questions = json.loads(file.read_text())
    questions["q1"]["question"] = "one past the context"
    file.write_text(json.dumps(questions))
    with pytest.warns(UserWarning, match="q1 is broken and left out: the prompt is past"):
        summary = run_task(
            scripted(lambda words: "no"),
            "gqa",
            output=tmp_path / "run",
            options={"data": str(data)},
        )
    assert (summary["n"], summary["broken"]["n"]) == (2, 1)


def test_a_run_of_which_every_item_is_broken_is_none(scripted, tmp_path):
    data = write_gqa(tmp_path / "gqa", 2)
    for path in (data / "images").iterdir():
        path.unlink()
    with (
        pytest.warns(UserWarning, match="is broken"),
        pytest.raises(ValueError, match="every item of gqa is broken; q0: no image at"),
    ):
        run_task(
            scripted(lambda words: "no"),
            "gqa",
            output=tmp_path / "run",
            options={"data": str(data)},
        )


def test_a_result_says_how_it_was_made(tiny_janus, tmp_path):
    data = write_gqa(tmp_path / "gqa", 2)
    options = {"data": str(data), "system": "Be brief."}
    summary = run_task(tiny_janus, "gqa", output=tmp_path / "run", options=options)
    assert summary["format_version"] == 3
    assert summary["rules"].startswith("exact match")
    assert summary["checkpoint_sha256"] == weights_hash(tiny_janus.model)
    assert summary["template_sha256"] == template_hash(tiny_janus.config.processor)
    assert summary["dtype"] == "float32" and len(summary["prompts_sha256"]) == 64
    asked = summary["options"]
    assert asked["answers"] == {"temperature": 0.0, "max_new_tokens": 16}
    assert (asked["rule"], asked["system"]) == ("exact", "Be brief.")
    assert asked["suffix"] == "Answer the question using a single word or phrase."
    assert len(asked["files_sha256"]) == 64
    assert {"n", "parse_failure_rate", "cut_off_rate", "broken"} <= set(summary)
    assert len(summary["score"]["interval"]) == 2


def test_batches_change_no_answer(tiny_janus, tmp_path):
    data = write_gqa(tmp_path / "gqa", 5)
    replies = []
    for size in (1, 3):
        options = {"data": str(data), "batch_size": size}
        run_task(tiny_janus, "gqa", output=tmp_path / str(size), options=options)
        replies.append([line["reply"] for line in lines_of(tmp_path / str(size))])
    assert replies[0] == replies[1]


def test_kill_9_loses_nothing_and_asks_nothing_twice(tiny_janus, tmp_path):
    data, out = write_gqa(tmp_path / "gqa", 60), tmp_path / "run"
    code = "import sys; from openjanus.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "eval", "--model", "tiny", "--task", "gqa"]
    command += ["--data", str(data), "--output", str(out), "--set", "batch_size=1"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file = out / "predictions.jsonl"
    deadline = time.monotonic() + 300
    while not (file.is_file() and file.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    before = file.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    assert 3 <= before.count(b"\n") < 60, "the run was over before it was killed"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = file.read_bytes()
    assert after.startswith(before)
    keys = [line["key"] for line in lines_of(out)]
    assert keys == [f"q{i}" for i in range(60)]
    assert json.loads(done.stdout)["n"] == 60
