from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from openjanus.config import ProcessorConfig
from openjanus.eval.record import prompts_hash, template_hash, weights_hash
from openjanus.eval.runner import FORMAT_VERSION, batches, read_predictions, run_task, what_differs
from openjanus.eval.task import Prediction, Request, build_task, register_task, task_names
from openjanus.model.janus import build_model
from openjanus.pipeline import Janus
from openjanus.pipeline.load import load
from openjanus.processor.templates import with_template


class EchoTask:
    """Answers every request with its prompt; stops in the middle when told to."""

    rules = "echo v1"
    batch_size = 2
    stop_after: int | None = None
    asked: list[str]

    def __init__(self, *, words: str = "a b c d e", loud: bool = False) -> None:
        self.words = words.split()
        self.loud = loud
        self.asked = []
        EchoTask.last = self

    last: EchoTask

    def settings(self, janus: Janus) -> dict[str, Any]:
        return {"loud": self.loud}

    def requests(self, *, limit: int | None, seed: int) -> list[Request]:
        return [
            Request(key=f"{seed}/{word}", group=str(i // 3), prompt=word)
            for i, word in enumerate(self.words[:limit])
        ]

    def answer(self, janus: Janus, batch: Sequence[Request], folder: Path) -> list[Prediction]:
        if EchoTask.stop_after is not None and len(self.asked) >= EchoTask.stop_after:
            raise KeyboardInterrupt
        self.asked += [request.prompt for request in batch]
        return [{"key": request.key, "reply": request.prompt} for request in batch]

    def summarise(
        self, janus: Janus, predictions: Sequence[Prediction], folder: Path, *, seed: int
    ) -> dict[str, Any]:
        return {"text": "".join(p["reply"] for p in predictions)}


register_task("echo", EchoTask)


@pytest.fixture(scope="module")
def janus() -> Janus:
    return load("tiny")


def test_a_run_leaves_a_whole_record(janus: Janus, tmp_path: Path) -> None:
    summary = run_task(janus, "echo", output=tmp_path / "run", seed=4)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["text"] == "abcde"
    assert summary["format_version"] == FORMAT_VERSION
    assert summary["rules"] == "echo v1"
    assert summary["options"] == {"loud": False}
    assert summary["checkpoint_sha256"] == weights_hash(janus.model)
    assert summary["template_sha256"] == template_hash(janus.config.processor)
    assert summary["template"] == "deepseek"
    assert (summary["prompts"], summary["seed"], summary["dtype"]) == (5, 4, "float32")
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [f"4/{word}" for word in "abcde"]


def test_a_record_names_the_models_own_template(janus: Janus, tmp_path: Path) -> None:
    run_task(janus, "echo", output=tmp_path / "run")
    processor = with_template(janus.config.processor, "paper")
    config = dataclasses.replace(janus.config, processor=processor)
    other = Janus(build_model(config, device="cpu"), janus.processor.tokenizer)
    other.model.load_state_dict(janus.model.state_dict())
    summary = run_task(other, "echo", output=tmp_path / "other")
    assert summary["template"] == "paper"
    assert summary["template_sha256"] != template_hash(janus.config.processor)
    with pytest.raises(ValueError, match="a run with other template, template_sha256:"):
        run_task(other, "echo", output=tmp_path / "run")


def test_a_templates_hash_is_the_one_that_older_results_have() -> None:
    """Before there were templates, it was of these fields."""
    fields = dataclasses.asdict(ProcessorConfig())
    assert fields.pop("template") == "deepseek"
    text = json.dumps(fields, sort_keys=True)
    assert template_hash(ProcessorConfig()) == hashlib.sha256(text.encode()).hexdigest()


def test_a_stopped_run_goes_on_where_it_was(
    janus: Janus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EchoTask, "stop_after", 3)
    with pytest.raises(KeyboardInterrupt):
        run_task(janus, "echo", output=tmp_path)
    assert not (tmp_path / "summary.json").exists()
    monkeypatch.setattr(EchoTask, "stop_after", None)
    # As if the last line had been cut off while it was written.
    with (tmp_path / "predictions.jsonl").open("a") as file:
        file.write('{"key": "0/d", "repl')
    assert run_task(janus, "echo", output=tmp_path)["text"] == "abcde"
    assert EchoTask.last.asked == ["d", "e"]


def test_the_time_of_a_run_is_that_of_all_its_sessions(janus: Janus, tmp_path: Path) -> None:
    first = run_task(janus, "echo", output=tmp_path)
    path = tmp_path / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert first["seconds"] >= sum(line["seconds"] for line in lines) >= 0
    path.write_text("".join(json.dumps(line | {"seconds": 100.0}) + "\n" for line in lines))
    assert run_task(janus, "echo", output=tmp_path)["seconds"] >= 500


@pytest.mark.parametrize("reply", ["a\u2028b\x85c", "\ufffd", "\u732b"])
def test_any_reply_survives_the_file_and_a_cut_character(reply: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(json.dumps({"key": "k", "reply": reply}).encode() + b"\n" + b'{"key": "\xe7')
    assert read_predictions(path) == {"k": {"key": "k", "reply": reply}}
    assert path.read_bytes().endswith(b"\n")


def test_another_run_is_not_mixed_in(janus: Janus, tmp_path: Path) -> None:
    run_task(janus, "echo", output=tmp_path)
    with pytest.raises(ValueError, match="other options: give another output folder"):
        run_task(janus, "echo", output=tmp_path, options={"loud": True})
    with pytest.raises(ValueError, match="other limit, prompts, prompts_sha256"):
        run_task(janus, "echo", output=tmp_path, limit=2)
    settings = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"format_version": 1}))
    with pytest.raises(ValueError, match="other format_version: give another output folder"):
        run_task(janus, "echo", output=tmp_path)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"predictions without settings.json"):
        run_task(janus, "echo", output=tmp_path)


def test_what_sets_a_folder_apart_is_named(janus: Janus, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def differing(model: Janus = janus, **changes: Any) -> list[str]:
        return what_differs(lambda: model, "echo", output=folder, **changes)

    assert differing() == []
    run_task(janus, "echo", output=folder)
    assert differing() == []
    assert differing(seed=1, options={"loud": True}) == ["options", "prompts_sha256", "seed"]
    other = load("tiny")
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    assert differing(other) == ["checkpoint_sha256"]
    (folder / "settings.json").unlink()
    assert differing() == ["settings.json"]


SECOND = """
import sys
from pathlib import Path
from openjanus.eval.runner import claimed
try:
    with claimed(Path(sys.argv[1]), {"task": "echo"}):
        print("held", flush=True)
        sys.stdin.read()
except ValueError as error:
    sys.exit(str(error))
"""


def test_two_processes_do_not_share_a_folder(
    janus: Janus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", SECOND, str(tmp_path)]
    told: list[str] = []

    def answer(self: EchoTask, janus: Janus, batch: Any, folder: Path) -> list[Prediction]:
        if not told:  # while this process is at work
            told.append(subprocess.run(command, capture_output=True, text=True, check=False).stderr)
        return [{"key": request.key, "reply": request.prompt} for request in batch]

    monkeypatch.setattr(EchoTask, "answer", answer)
    assert run_task(janus, "echo", output=tmp_path)["text"] == "abcde"
    refusal = f"another process is at work in {tmp_path}: wait for it, or give another output"
    assert told[0].startswith(refusal)

    for path in tmp_path.iterdir():
        path.unlink()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as second:
        assert second.stdout is not None
        assert second.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is at work"):
            run_task(janus, "echo", output=tmp_path)
        second.kill()
    with pytest.raises(ValueError, match="holds a run with other"):  # its settings, not its lock
        run_task(janus, "echo", output=tmp_path)


def test_wrong_arguments(janus: Janus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        run_task(janus, "echo", output=tmp_path, limit=0)
    with pytest.raises(KeyError, match=r"unknown task 'ecko'.*echo"):
        run_task(janus, "ecko", output=tmp_path)
    with pytest.raises(ValueError, match=r"unknown option 'word'.*words"):
        build_task("echo", {"word": "x"})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=r"output is a folder, .*file is a file: give another"):
            run_task(lambda: pytest.fail("loaded"), "echo", output=output)


def test_the_registry_knows_installed_and_registered_tasks() -> None:
    assert {"echo", "emoji"} <= set(task_names())
    with pytest.raises(ValueError, match="task 'echo' is taken"):
        register_task("echo", lambda: EchoTask())


def test_batches_hold_neighbours_of_one_group() -> None:
    requests = [Request(key=str(i), group=g, prompt="") for i, g in enumerate("aaabba")]
    made = [[request.key for request in batch] for batch in batches(requests, 2)]
    assert made == [["0", "1"], ["2"], ["3", "4"], ["5"]]


def test_a_broken_line_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"key": "a"}\n{"key"\n{"key": "c"}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_predictions(path)


@pytest.mark.parametrize("line", ["[1]", "1", '{"reply": "a"}', '{"key": 1}', '{"key": ["a"]}'])
def test_a_line_that_is_no_prediction_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(f'{{"key": "a"}}\n{line}\n')
    with pytest.raises(ValueError, match="line 2 is no prediction with its key: delete it"):
        read_predictions(path)


def test_hashes_tell_weights_and_prompts_apart() -> None:
    model = torch.nn.Linear(2, 2, bias=False)
    before = weights_hash(model)
    assert weights_hash(torch.nn.Sequential(model)) != before
    assert weights_hash(model.bfloat16()) != before
    with torch.no_grad():
        model.weight[0, 0] += 1
    assert weights_hash(model.float()) != before
    assert prompts_hash(["a", "b"]) != prompts_hash(["ab"])
