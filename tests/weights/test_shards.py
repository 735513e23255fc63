"""Weights files of every kind, and what is said of broken ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from openjanus.weights import shards
from openjanus.weights.shards import StoredTensors, open_tensors, save_shards


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {f"t{i}": torch.randn(16, 2 + i, generator=generator) for i in range(5)}


def write_bin(tensors: dict[str, Tensor], folder: Path) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")


def write_old_bin(tensors: dict[str, Tensor], folder: Path) -> None:
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def write_bin_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    names = {n: f"pytorch_model-{1 + i % 2:05}-of-00002.bin" for i, n in enumerate(tensors)}
    for file in set(names.values()):
        torch.save({n: t for n, t in tensors.items() if names[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": names}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_whole(tensors: dict[str, Tensor], folder: Path) -> None:
    save_shards(tensors, folder)


def write_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    save_shards(tensors, folder, max_shard_bytes=600)


WRITERS = (write_whole, write_shards, write_bin, write_old_bin, write_bin_shards)


def read_all(stored: StoredTensors) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    stored.read(stored.shapes, lambda name, tensor: found.update({name: tensor.clone()}))
    return found


@pytest.mark.parametrize("window", [1, 10**9], ids=["reopened", "at once"])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_kind_of_file_gives_the_same_tensors(
    write: Callable[[dict[str, Tensor], Path], None],
    window: int,
    tensors: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "WINDOW_BYTES", window)
    write(tensors, tmp_path)
    stored = open_tensors(tmp_path)
    assert stored.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = read_all(stored)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_shards_are_no_larger_than_asked_and_have_an_index(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    save_shards(tensors, tmp_path, max_shard_bytes=600)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    sizes: dict[str, int] = {}
    for name, file in index["weight_map"].items():
        sizes[file] = sizes.get(file, 0) + tensors[name].nbytes
    assert list(index["weight_map"]) == list(tensors)
    assert max(sizes.values()) <= 600
    assert len(sizes) == 3
    assert "model-00003-of-00003.safetensors" in sizes
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("size", [0, -1])
def test_a_shard_has_a_size(size: int, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"max_shard_bytes must be > 0, got {size}"):
        save_shards(tensors, tmp_path, max_shard_bytes=size)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_truncated_file_is_one_clear_error(
    write: Callable[[dict[str, Tensor], Path], None], tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    write(tensors, tmp_path)
    path = max(p for p in tmp_path.iterdir() if p.suffix in (".safetensors", ".bin"))
    path.write_bytes(path.read_bytes()[:-150])
    with pytest.raises(ValueError, match=rf"{path.name} is broken or not .*: fetch it again") as e:
        read_all(open_tensors(tmp_path))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_pointer_of_a_large_file_is_no_weights(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is broken or not"):
        open_tensors(tmp_path)


class Harm:
    """What a pickle can do when it is read."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return print, ("harm",)


def test_a_pickle_with_code_in_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is broken or not PyTorch weights"):
        open_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is broken or not PyTorch weights"):
        open_tensors(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    for thing in ({"state": {"a": torch.zeros(1)}}, {1: torch.zeros(1)}, [torch.zeros(1)]):
        torch.save(thing, tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match="holds no table of tensors"):
            open_tensors(tmp_path)


def test_an_index_naming_an_absent_file_says_which(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    write_shards(tensors, tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names model-00002-of-00003\.safetensors, which"):
        open_tensors(tmp_path)


def test_an_index_of_another_checkpoint_is_refused(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    write_shards(tensors, tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "model-00001-of-00003.safetensors")
    with pytest.raises(
        ValueError, match=r"t0 is in model-00001-of-00003\.safetensors, and it is not"
    ):
        open_tensors(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    write_shards(tensors, tmp_path)
    save_file(
        {"t0": torch.zeros(1), "t4": tensors["t4"]}, tmp_path / "model-00003-of-00003.safetensors"
    )
    with pytest.raises(ValueError, match=r"t0 is in model-00001-of-00003.* and in model-00003"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("write", [write_whole, write_bin], ids=lambda write: write.__name__)
def test_a_fault_of_whoever_takes_is_not_the_files(
    write: Callable[[dict[str, Tensor], Path], None], tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    write(tensors, tmp_path)

    def take(name: str, tensor: Tensor) -> None:
        raise RuntimeError(f"out of memory at {name}")

    with pytest.raises(RuntimeError, match=r"^out of memory at t0$"):
        open_tensors(tmp_path).read(["t0"], take)


def test_what_an_index_does_not_list_is_seen(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    write_bin_shards(tensors, tmp_path)
    path = tmp_path / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    del index["weight_map"]["t4"]
    path.write_text(json.dumps(index), encoding="utf-8")
    assert "t4" in open_tensors(tmp_path).shapes


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_a_broken_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"index\.json (has no weight_map|is not valid JSON)"):
        open_tensors(tmp_path)


def test_an_index_does_not_lead_out_of_its_folder(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    save_file(tensors, tmp_path / "secret.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "../secret.safetensors")}
    (inside / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match="shards lie beside their index"):
        open_tensors(inside)


def test_shards_without_an_index_say_what_is_missing(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    write_shards(tensors, tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has model-00001-of-00003\.safetensors but no index"
    ):
        open_tensors(tmp_path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights in .*looked for model\.safe"):
        open_tensors(tmp_path)


def test_safetensors_come_before_pickles(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    write_bin({"old": torch.zeros(1)}, tmp_path)
    write_whole(tensors, tmp_path)
    assert "old" not in open_tensors(tmp_path).shapes
