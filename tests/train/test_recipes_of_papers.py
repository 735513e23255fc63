"""The papers' recipes: their tables, what they train, and a small run of each family to its end."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from openjanus.data.sources import source_names
from openjanus.model.janus import build_model
from openjanus.presets import preset
from openjanus.processor.text import byte_tokenizer
from openjanus.train.config import JanusTrainConfig
from openjanus.train.optim import Optimizers, lr_factor
from openjanus.train.optim_config import OptimConfig
from openjanus.train.recipes import load_members, load_recipe, recipe_names, run_recipe
from openjanus.train.source_config import SourceConfig, SourcesConfig
from openjanus.train.stages import freeze_for_stage, part_of
from openjanus.train.start import fresh_model, grown_tokenizer, start_model
from openjanus.weights.formats import load_model
from openjanus.weights.own import save_model

FAMILIES = ("janus-1.3b", "janus-pro-1b", "janus-pro-7b")
STAGES = (1, 2, 3)

# Janus, Table 1, and Janus-Pro, Table 2: learning rate, schedule, weight decay, warm-up, steps of
# the schedule, steps done, batch, und : text : gen.
TABLES = {
    ("janus-1.3b", 1): (1e-3, "cosine", 0.0, 300, 10_000, 10_000, 256, (1, 0, 1)),
    ("janus-1.3b", 2): (1e-4, "constant", 0.0, 5000, 180_000, 180_000, 512, (2, 3, 5)),
    ("janus-1.3b", 3): (2e-5, "constant", 0.1, 0, 24_000, 24_000, 256, (7, 3, 10)),
    ("janus-pro-1b", 1): (1e-3, "constant", 0.0, 600, 20_000, 20_000, 256, (1, 0, 3)),
    ("janus-pro-1b", 2): (1e-4, "constant", 0.0, 5000, 360_000, 270_000, 512, (2, 3, 5)),
    ("janus-pro-1b", 3): (4e-5, "constant", 0.0, 0, 80_000, 80_000, 128, (5, 1, 4)),
    ("janus-pro-7b", 1): (1e-3, "constant", 0.0, 600, 20_000, 20_000, 256, (1, 0, 3)),
    ("janus-pro-7b", 2): (1e-4, "constant", 0.0, 5000, 360_000, 270_000, 512, (2, 3, 5)),
    ("janus-pro-7b", 3): (4e-5, "constant", 0.0, 0, 40_000, 40_000, 128, (5, 1, 4)),
}
SIZES = {  # width, feed-forward, layers, text vocabulary
    "janus-1.3b": (2048, 5632, 24, 102_400),
    "janus-pro-1b": (2048, 5632, 24, 102_400),
    "janus-pro-7b": (4096, 11_008, 30, 102_400),
}


def recipe(family: str, stage: int) -> JanusTrainConfig:
    config = load_recipe(f"{family}/stage{stage}")
    assert isinstance(config, JanusTrainConfig)
    return config


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_recipe_has_the_papers_numbers(family: str, stage: int) -> None:
    config = recipe(family, stage)
    optim, run = config.optim, config.run
    assert (
        optim.lr,
        optim.schedule,
        optim.weight_decay,
        optim.warmup_steps,
        run.steps,
        run.last_step,
        config.batch_size,
        config.ratio,
    ) == TABLES[family, stage]
    assert config.stage == stage and config.preset == family
    assert (optim.name, optim.betas, optim.grad_clip) == ("adamw", (0.9, 0.95), 1.0)
    assert (config.pack_length, config.max_length) == (4096, 4096)
    assert config.micro_batch == config.part_size(1) == config.part_size(128) == 1
    assert config.batch_size % 128 == 0
    assert config.cond_drop == 0.1
    assert config.mask_prompt == (stage == 3)
    model_config = preset(family)
    assert (model_config.und_image_size, model_config.gen_image_size) == (384, 384)


def test_the_schedule_of_sources_is_the_papers() -> None:
    first, later = recipe("janus-1.3b", 2).sources.gen
    assert (first.type, first.from_step, first.until_step) == ("image-folder", 0, 120_000)
    assert (later.from_step, later.until_step) == (120_000, None)
    assert recipe("janus-1.3b", 2).first_sentence == 0.25
    for family in FAMILIES:
        kinds = {1: ("image-folder",), 2: ("webdataset", "webdataset")}
        for stage, types in kinds.items():
            if (family, stage) != ("janus-1.3b", 2):
                sources = recipe(family, stage).sources.gen
                assert tuple(source.type for source in sources) == types
                assert all(source.until_step is None for source in sources)
                assert recipe(family, stage).first_sentence == 0
    for family in FAMILIES[1:]:  # real and synthetic pictures 1:1
        for stage in (2, 3):
            real, synthetic = recipe(family, stage).sources.gen
            assert real.weight == synthetic.weight
            assert real.options["path"] != synthetic.options["path"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_source_has_a_path_to_fill_in(family: str) -> None:
    known = source_names()
    for stage in STAGES:
        sources = recipe(family, stage).sources
        for source in (*sources.und, *sources.text, *sources.gen):
            assert source.type in known
            assert source.options["path"].startswith("data/")


def test_families_do_not_drift_apart() -> None:
    # What the papers' tables do not set apart is the same in all.
    apart = {"preset", "init", "language_model", "ratio", "batch_size", "sources", "first_sentence"}
    apart |= {"run", "optim"}
    for stage in STAGES:
        configs = [asdict(recipe(family, stage)) for family in FAMILIES]
        for name, value in configs[0].items():
            if name not in apart:
                assert all(config[name] == value for config in configs), (stage, name)
        for part, free in (
            ("run", {"steps", "early_stop"}),
            ("optim", {"lr", "schedule", "weight_decay", "warmup_steps"}),
        ):
            for name, value in configs[0][part].items():
                if name not in free:
                    assert all(config[part][name] == value for config in configs), (stage, name)
        pro = [config["sources"] for config in configs[1:]]
        assert pro[0] == pro[1]


def language_model_size(width: int, ffn: int, layers: int, words: int) -> int:
    layer = 4 * width * width + 3 * width * ffn + 2 * width
    return 2 * words * width + layers * layer + width


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def siglip_large_size() -> int:
    width, ffn, patch = 1024, 4096, 16
    block = linear(width, 3 * width) + linear(width, width)
    block += linear(width, ffn) + linear(ffn, width) + 2 * 2 * width
    return linear(3 * patch * patch, width) + 576 * width + 24 * block + 2 * width


def vq_16_size() -> int:
    def conv(inputs: int, outputs: int, side: int = 3) -> int:
        return linear(side * side * inputs, outputs)

    def res(inputs: int, outputs: int) -> int:
        shortcut = conv(inputs, outputs, 1) if inputs != outputs else 0
        return 2 * inputs + conv(inputs, outputs) + 2 * outputs + conv(outputs, outputs) + shortcut

    def attention(width: int) -> int:
        return 2 * width + 4 * conv(width, width, 1)

    widths = [128, 128, 256, 256, 512]
    middle = 2 * res(512, 512) + attention(512)
    down = conv(3, 128) + middle + 2 * 512 + conv(512, 256)
    for inputs, outputs in zip([128, *widths], widths, strict=False):
        down += res(inputs, outputs) + res(outputs, outputs)
    down += 2 * attention(512) + sum(conv(width, width) for width in widths[:-1])
    up = conv(256, 512) + middle + 2 * 128 + conv(128, 3)
    for inputs, outputs in zip([512, *widths[::-1]], widths[::-1], strict=False):
        up += res(inputs, outputs) + 2 * res(outputs, outputs)
    up += 3 * attention(512) + sum(conv(width, width) for width in widths[1:])
    return down + up + conv(256, 8, 1) + conv(8, 256, 1) + 16_384 * 8


def expected_sizes(family: str) -> dict[str, int]:
    width, ffn, layers, words = SIZES[family]
    return {
        "und_encoder": siglip_large_size(),
        "und_aligner": linear(1024, width) + linear(width, width),
        "gen_embed": 16_384 * 8,
        "gen_aligner": linear(8, width) + linear(width, width),
        "gen_head": linear(width, width) + linear(width, 16_384),
        "vq": vq_16_size(),
        "language_model": language_model_size(width, ffn, layers, words),
    }


# The table of modules: TRAINED by stage; gen_embed is frozen in stage I, as each recipe says.
TRAINED = {
    1: {"und_aligner", "gen_aligner", "gen_head"},
    2: {"und_aligner", "gen_aligner", "gen_head", "gen_embed", "language_model"},
    3: {
        *("und_aligner", "gen_aligner", "gen_head", "gen_embed", "language_model"),
        "und_encoder",
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_stage_trains_exactly_its_parts(family: str) -> None:
    model = build_model(preset(family))
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        sizes[part_of(name)] = sizes.get(part_of(name), 0) + parameter.numel()
    assert sizes == expected_sizes(family)
    for stage in STAGES:
        config = recipe(family, stage)
        freeze_for_stage(model, config.stage, train_gen_embed=config.train_gen_embed)
        trained: dict[str, int] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                trained[part_of(name)] = trained.get(part_of(name), 0) + parameter.numel()
        assert trained == {part: expected_sizes(family)[part] for part in TRAINED[stage]}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_is_the_three_stages_each_from_the_one_before(family: str) -> None:
    members = load_members(f"{family}/all")
    assert [(m.folder, m.recipe, m.changes) for m in members] == [
        (f"stage{stage}", f"{family}/stage{stage}", {}) for stage in STAGES
    ]
    assert recipe(family, 1).init == [family]
    assert recipe(family, 2).init == ["stage1/final"]
    assert recipe(family, 3).init == ["stage2/final"]
    first = recipe(family, 1)
    assert first.language_model and first.vq and first.und_encoder


def test_the_encoder_of_the_papers_has_a_recipe() -> None:
    assert "siglip/large-384" in recipe_names()
    config = load_recipe("siglip/large-384")
    assert config.kind == "siglip"
    options = config.source.options
    assert set(options) == {"path", "face"}, "what caption-jsonl cannot do without"
    assert preset(config.preset).und_encoder == preset("janus-pro-7b").und_encoder


def chameleon(part: str) -> JanusTrainConfig:
    config = load_recipe(f"chameleon/{part}")
    assert isinstance(config, JanusTrainConfig)
    return config


def test_chameleon_has_its_papers_numbers() -> None:
    first, last = chameleon("pretrain"), chameleon("align")
    optim = first.optim
    assert (optim.lr, optim.betas, optim.eps, optim.weight_decay) == (1e-4, (0.9, 0.95), 1e-5, 0.1)
    assert (optim.warmup_steps, optim.grad_clip, optim.schedule) == (4000, 1.0, "exponential")
    assert (first.batch_unit, first.batch_size, first.pack_length) == ("packs", 2**11, 2**12)
    assert first.run.steps == round(9.2e12 / 2**23)
    assert (first.ratio, first.ratio_unit) == ((1.5 / 2, 2.9, 1.5 / 2 + 0.4), "tokens")
    assert not first.mask_prompt and first.und_image_loss and first.image_start_loss

    optim = last.optim
    assert (optim.lr, optim.schedule, optim.weight_decay) == (1e-5, "cosine", 0.1)
    assert (last.batch_size, last.pack_length, last.mask_prompt) == (128, 4096, True)
    tokens = (19.4, 940.0 + 1.1 + 38.6, 68.0 + 35.8)  # millions
    assert last.ratio == tuple(round(each) for each in tokens)
    assert last.run.steps == -(-round(sum(tokens) * 1e6) // (128 * 4096))
    assert last.image_start_loss
    for config in (first, last):
        assert (config.z_loss, config.max_length, config.preset) == (1e-5, 4096, "chameleon-7b")
    assert preset("chameleon-7b").language.dropout == 0.1


def test_chameleon_has_its_size() -> None:
    model = build_model(preset("chameleon-7b"))
    qk_norm = 32 * 2 * 2 * 4096  # layers, queries and keys, gain and bias of every head
    expected = language_model_size(4096, 11_008, 32, 65_536) + qk_norm
    assert sum(p.numel() for p in model.language_model.parameters()) == expected == 7_013_666_816


def test_chameleons_second_stage_is_a_fifth_and_half_of_it_is_new() -> None:
    config = chameleon("pretrain")
    begin = round(0.8 * config.run.steps)
    for kind in ("und", "text", "gen"):
        sources = getattr(config.sources, kind)
        assert {source.from_step for source in sources} == {0, begin}
        assert all(source.until_step is None for source in sources)
        weights = [sum(s.weight for s in sources if s.from_step == start) for start in (0, begin)]
        assert weights[0] == weights[1]


def test_chameleons_two_recipes_do_not_drift_apart() -> None:
    one, other = asdict(chameleon("pretrain")), asdict(chameleon("align"))
    apart = {"init", "tokenizer", "vq", "ratio", "sources", "batch_size", "mask_prompt", "run"}
    apart |= {"und_image_loss", "cond_drop", "optim"}
    for name, value in one.items():
        assert name in apart or other[name] == value, name
    free = {"lr", "schedule", "final_lr_ratio", "warmup_steps"}
    for name, value in one["optim"].items():
        assert name in free or other["optim"][name] == value, name
    assert [(m.folder, m.recipe) for m in load_members("chameleon/all")] == [
        ("pretrain", "chameleon/pretrain"),
        ("align", "chameleon/align"),
    ]
    assert other["init"] == ["pretrain/final"]
    for part in (one, other):
        for source in [s for kind in part["sources"].values() for s in kind]:
            assert source["type"] in source_names()
            assert source["options"]["path"].startswith("data/")


def test_all_of_chameleon_runs_to_its_end(tmp_path: Path) -> None:
    documents = {"type": "toy-documents", "options": {"form": "chat", "length": 64}}
    changes: dict[str, Any] = {
        "preset": "tiny-chameleon",
        "device": "cpu",
        "batch_size": 1,
        "pack_length": 192,
        "max_length": 192,
        "run.steps": 5,
        "held_back": 2,
    }
    own: dict[str, dict[str, Any]] = {"align": {}, "pretrain": {"init": ["tiny-chameleon"]}}
    own["pretrain"] |= {"vq": None, "tokenizer": None}
    for part, kind in (("pretrain", "plain"), ("align", "chat")):
        plain = [toy("und", form=kind), toy("und", form=kind, from_step=4)]
        own[part]["sources"] = {"und": plain, "text": [toy("text")], "gen": [documents]}
    overrides = [
        f"--{part}.{key}={json.dumps(value)}"
        for part, keys in own.items()
        for key, value in (changes | keys).items()
    ]
    root = tmp_path / "runs"
    run_recipe("chameleon/all", ["--run.dir", str(root), *overrides])
    for part in own:
        lines = (root / part / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]
        assert (root / part / "final" / "model.safetensors").is_file()


def test_exponential_falls_by_the_same_share_each_step() -> None:
    config = OptimConfig(schedule="exponential", final_lr_ratio=0.01, warmup_steps=2)
    factors = [lr_factor(config, step, 12) for step in range(13)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    shares = [b / a for a, b in pairwise(factors[2:])]
    assert shares == pytest.approx([0.01**0.1] * 10)
    assert factors[-1] == pytest.approx(0.01)
    with pytest.raises(ValueError, match="exponential never gets to 0: give the share"):
        OptimConfig(schedule="exponential")
    with pytest.raises(ValueError, match=r"optim\.eps must be > 0, got 0"):
        OptimConfig(eps=0)


def test_eps_reaches_adamw() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizers = Optimizers([("w", weight)], OptimConfig(eps=1e-5))
    assert {group["eps"] for one in optimizers.optimizers for group in one.param_groups} == {1e-5}


# a whole family on the toy world


def toy(kind: str, **options: Any) -> dict[str, Any]:
    step = {key: options.pop(key) for key in ("from_step", "until_step") if key in options}
    return {"type": "toy", "options": {"kind": kind, "length": 64, **options}, **step}


def toy_overrides(family: str, stage: int, donor: Path) -> list[str]:
    """Everything that a small machine must have otherwise; the rest stays the recipe's own."""
    form = {"form": "plain"} if stage == 1 else {}
    gen = [toy("gen", **form)]
    if (family, stage) == ("janus-1.3b", 2):
        gen = [toy("gen", form="plain", until_step=2), toy("gen", from_step=2)]
    sources = {"und": [toy("und", **form)], "text": [toy("text")], "gen": gen}
    changes: dict[str, Any] = {
        "preset": "tiny",
        "device": "cpu",
        "batch_size": 2,
        "pack_length": 192,
        "max_length": 192,
        "sources": sources,
        "run.steps": 4,
        "held_back": 2,
    }
    if family != "janus-1.3b" and stage == 2:
        changes["run.early_stop"] = 3
    if stage == 1:
        changes["init"] = ["tiny"]
        changes |= dict.fromkeys(("language_model", "und_encoder", "vq"), str(donor))
    return [f"--stage{stage}.{key}={json.dumps(value)}" for key, value in changes.items()]


@pytest.mark.parametrize("family", ["janus-1.3b", "janus-pro-1b"])
def test_all_of_a_family_runs_to_its_end(family: str, tmp_path: Path) -> None:
    tiny = preset("tiny")
    donor = tmp_path / "donor"
    given = fresh_model(tiny, seed=5)
    save_model(donor, given, byte_tokenizer(tiny.processor))
    root = tmp_path / "runs"
    changes = [change for stage in STAGES for change in toy_overrides(family, stage, donor)]
    assert run_recipe(f"{family}/all", ["--run.dir", str(root), *changes]) == root

    steps = {1: 4, 2: 4 if family == "janus-1.3b" else 3, 3: 4}
    models = {}
    for stage in STAGES:
        lines = (root / f"stage{stage}" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, steps[stage] + 1))
        models[stage], _ = load_model(root / f"stage{stage}" / "final", device="cpu", dtype=None)

    def same(stage: int, other: Any, part: str) -> bool:
        first = models[stage].get_submodule(part).state_dict()
        second = other.get_submodule(part).state_dict()
        return all(torch.equal(first[name], second[name]) for name in first)

    # The parts came from where the recipe was told, and each stage trained what is its own.
    for part in ("language_model", "und_encoder", "vq", "gen_embed"):
        assert same(1, given, part)
    assert not same(1, given, "gen_head")
    assert not same(2, models[1], "language_model")
    assert not same(2, models[1], "gen_embed")
    assert same(2, models[1], "und_encoder")
    assert not same(3, models[2], "und_encoder")
    assert same(3, given, "vq")


def test_an_early_stop_leaves_the_schedule_alone(tmp_path: Path) -> None:
    def rates(name: str, *changes: str) -> list[float]:
        folder = tmp_path / name
        short = ["--run.steps=5", "--batch_size=4", "--optim.warmup_steps=0", "--init=[tiny]"]
        run_recipe("tiny/stage1", ["--run.dir", str(folder), *short, *changes])
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["lr"] for line in lines]

    whole = rates("whole")
    assert len(set(whole)) == 5
    assert rates("early", "--run.early_stop=3") == whole[:3]
    assert (tmp_path / "early" / "final").is_dir()
    assert rates("stopped", "--run.stop_at=3") == whole[:3]
    assert not (tmp_path / "stopped" / "final").exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["--run.early_stop=361000"], r"early_stop must be in \[1, run\.steps \(360000\)\]"),
        (["--run.early_stop=0"], "early_stop must be in"),
        (["--batch_unit=rows"], r"batch_unit must be one of \['samples', 'packs'\]"),
        (["--ratio_unit=words"], "ratio_unit must be one of"),
        (["--pack_length=null"], "there is no pack_length"),
        (["--preset=janus-pro-1"], "unknown preset 'janus-pro-1'; did you mean 'janus-pro-1b'"),
        (["--sources.text=[{type: text, from_step: -1}]"], "from_step of a source must be >= 0"),
        (
            ["--sources.text=[{type: text, from_step: 5, until_step: 5}]"],
            r"until_step of a source must be > from_step \(5\), got 5",
        ),
        (
            ["--sources.text=[{type: text, from_step: 7}]"],
            r"'text' a share, but no source of sources\.text takes part in steps 0 to 6:",
        ),
        (
            ["--sources.text=[{type: a, until_step: 4}, {type: b, from_step: 9}]"],
            "takes part in steps 4 to 8:",
        ),
        (
            ["--sources.text=[{type: a, until_step: 4}, {type: b, until_step: 90}]"],
            "takes part in steps 90 to 269999:",
        ),
    ],
)
def test_wrong_keys_are_told(overrides: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_recipe("janus-pro-1b/stage2", overrides)


def test_other_trainings_have_no_sources_that_come_and_go() -> None:
    for name in ("tiny/vq", "tiny/encoder"):
        with pytest.raises(ValueError, match="from_step and until_step belong to"):
            load_recipe(name, ["--source.until_step=5"])


def test_a_missing_part_is_told_before_anything_is_built(tmp_path: Path) -> None:
    changes = ["--run.dir", str(tmp_path / "runs" / "stage1"), "--device=cpu"]
    with pytest.raises(
        FileNotFoundError, match=r"no language_model at .*docs/recipes\.md"
    ) as error:
        run_recipe("janus-pro-7b/stage1", changes)
    assert str(tmp_path / "runs" / "weights" / "deepseek-llm-7b") in str(error.value)


def test_the_trainer_draws_from_the_sources_of_the_step(
    make_config: Any, make_trainer: Any
) -> None:
    first, later = {"until_step": 2}, {"from_step": 2}
    options = {"kind": "gen", "length": 64}
    gen = [SourceConfig(type="toy", options=options, **steps) for steps in (first, later)]
    config = make_config(ratio=(0, 0, 1), sources=SourcesConfig(gen=gen), batch_size=4)
    mixture = make_trainer(config).stream.mixture
    drawn = [{draw.source for draw in mixture.batch(step, 4)} for step in range(4)]
    assert drawn == [{0}, {0}, {1}, {1}]


def test_weights_of_another_preset_are_refused(tmp_path: Path) -> None:
    changes = ["--run.dir", str(tmp_path / "run"), "--device=cpu", "--init=[tiny]"]
    parts = ["--language_model=null", "--vq=null", "--und_encoder=null"]
    with pytest.raises(ValueError, match="tiny is no janus-pro-1b: its language is"):
        run_recipe("janus-pro-1b/stage1", [*changes, *parts])


def test_a_decoder_brings_its_tokenizer_and_it_must_fit(tmp_path: Path) -> None:
    tiny = preset("tiny")
    model = fresh_model(tiny, seed=5)
    save_model(tmp_path / "donor", model, byte_tokenizer(tiny.processor))
    config = load_recipe(
        "tiny/text",
        [f"--run.dir={tmp_path / 'run'}", f"--language_model={tmp_path / 'donor'}"],
    )
    assert isinstance(config, JanusTrainConfig)
    started, processor = start_model(config)
    assert torch.equal(started.language_model.lm_head.weight, model.language_model.lm_head.weight)
    assert processor.tokenizer.to_json() == byte_tokenizer(tiny.processor).to_json()
    # Words that only a bigger table has room for.
    path = tmp_path / "donor" / "tokenizer.json"
    data = json.loads(path.read_text())
    for number in range(200):
        token = data["added_tokens"][0] | {"id": 300 + number, "content": f"<more{number}>"}
        data["added_tokens"].append(token)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"ids with the tokens of a Janus, the model's table has"):
        grown_tokenizer(tmp_path / "donor", tiny)
