"""LPIPS against a plain computation, and what its files may hold. Random weights throughout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from openjanus.config import VQConfig
from openjanus.data.sources import build_source
from openjanus.model.vq import VQTokenizer
from openjanus.presets import preset
from openjanus.train.perceptual import PerceptualLoss, load_perceptual
from openjanus.train.run_config import RunConfig
from openjanus.train.runs import init_vq
from openjanus.train.source_config import SourceConfig
from openjanus.train.vq_config import VQEvalConfig, VQLossConfig, VQTrainConfig
from openjanus.train.vq_trainer import VQTrainer

# torchvision's places of VGG16's convolutions; the last of each stage is what LPIPS reads.
CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
READ = (2, 7, 14, 21, 28)
POOLED_AFTER = (2, 7, 14, 21)


@pytest.fixture(scope="module")
def state():
    generator = torch.Generator().manual_seed(0)
    found, before = {}, 3
    for place, width in zip(CONVS, WIDTHS, strict=True):
        weight = torch.randn(width, before, 3, 3, generator=generator) * (2 / (before * 9)) ** 0.5
        found[f"features.{place}.weight"] = weight
        found[f"features.{place}.bias"] = torch.randn(width, generator=generator) * 0.1
        before = width
    for index, place in enumerate(READ):
        width = WIDTHS[CONVS.index(place)]
        found[f"lin{index}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return found


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "both.safetensors"
    save_file(state, path)
    return str(path)


def plain_lpips(state, one, other):
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = 0.0
    a, b = ((x - shift[:, None, None]) / scale[:, None, None] for x in (one, other))
    for place in CONVS:
        weight, bias = state[f"features.{place}.weight"], state[f"features.{place}.bias"]
        a, b = (F.conv2d(x, weight, bias, padding=1).clamp(min=0) for x in (a, b))
        if place in READ:
            unit_a, unit_b = (x / x.pow(2).sum(1, keepdim=True).sqrt() for x in (a, b))
            lin = state[f"lin{READ.index(place)}.model.1.weight"][0, :, 0, 0]
            total += torch.einsum("bchw,c->bhw", (unit_a - unit_b) ** 2, lin).mean().item()
        if place in POOLED_AFTER:
            a, b = (F.max_pool2d(x, 2, 2) for x in (a, b))
    return total


def pictures(seed):
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_it_is_lpips(state, weights):
    model = load_perceptual([weights])
    one, other = pictures(1), pictures(2)
    distance = model(one, other)
    assert distance.item() == pytest.approx(plain_lpips(state, one, other), rel=1e-4)
    assert model(one, one).item() == 0
    assert model.pooled(one).shape == (2, 512)


def test_gradients_reach_the_picture_and_stay_finite_where_all_features_are_0(state, weights):
    model = load_perceptual([weights])
    with torch.no_grad():
        model.get_parameter("features.28.bias").fill_(-1e6)
    made = pictures(1).requires_grad_()
    model(made, pictures(2)).backward()
    assert made.grad is not None
    assert made.grad.isfinite().all()
    assert made.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


def test_the_published_files_fit(state, weights, tmp_path):
    vgg = {name: t for name, t in state.items() if name.startswith("features")}
    lins = {name: t for name, t in state.items() if name.startswith("lin")}
    torch.save(vgg | {"classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.pth")
    torch.save(lins, tmp_path / "vgg.pth")
    model = load_perceptual([str(tmp_path / "vgg16.pth"), str(tmp_path / "vgg.pth")])
    whole = load_perceptual([weights]).state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match=r"missing lin0.*lpips/weights/v0\.1"):
        load_perceptual([str(tmp_path / "vgg16.pth")])
    with pytest.raises(ValueError, match="a second time"):
        load_perceptual([str(tmp_path / "vgg.pth")] * 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features.99.weight": torch.zeros(1)}, r"unexpected features\.99\.weight"),
        ({"features.0.bias": torch.zeros(3)}, r"features\.0\.bias is \(3,\), wanted \(64,\)"),
    ],
)
def test_other_files_are_refused(state, tmp_path, change, said):
    save_file(state | change, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=said):
        load_perceptual([str(tmp_path / "x.safetensors")])


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.pth: give vgg16-"):
        load_perceptual([str(tmp_path / "x.pth")])
    torch.save([1, 2], tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no state dict"):
        load_perceptual([str(tmp_path / "x.pth")])


def make_trainer(**loss):
    door = preset("tiny").gen_tokenizer
    assert isinstance(door, VQConfig)
    model = VQTokenizer(door)
    init_vq(model, 0)
    config = VQTrainConfig(
        source=SourceConfig(type="toy-pictures"),
        run=RunConfig(dir="x", steps=2),
        loss=VQLossConfig(**loss),
        eval=VQEvalConfig(every=1, pictures=4),
        batch_size=2,
        bf16=False,
    )
    return VQTrainer(model, build_source("toy-pictures", {}), config)


def test_a_run_weighs_it_and_takes_its_features(weights):
    without = make_trainer().train_step(0)
    values = make_trainer(perceptual=0.5, perceptual_weights=[weights]).train_step(0)
    assert values["loss"] == pytest.approx(without["loss"] + 0.5 * values["perceptual"], rel=1e-5)
    assert values["perceptual"] > 0
    assert "frechet_vgg16_relu5_3" in values
    assert "perceptual" not in without
    assert "frechet_random_encoder" in without


def test_a_weight_without_files_is_refused():
    with pytest.raises(ValueError, match=r"needs loss\.perceptual_weights"):
        make_trainer(perceptual=1.0)
    with pytest.raises(ValueError, match=r"must be >= 0"):
        VQLossConfig(perceptual=-1.0)


def test_the_network_is_frozen():
    assert not any(p.requires_grad for p in PerceptualLoss().parameters())
