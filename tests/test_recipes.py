"""Recipes: all of them are read and built here, and a whole small one is run.

Those of the papers are held against their tables in ``tests/train/test_recipes_of_papers.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from openjanus.data.sources import build_source, source_names
from openjanus.model.janus import build_model
from openjanus.presets import PRESETS, preset
from openjanus.train.config import JanusTrainConfig
from openjanus.train.recipes import (
    load_members,
    load_recipe,
    read_recipe,
    recipe_names,
    run_recipe,
)
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.stages import freeze_for_stage, part_of, trained_parts
from openjanus.train.vq_config import VQTrainConfig
from openjanus.weights.formats import load_model

SINGLE = [name for name in recipe_names() if read_recipe(name)["kind"] != "all"]
COMPOSITE = [name for name in recipe_names() if read_recipe(name)["kind"] == "all"]
FAMILIES = ("tiny", "nano")
STAGES = ("text", "stage1", "stage2", "stage3")


def preset_of(config) -> str:
    if isinstance(config, JanusTrainConfig) and config.preset is None:
        if config.init == ["./base"]:  # finetune/*: any model; the smallest released one here
            return "janus-pro-1b"
        if config.init[-1] in PRESETS:
            return config.init[-1]
        return "tiny" if "tiny" in config.init or config.init[-1] == "tiny" else "nano-v0"
    assert config.preset is not None
    return config.preset


def sources_of(config):
    if isinstance(config, JanusTrainConfig):
        return [*config.sources.und, *config.sources.text, *config.sources.gen]
    if isinstance(config, VQTrainConfig | SiglipTrainConfig):
        return [config.source]
    return config.sources


def test_every_family_is_whole():
    names = recipe_names()
    for family in FAMILIES:
        for part in ("vq", "encoder", *STAGES, "all"):
            assert f"{family}/{part}" in names


@pytest.mark.parametrize("name", SINGLE)
def test_every_recipe_is_built(name):
    config = load_recipe(name, ["--run.dir", "somewhere"])
    model = build_model(preset(preset_of(config)))
    known = source_names()
    assert all(source.type in known for source in sources_of(config))
    if isinstance(config, JanusTrainConfig):
        assert config.max_length <= model.config.language.max_position_embeddings
        whole = None if config.lora is None else config.lora.whole_doors
        freeze_for_stage(model, config.stage, train_gen_embed=config.train_gen_embed, beside=whole)
        trained = {part_of(n) for n, p in model.named_parameters() if p.requires_grad}
        parts = trained_parts(config.stage, train_gen_embed=config.train_gen_embed)
        parts = parts if whole is None else whole
        assert trained == parts & {part_of(n) for n, _ in model.named_parameters()}
        for kind, share in zip(("und", "text", "gen"), config.ratio, strict=True):
            assert (share > 0) == bool(getattr(config.sources, kind))


@pytest.mark.parametrize("name", [name for name in SINGLE if name.startswith("tiny/")])
def test_tiny_recipes_need_no_download(name):
    config = load_recipe(name)
    assert all(source.type.startswith("toy") for source in sources_of(config))
    for source in sources_of(config):
        assert len(build_source(source.type, source.options)) > 0


@pytest.mark.parametrize("stage", STAGES)
def test_families_do_not_drift_apart(stage):
    configs = [load_recipe(f"{family}/{stage}") for family in FAMILIES]
    assert all(isinstance(config, JanusTrainConfig) for config in configs)
    for field in ("stage", "mask_prompt", "cond_drop", "train_gen_embed"):
        assert len({getattr(config, field) for config in configs}) == 1, field


@pytest.mark.parametrize("name", COMPOSITE)
def test_composites_run_what_exists_each_after_what_it_starts_from(name):
    members = load_members(name)
    folders = [member.folder for member in members]
    for place, member in enumerate(members):
        config = load_recipe(member.recipe)
        if not isinstance(config, JanusTrainConfig | SiglipTrainConfig):
            continue
        needed = [init.split("/")[0] for init in config.init if "/" in init]
        parts = [
            member.changes.get(n, getattr(config, n, None))
            for n in ("vq", "und_encoder", "tokenizer")
        ]
        needed += [part.split("/")[0] for part in parts if part is not None]
        # weights/... is what others trained (docs/recipes.md), shipped/... lies in the package.
        assert set(needed) - {"weights", "shipped"} <= set(folders[:place])


def test_overrides_are_typed():
    config = load_recipe(
        "tiny/stage2",
        [
            *("--run.dir=a_b", "--run.stop_at", "20", "--run.resume", "true"),
            *("--optim.lr", "1e-4", "--bf16=false", "--ratio", "[1, 1, 2]", "--vq", "null"),
        ],
    )
    assert isinstance(config, JanusTrainConfig)
    assert (config.run.dir, config.run.stop_at, config.run.resume) == ("a_b", 20, True)
    assert config.optim.lr == 1e-4
    assert config.ratio == (1.0, 1.0, 2.0)
    assert config.bf16 is False
    assert config.vq is None


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["--optm.lr", "1"], "unknown key optm; did you mean 'optim'"),
        (["--optim.lrr", "1"], r"unknown key optim\.lrr; did you mean 'lr'"),
        (["--optim.lr", "fast"], r"optim\.lr must be float, got 'fast'"),
        (["--run.steps", "1.5"], r"run\.steps must be int, got 1\.5"),
        (["--run.steps", "0"], r"run\.steps must be >= 1"),
        (["--bf16", "1"], "bf16 must be bool"),
        (["--stage", "4"], r"stage must be one of \[0, 1, 2, 3\]"),
        (["--ratio", "[1, 2]"], "ratio must have 3 values"),
        (["--ratio", "5"], "ratio must be a list"),
        (["--sources.gen", "[{typ: toy}]"], r"unknown key sources\.gen\.0\.typ"),
        (["--sources.gen", "[{}]"], r"missing key sources\.gen\.0\.type"),
        (["--init.0", "tiny"], "init is a list"),
        (["--run.dir"], "--run.dir needs a value"),
        (["run.dir", "x"], "expected --key value"),
        (["--init", "[a"], "not valid YAML"),
        (["--pack_length", "10"], "pack_length"),
    ],
)
def test_wrong_overrides_are_told_in_one_line(overrides, says):
    with pytest.raises(ValueError, match=says) as error:
        load_recipe("tiny/stage2", overrides)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_is_met_with_near_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="tiny/stage2"):
        run_recipe("tiny/stage22")
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        run_recipe(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("kind: vqq\n")
    with pytest.raises(ValueError, match="kind must be one of"):
        run_recipe(str(tmp_path / "bad.yaml"))


def test_a_composite_refuses_keys_of_no_member():
    with pytest.raises(ValueError, match=r"takes run\.dir and, for a member"):
        run_recipe("tiny/all", ["--run.dir", "x", "--optim.lr", "1"])
    with pytest.raises(ValueError, match=r"stage2: unknown key optim\.lrr"):
        run_recipe("tiny/all", ["--run.dir", "x", "--stage2.optim.lrr", "1"])
    with pytest.raises(ValueError, match=r"run\.dir must name a folder"):
        run_recipe("tiny/all")


def test_a_recipe_needs_what_it_starts_from(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(read_recipe("tiny/stage2") | {"init": ["stage1/final"]}))
    with pytest.raises(FileNotFoundError, match="run the stage before") as error:
        run_recipe(str(path), ["--run.dir", str(tmp_path / "runs" / "mine")])
    assert str(tmp_path / "runs" / "stage1" / "final") in str(error.value)
    left = [place.name for place in (tmp_path / "runs").rglob("*") if place.is_file()]
    assert left == ["train.lock"], "nothing of a run"


def test_a_run_needs_a_folder():
    with pytest.raises(ValueError, match=r"--run\.dir DIR"):
        run_recipe("tiny/stage2")


def test_one_command_runs_all_and_goes_on_where_it_was_stopped(tmp_path):
    root = tmp_path / "runs"
    short = [f"--{name}.run.steps=2" for name in ("vq", "encoder", *STAGES)]
    command = ["--run.dir", str(root), *short]
    assert run_recipe("tiny/all", [*command, "--stage1.run.stop_at", "1"]) == root
    assert (root / "text" / "final" / "model.safetensors").is_file()
    assert not (root / "stage1" / "final").exists()
    assert not (root / "stage2").exists()
    text_before = (root / "text" / "metrics.jsonl").stat().st_mtime_ns

    run_recipe("tiny/all", command)
    assert (root / "text" / "metrics.jsonl").stat().st_mtime_ns == text_before
    for name in ("vq", "encoder", *STAGES):
        assert (root / name / "final").is_dir()
        assert len((root / name / "metrics.jsonl").read_text().splitlines()) == 2
    models = {name: load_model(root / name / "final", device="cpu", dtype=None) for name in STAGES}
    # The tokenizer that was trained first is in every later model, untouched.
    vq = [model.vq.state_dict() for model, _ in models.values()]
    assert all((vq[0][key] == other[key]).all() for other in vq for key in vq[0])
    assert len(list((root / "id-cache").iterdir())) == 2
    assert Path(root / "stage2" / "samples" / "step-00000002.png").is_file()

    with pytest.raises(ValueError, match=r"vq was started with run\.steps 2, got 3"):
        run_recipe("tiny/all", [*command, "--vq.run.steps=3"])

    written = yaml.safe_load((root / "stage2" / "config.yaml").read_text())
    assert written["run"]["steps"] == 2
    again = load_recipe(str(root / "stage2" / "config.yaml"))
    assert again == load_recipe(
        "tiny/stage2", ["--run.dir", str(root / "stage2"), "--run.steps", "2"]
    )


def test_a_folder_may_be_called_like_a_date(tmp_path: Path):
    config = load_recipe("tiny/stage2", ["--run.dir", "2026-11-23"])
    assert config.run.dir == "2026-11-23"
    path = tmp_path / "dated.yaml"
    text = yaml.safe_dump(read_recipe("tiny/stage2")) + "id_cache: 2026-11-23\n"
    path.write_text(text)
    dated = load_recipe(str(path))
    assert isinstance(dated, JanusTrainConfig) and dated.id_cache == "2026-11-23"
