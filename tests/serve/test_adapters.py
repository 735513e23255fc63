"""Adapters by name: each request gets the model that it asks for, whatever runs beside it."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import io
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import openjanus
from openjanus.cli import main
from openjanus.pipeline import Janus
from openjanus.pipeline.load import load_beside
from openjanus.serve.metrics import Metrics
from openjanus.serve.options import ServeOptions
from openjanus.serve.room import Room
from openjanus.serve.server import build_server, listening_socket
from openjanus.weights.adapters import Adapter, save_adapter

CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"
NAMES = ("tiny", "first", "second")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    found = {}
    for seed, name in enumerate(NAMES[1:]):
        generator = torch.Generator().manual_seed(seed)
        pairs = {}
        for key, tensor in openjanus.build("tiny").named_parameters():
            if key.endswith("_proj.weight") and ".layers." in key and key.startswith("language"):
                out, width = tensor.shape
                pairs[key.removesuffix(".weight")] = (
                    torch.randn(2, width, generator=generator),
                    torch.randn(out, 2, generator=generator) * 0.3,
                )
        adapter = Adapter(rank=2, alpha=2.0, pairs=pairs, whole={}, base="tiny")
        found[name] = tmp_path_factory.mktemp("adapters") / name
        save_adapter(found[name], adapter, layout="openjanus")
    return found


@pytest.fixture(scope="module")
def base(janus, tmp_path_factory) -> Path:
    """Of a model with logits far from flat."""
    folder = tmp_path_factory.mktemp("base")
    janus.save(folder)
    return folder


@pytest.fixture(scope="module")
def alone(base, folders) -> dict[str, Janus]:
    """Each loaded by itself, merged."""
    merged = {n: openjanus.load(base, device="cpu", adapter=f) for n, f in folders.items()}
    return {"tiny": openjanus.load(base, device="cpu")} | merged


@contextlib.contextmanager
def serving(base: Path, folders: dict[str, Path], until) -> Iterator[httpx.Client]:
    janus = openjanus.load(base, device="cpu")
    beside = {name: load_beside(janus, folder) for name, folder in folders.items()}
    options = ServeOptions(model_names=("tiny",), adapter_names=tuple(beside), port=0)
    with (
        listening_socket(options) as listening,
        Room(janus, max_jobs=64, metrics=Metrics(), beside=beside) as room,
    ):
        server = build_server(room, options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            port = listening.getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield client
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


@pytest.fixture(scope="module")
def client(base, folders, until) -> Iterator[httpx.Client]:
    with serving(base, folders, until) as client:
        yield client


def test_all_names_are_listed_and_no_other_is_known(client):
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == list(NAMES)
    assert client.get("/v1/models/second").json()["id"] == "second"
    body = {"model": "secnd", "messages": [{"role": "user", "content": "x"}]}
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 404 and "'second'" in answer.json()["error"]["message"]


def test_a_batch_never_mixes_models(client, alone):
    """Many at once, in any order: each answer is the one of its model alone."""
    rng = random.Random(11)
    asked = [
        (name, kind, f"{word} {index}", index)
        for index, word in enumerate(("cat", "dog", "a red car and three apples"))
        for name in NAMES
        for kind in (CHAT, DRAW)
    ]
    asked += rng.sample(asked, 6)  # some of them twice
    rng.shuffle(asked)

    def ask(one: tuple[str, str, str, int]) -> dict:
        name, kind, text, seed = one
        if kind == DRAW:
            body = {"model": name, "prompt": text, "seed": seed}
        else:
            message = {"role": "user", "content": text}
            body = {"model": name, "messages": [message], "seed": seed, "temperature": 1}
            body["max_tokens"] = 6 + 5 * seed
        answer = client.post(kind, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(ask, asked))
    seen: dict[tuple, set] = {}
    for (name, kind, text, seed), answer in zip(asked, answers, strict=True):
        janus = alone[name]
        if kind == DRAW:
            png = base64.b64decode(answer["data"][0]["b64_json"])
            wanted = np.asarray(janus.draw(text, seed=seed).images[0])
            found = np.asarray(Image.open(io.BytesIO(png)))
            # Pixels of the same ids; their decoder is the same network in another batch.
            assert np.abs(found.astype(int) - wanted).max() <= 1
            seen.setdefault((kind, text), set()).add(found.tobytes())
        else:
            reply = janus.chat(text, seed=seed, temperature=1.0, max_new_tokens=6 + 5 * seed)
            assert answer["model"] == name
            assert answer["choices"][0]["message"]["content"] == reply.text
            seen.setdefault((kind, text), set()).add(reply.text)
    assert all(len(different) == len(NAMES) for different in seen.values())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a=x", "a=y"], "--adapter a is given twice"),
        (["x", "y"], "only one is"),
        (["x", "a=y"], "only one is"),
        (["=x"], "takes DIR or NAME=DIR"),
        (["tiny=x"], "a name each, of their own"),
        (["a=nowhere"], "no adapter_config.json in nowhere"),
    ],
)
def test_the_command_says_what_is_wrong(options, says, capsys):
    words = [word for one in options for word in ("--adapter", one)]
    assert main(["serve", "--model", "tiny", "--port", "0", *words]) == 2
    assert says in capsys.readouterr().err
