"""What may befall a run of days: kills at any moment, a process that dies, two hosts."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from openjanus.train.checkpoint import checkpoint_steps, load_checkpoint, newest_checkpoint
from openjanus.train.metrics import read_metrics
from openjanus.train.watch_config import ValConfig, ValTaskConfig

pytestmark = pytest.mark.long

KILLS = 20
STEPS = 3 * KILLS
PACKS = {"batch_unit": "packs", "batch_size": 2, "pack_length": 256, "ratio_unit": "tokens"}

ENTRY = "import sys; from openjanus.cli import main; sys.exit(main())"

FORKED = """
import os, sys
from openjanus.cli import main
import openjanus.train.runs
for line in sys.stdin:  # everything is imported once: each run is a fork of this process
    child = os.fork()
    if child == 0:
        code = 1
        os.dup2(2, 1)  # what a run prints is no answer of ours
        try:
            code = main(line.split())
        finally:
            os._exit(code)
    print("started", child, flush=True)
    status = os.waitpid(child, 0)[1]
    print("ended", status, flush=True)
"""


def write_config(config):
    path = Path(config.run.dir).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(plain(dataclasses.asdict(config))), encoding="utf-8")
    return str(path)


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def column(folder, name):
    return [line[name] for line in read_metrics(Path(folder) / "metrics.jsonl")]


def wait_until(true, timeout_s=600.0):
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_kills_at_twenty_moments_lose_nothing_and_change_nothing(make_config, tmp_path):
    def config_of(name, **run):
        folder = str(tmp_path / name)
        return make_config(
            run={"dir": folder, "steps": STEPS, "save_every": 1, **run},
            ema_decay=0.99,
            id_cache=f"{folder}-ids",
            **PACKS,
        )

    def say(process, words):
        process.stdin.write(words + "\n")
        process.stdin.flush()
        return int(process.stdout.readline().split()[1])

    command = [sys.executable, "-c", FORKED]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    say(process, f"train --config {write_config(config_of('whole', save_every=1000))}")
    assert process.stdout.readline() == "ended 0\n"

    folder, moments, halves = tmp_path / "killed", random.Random(0), 0
    path = write_config(config_of("killed"))
    for number in range(KILLS):
        resume = "true" if checkpoint_steps(folder) else "false"
        child = say(process, f"train --config {path} --run.resume {resume}")
        before = max(checkpoint_steps(folder), default=0)
        wait_until(lambda seen=before: max(checkpoint_steps(folder), default=0) > seen)
        if number % 4 == 0:  # into a save, however slow the machine is
            wait_until(lambda: any(folder.glob("writing-*")))
        else:
            time.sleep(moments.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        assert process.stdout.readline() == f"ended {int(signal.SIGKILL)}\n", "it had ended before"
        halves += len(list(folder.glob("writing-*")))
        load_checkpoint(newest_checkpoint(folder))
    say(process, f"train --config {path} --run.resume true")
    assert process.stdout.readline() == "ended 0\n"
    process.stdin.close()
    process.wait()

    assert halves > 0, "no kill fell into a save"
    assert column(folder, "step") == list(range(1, STEPS + 1))
    assert column(folder, "loss") == column(tmp_path / "whole", "loss")
    assert column(folder, "samples") == column(tmp_path / "whole", "samples")
    ends = [load_checkpoint(newest_checkpoint(f))["task"] for f in (tmp_path / "whole", folder)]
    assert ends[0]["data"] == ends[1]["data"]
    places = []
    for end in ends:
        shapes = end["shards"].shapes()
        places.append({name: torch.zeros(shape) for name, shape in shapes.items()})
        end["shards"].read_into(places[-1])
    assert places[0].keys() == places[1].keys()
    assert all(torch.equal(tensor, places[1][name]) for name, tensor in places[0].items())
    finals = [load_file(f / "final" / "model.safetensors") for f in (tmp_path / "whole", folder)]
    assert all(torch.equal(tensor, finals[1][name]) for name, tensor in finals[0].items())


def torchrun(config, *options, prefix=(), **environment):
    script = Path(config.run.dir).with_name("entry.py")
    script.write_text(ENTRY, encoding="utf-8")
    own = {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        [
            *prefix,
            *(sys.executable, "-m", "torch.distributed.run", *options),
            *(str(script), "train", "--config", write_config(config)),
        ],
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_job_goes_on_after_one_of_its_processes_was_killed(make_config, tmp_path):
    config = make_config(run={"steps": 12, "save_every": 2}, bf16=False, **PACKS)
    job = torchrun(config, "--standalone", "--nproc-per-node=2", "--max-restarts=1")
    try:
        wait_until(lambda: checkpoint_steps(tmp_path / "run"))
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        said, _ = job.communicate(timeout=600)
    finally:
        job.kill()
    assert job.returncode == 0, said
    assert "Signal 9 (SIGKILL)" in said or "exitcode: -9" in said, said
    whole = make_config(run={"dir": str(tmp_path / "whole"), "steps": 12}, bf16=False, **PACKS)
    subprocess.run(
        [sys.executable, "-c", ENTRY, "train", "--config", write_config(whole)],
        check=True,
        capture_output=True,
    )
    assert column(tmp_path / "run", "step") == list(range(1, 13))
    losses = column(tmp_path / "whole", "loss")
    assert column(tmp_path / "run", "loss") == pytest.approx(losses, abs=1e-4)


SLOW = """
import sys, time
from openjanus.cli import main
from openjanus.eval.task import Request, register_task


class Slow:
    rules = "test v1"
    batch_size = 1

    def settings(self, janus):
        return {}

    def requests(self, *, limit, seed):
        return [Request(key="0", group="g", prompt="0")]

    def answer(self, janus, batch, folder):
        time.sleep(80)
        return [{"key": "0"}]

    def summarise(self, janus, predictions, folder, *, seed):
        return {"score": 1.0}


register_task("slow", Slow)
sys.exit(main())
"""


def test_a_task_may_take_longer_than_processes_wait_for_a_silent_one(
    make_config, run_processes, tmp_path
):
    config = make_config(
        run={"steps": 1},
        process_timeout_s=60,
        val=ValConfig(tasks=[ValTaskConfig(task="slow", every=1)]),
    )
    run_processes(config, 2, entry=SLOW)
    assert column(tmp_path / "run", "eval_slow_score") == [1.0]


HOSTS = ("openjanus-a", "openjanus-b")
ADDRESSES = ("10.203.47.1", "10.203.47.2")


@pytest.fixture
def hosts():
    """Two network namespaces, joined by a cable: to torch, two hosts."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip (iproute2)")

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)

    made = [ip("netns", "add", name) for name in HOSTS]
    made.append(ip("link", "add", "ojv0", "type", "veth", "peer", "name", "ojv1"))
    for name, link, address in zip(HOSTS, ("ojv0", "ojv1"), ADDRESSES, strict=True):
        made.append(ip("link", "set", link, "netns", name))
        made.append(ip("-n", name, "addr", "add", f"{address}/24", "dev", link))
        made.append(ip("-n", name, "link", "set", link, "up"))
        made.append(ip("-n", name, "link", "set", "lo", "up"))
    failed = [result.stderr for result in made if result.returncode != 0]
    try:
        if failed:
            pytest.skip(f"this kernel makes no network namespaces: {failed[0].strip()}")
        yield tuple(zip(HOSTS, ("ojv0", "ojv1"), strict=True))
    finally:
        for name in HOSTS:
            ip("netns", "delete", name)


def test_two_hosts_train_what_one_does(make_config, tmp_path, hosts):
    options = {"bf16": False, "id_cache": None, **PACKS}
    config = make_config(run={"steps": 4}, **options)
    jobs = [
        torchrun(
            config,
            *("--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}"),
            *(f"--master-addr={ADDRESSES[0]}", "--master-port=29511"),
            prefix=("ip", "netns", "exec", name),
            GLOO_SOCKET_IFNAME=link,
        )
        for rank, (name, link) in enumerate(hosts)
    ]
    try:
        said = [job.communicate(timeout=600)[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(said)
    whole = make_config(run={"dir": str(tmp_path / "whole"), "steps": 4}, **options)
    subprocess.run(
        [sys.executable, "-c", ENTRY, "train", "--config", write_config(whole)],
        check=True,
        capture_output=True,
    )
    losses = column(tmp_path / "whole", "loss")
    assert column(tmp_path / "run", "loss") == pytest.approx(losses, abs=1e-4)
