"""The file of the small decoder: written, read, and refused where it is not the model's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openjanus.config import VQConfig
from openjanus.model.vq import VQTokenizer
from openjanus.weights.previewer import (
    PREVIEWER_FILE,
    name_of,
    new_previewer,
    read_previewer,
    save_previewer,
)

CONFIG = VQConfig(
    image_size=16,
    base_channels=32,
    channel_multipliers=(1, 1, 2),
    num_res_blocks=1,
    z_channels=16,
    codebook_size=32,
    codebook_dim=8,
)


def tokenizer(seed: int) -> VQTokenizer:
    torch.manual_seed(seed)
    return VQTokenizer(CONFIG)


def written(folder: Path, vq: VQTokenizer) -> Path:
    torch.manual_seed(1)
    return save_previewer(folder, new_previewer(vq, width=6), vq)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    vq = tokenizer(0)
    torch.manual_seed(1)
    previewer = new_previewer(vq, width=6)
    save_previewer(tmp_path, previewer, vq)
    read = read_previewer(tmp_path, vq)
    assert read is not None and read.patch == 4 and not read.training
    ids = torch.randint(32, (1, 2, 4))
    with torch.no_grad():
        for one in previewer.parameters():
            one.copy_(one.bfloat16().float())  # 16 bits are kept
    assert torch.equal(read(ids), previewer(ids))
    assert read(ids).shape == (1, 3, 8, 16)


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    assert read_previewer(tmp_path, tokenizer(0)) is None


def test_a_tokenizer_is_known_in_any_dtype_and_no_other_is_taken_for_it(tmp_path: Path) -> None:
    vq = tokenizer(0)
    written(tmp_path, vq)
    name = name_of(vq)
    assert name_of(tokenizer(1)) != name
    assert name_of(vq.to(torch.bfloat16)) == name
    assert name_of(vq.to(torch.float32)) == name
    assert read_previewer(tmp_path, vq) is not None
    with torch.no_grad():
        vq.decoder.conv_out.weight.mul_(2)  # as where a pixel decoder is trained on
    with pytest.raises(ValueError, match=r"made for another image tokenizer.*make it anew"):
        read_previewer(tmp_path, vq)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda state: state.pop("conv_mid.bias"), "holds other tensors than a previewer's"),
        (lambda state: state.pop("conv_in.bias"), "holds other tensors than a previewer's"),
        (lambda state: state.update(more=torch.zeros(1)), "holds other tensors"),
        (lambda state: state.update({"conv_in.bias": torch.zeros(7)}), "holds other tensors"),
    ],
)
def test_other_tensors_are_refused(tmp_path: Path, spoil, says: str) -> None:
    vq = tokenizer(0)
    path = written(tmp_path, vq)
    state = load_file(path)
    spoil(state)
    save_file(state, path, metadata={"format_version": "1", "tokenizer": name_of(vq)})
    with pytest.raises(ValueError, match=says):
        read_previewer(tmp_path, vq)


def test_broken_and_newer_files_are_refused_in_one_line(tmp_path: Path) -> None:
    vq = tokenizer(0)
    path = tmp_path / PREVIEWER_FILE
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="is no safetensors file") as caught:
        read_previewer(tmp_path, vq)
    assert "\n" not in str(caught.value)
    save_file({"a": torch.zeros(1)}, path, metadata={"format_version": "2"})
    with pytest.raises(ValueError, match="is of format 2, this reads 1"):
        read_previewer(tmp_path, vq)
