"""The ablation: recipes that must not drift apart, the plan, tables, and all of it in miniature."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from openjanus.config import SemanticConfig, SharedEncoderConfig, SiglipConfig, VQConfig
from openjanus.data.mixture import Mixture
from openjanus.data.samples import KINDS, Kind
from openjanus.data.sources import build_source
from openjanus.eval.ablation import COLUMNS, UNDERSTANDING
from openjanus.eval.geneval import TAGS
from openjanus.pipeline.load import packaged_models
from openjanus.presets import preset
from openjanus.train.ablation import (
    AFRESH,
    BEFORE,
    FACES,
    GROUPS,
    GUIDANCE,
    SEEDS,
    VARIANTS,
    Exam,
    exam_folder,
    folder_of,
    plan,
    run_name,
    shown_folder,
)
from openjanus.train.ablation_table import (
    draw_bars,
    draw_guidance,
    level,
    markdown,
    publish,
    read_runs,
)
from openjanus.train.config import JanusTrainConfig
from openjanus.train.queue import check_jobs
from openjanus.train.recipes import load_recipe, recipe_names
from openjanus.train.semantic_config import SemanticTrainConfig
from openjanus.train.source_config import SourceConfig
from openjanus.train.start import start_model
from openjanus.weights.formats import load_model

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "ablation.py"
RUNS = ROOT / "docs" / "ablation-runs"
DOORS = {"init", "vq", "und_encoder", "id_cache"}
"""What is to differ between the experiments, beside which kinds they train on; each tokenizer's ids
have a folder of their own."""


def recipe(name: str, *overrides: str) -> JanusTrainConfig:
    config = load_recipe(f"ablation/{name}", overrides)
    assert isinstance(config, JanusTrainConfig)
    return config


def experiment(letter: str, seed: int = 1) -> JanusTrainConfig:
    return recipe(f"exp-{letter.lower()}", f"--run.seed={seed}")


def different(one: JanusTrainConfig, other: JanusTrainConfig) -> set[str]:
    names = [item.name for item in dataclasses.fields(one)]
    return {name for name in names if getattr(one, name) != getattr(other, name)}


def order_of(config: JanusTrainConfig) -> Mixture:
    sources: dict[Kind, list[SourceConfig]] = {
        kind: getattr(config.sources, kind) for kind in KINDS
    }
    lengths: dict[Kind, list[int]] = {
        kind: [len(build_source(source.type, source.options)) - config.held_back for source in some]
        for kind, some in sources.items()
    }
    weights: dict[Kind, list[float]] = {
        kind: [source.weight for source in some] for kind, some in sources.items()
    }
    return Mixture(lengths, weights, config.ratio, seed=config.run.seed)


def dealt(config: JanusTrainConfig, step: int) -> dict[str, list[tuple[int, int, int]]]:
    """What a step has of each kind: source, index and epoch, in order."""
    draws = order_of(config).batch(step, config.batch_size)
    return {
        kind: [(draw.source, draw.index, draw.epoch) for draw in draws if draw.kind == kind]
        for kind in KINDS
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_every_experiment_meets_the_same_samples_in_the_same_steps(seed):
    for step in (0, 1, 57, 399):
        whole = dealt(experiment("D", seed), step)
        assert [len(whole[kind]) for kind in KINDS] == [7, 3, 10]
        for letter, faces in FACES.items():
            found = dealt(experiment(letter, seed), step)
            assert found["text"] == whole["text"]
            assert found["und"] == ([] if faces == "gen" else whole["und"]), letter
            assert found["gen"] == ([] if faces == "und" else whole["gen"]), letter


def test_seeds_meet_other_samples():
    assert dealt(experiment("D", 1), 0) != dealt(experiment("D", 2), 0)


@pytest.mark.parametrize("letter", FACES)
def test_experiments_differ_in_their_doors_and_kinds_alone(letter):
    kinds = {"ratio", "batch_size", "sources"} if FACES[letter] != "both" else set()
    config, whole = experiment(letter), experiment("D")
    assert different(config, whole) <= DOORS | kinds
    for kind in KINDS:
        own = getattr(config.sources, kind)
        assert own in ([], getattr(whole.sources, kind))
    # The ratio is met exactly in every step, and the order does not depend on the other kinds.
    assert config.batch_size == sum(config.ratio)


def test_doors_are_those_of_the_paper():
    configs = {letter: preset(experiment(letter).init[-1]) for letter in FACES}
    wanted = {
        "A": (SharedEncoderConfig, VQConfig),
        "B": (SharedEncoderConfig, SemanticConfig),
        "C": (SemanticConfig, VQConfig),
        "D": (SiglipConfig, VQConfig),
        "E": (SiglipConfig, VQConfig),
        "F": (SiglipConfig, VQConfig),
    }
    for letter, (und, gen) in wanted.items():
        assert type(configs[letter].und_encoder) is und, letter
        assert type(configs[letter].gen_tokenizer) is gen, letter
        assert configs[letter].language == configs["D"].language
    encoder, branch = configs["D"].und_encoder, configs["B"].gen_tokenizer
    for size in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(encoder, size) == getattr(branch, size)


def test_the_semantic_tokenizer_begins_with_the_vq_and_is_taught_by_the_encoder_of_the_others():
    semantic = load_recipe("ablation/semantic")
    assert isinstance(semantic, SemanticTrainConfig)
    assert semantic.vq == experiment("A").vq == experiment("D").vq == "nano-v0"
    assert semantic.teacher == experiment("D").und_encoder == experiment("E").und_encoder


CHANGED = {
    "drop-0": ("D", {"cond_drop"}),
    "drop-20": ("D", {"cond_drop"}),
    "ratio-514": ("D", {"ratio"}),
    "long-captions": ("D", {"sources"}),
    "long-captions-first-25": ("long-captions", {"first_sentence"}),
    "scratch": ("D", {"language_model"}),
    "scratch-qk-norm": ("scratch", {"decoder"}),
    "scratch-z-loss": ("scratch", {"z_loss"}),
    "scratch-norm-post": ("scratch", {"decoder"}),
    "scratch-dropout": ("scratch", {"decoder"}),
    "scratch-small": ("scratch", {"decoder"}),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_variant_differs_in_what_it_is_called_for(name):
    base, keys = CHANGED[name]
    other = experiment(base) if base in FACES else recipe(base)
    assert different(recipe(name), other) == keys


def test_both_ways_through_stage_1_take_as_many_steps():
    short, long = recipe("short-stage1"), recipe("long-stage1")
    assert different(short, long) == {"ratio", "run"}
    assert long.run.steps == 2 * short.run.steps
    ends = {name: recipe(f"{name}-stage2") for name in ("short", "long")}
    assert short.run.steps + ends["short"].run.steps == long.run.steps + ends["long"].run.steps
    first, then = ends["short"].sources.gen
    assert first.until_step == then.from_step == round(ends["short"].run.steps * 2 / 3)
    # What it is fed first is of the same world, drawn the same way: things in it alone differ.
    assert first.options | {"form": "plain"} == short.sources.gen[0].options
    drawn = {key: value for key, value in then.options.items() if key != "tags"}
    assert first.options == drawn | {"form": "plain", "length": 20000}
    assert ends["long"].sources == experiment("D").sources


def test_every_recipe_has_its_place():
    named = {"text", "semantic", "short-stage1", "long-stage1", *VARIANTS}
    named |= {f"exp-{letter.lower()}" for letter in FACES}
    assert {f"ablation/{name}" for name in named} == {
        name for name in recipe_names() if name.startswith("ablation/")
    }


def test_parts_may_be_those_of_the_packaged_model(tmp_path):
    config = recipe("exp-d", "--language_model=null", f"--run.dir={tmp_path / 'run'}")
    model, processor = start_model(config)
    nano, tokenizer = load_model(packaged_models()["nano-v0"], device="cpu", dtype=torch.float32)
    for part in ("vq", "und_encoder"):
        state = getattr(nano, part).state_dict()
        assert all(torch.equal(getattr(model, part).state_dict()[key], state[key]) for key in state)
    codebook = F.normalize(nano.vq.get_parameter("quantize.embedding.weight"), dim=-1)
    assert torch.allclose(model.get_parameter("gen_embed.weight"), codebook, atol=1e-6)
    assert processor.tokenizer.encode("a red apple") == tokenizer.encode("a red apple")
    # Of the decoder, which has seen all, nothing is taken: it is of another size.
    assert model.config.language.hidden_size != nano.config.language.hidden_size


def exam_command(exam: Exam):
    asked = (exam.model, exam.output, exam.seed, exam.faces, exam.split, exam.guidance)
    return ("exam", *(str(part) for part in asked))


def plan_of(root: Path, **changes):
    options = {
        "experiments": list(FACES),
        "seeds": SEEDS,
        "groups": list(GROUPS),
        "guidance": GUIDANCE,
        "exam": exam_command,
    }
    return plan(root, **(options | changes))


def test_the_plan_is_whole_and_in_order(tmp_path):
    jobs = plan_of(tmp_path)
    check_jobs(jobs)
    names = [job.name for job in jobs]
    assert names[:2] == ["text", "semantic"]
    trained = [name for name in names if "-exam" not in name]
    assert len([name for name in trained if name.startswith("exp-")]) == 18
    assert set(VARIANTS) <= set(trained)
    assert len([name for name in names if "guidance" in name]) == len(GUIDANCE)
    by_name = {job.name: job for job in jobs}
    assert by_name["exp-e-2"].command[-1] == "--run.seed=2"
    assert by_name["exp-e-2-exam"].command[-3:] == ("und", "held_out", "None")
    assert by_name["exp-d-2-exam-shown"].command[-4:] == ("2", "und", "train", "None")
    assert len([name for name in names if name.endswith("-exam-shown")]) == 5 * len(SEEDS)
    assert by_name["exp-d-1-exam-guidance-7.5"].command[-4:] == ("1", "gen", "held_out", "7.5")


def test_an_exam_is_compared_with_what_it_would_be_now(tmp_path):
    asked = []

    def differs(exam: Exam) -> list[str]:
        asked.append(exam)
        return ["checkpoint_sha256"]

    jobs = plan_of(tmp_path, experiments=["F"], seeds=[2], groups=[], differs=differs)
    compared = {job.name: job.differs for job in jobs if job.differs is not None}
    assert list(compared) == ["exp-f-2-exam"]
    assert compared["exp-f-2-exam"]() == ["checkpoint_sha256"]
    folder = tmp_path / "exp-f-2"
    assert asked == [Exam(model=folder / "final", output=folder / "exam", seed=2, faces="gen")]


def test_a_part_of_the_plan_brings_what_it_needs(tmp_path):
    names = [job.name for job in plan_of(tmp_path, experiments=["C"], seeds=[2], groups=[])]
    assert names == ["text", "semantic", "exp-c-2", "exp-c-2-exam", "exp-c-2-exam-shown"]
    names = [job.name for job in plan_of(tmp_path, experiments=[], groups=["ratio"])]
    assert names == [
        *("text", "exp-d-1", "exp-d-1-exam", "exp-d-1-exam-shown"),
        *("ratio-514", "ratio-514-exam"),
    ]


def test_what_begins_afresh_waits_for_nothing(tmp_path):
    jobs = plan_of(tmp_path, experiments=[], groups=["size", "stability"])
    names = [job.name for job in jobs if "-exam" not in job.name]
    assert names == ["scratch-small", "scratch"] + [
        f"scratch-{name}" for name in ("qk-norm", "z-loss", "norm-post", "dropout")
    ]
    for job in jobs:
        assert job.needs == (() if "-exam" not in job.name else (job.name.removesuffix("-exam"),))
        if not job.needs:
            assert recipe(job.name).language_model is None
    text = {name for name in VARIANTS if recipe(name).language_model}
    assert not text & set(AFRESH)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"experiments": ["G"]}, "unknown experiment 'G'"),
        ({"groups": ["ratios"]}, "unknown group 'ratios'; did you mean 'ratio'"),
        ({"seeds": [-1]}, r"seeds must be >= 0, got \[-1\]"),
        ({"experiments": [], "groups": []}, "there is nothing to run"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        plan_of(tmp_path, **changes)


def put_exam(folder: Path, und: float | None, frechet: float | None) -> None:
    columns = {}
    if und is not None:
        interval = [und - 0.1, und + 0.1]
        columns |= {name: {"value": und, "interval": interval, "n": 9} for name in UNDERSTANDING}
    if frechet is not None:
        columns["frechet"] = {"value": frechet, "interval": None, "n": 9}
        columns["geneval"] = {"value": 0.25, "interval": [0.2, 0.3], "n": 9}
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"columns": columns}))


def test_tables_tell_what_is_there_and_what_is_missing(tmp_path):
    for seed, und in ((1, 0.50), (2, 0.52)):
        put_exam(exam_folder(tmp_path, run_name("D", seed)), und, 8.0 * seed)
    put_exam(exam_folder(tmp_path, run_name("E", 1)), 0.4, None)
    summary = exam_folder(tmp_path, run_name("D", 2)) / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"parse_failure_rate": 0.25}))
    put_exam(exam_folder(tmp_path, "exp-d-1", 7.5), None, 12.25)
    put_exam(exam_folder(tmp_path, "scratch"), 0.3, 9.0)
    put_exam(shown_folder(tmp_path, "exp-d-1"), 0.75, None)
    lines = [{"step": n, "loss_und": 4.0 - n / 50, "output_norm": n} for n in range(1, 101)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "scratch" / "metrics.jsonl").write_text(text)
    (tmp_path / "scratch" / "config.yaml").write_text("kind: janus\n")

    text = markdown(tmp_path, SEEDS)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = {line.split(" | ")[0]: line for line in reversed(lines)}  # of two, the first table's
    # t of one degree of freedom is 12.706, the standard error of 0.50 and 0.52 is 0.01.
    assert "| 0.510 [0.383, 0.637] |" in rows["| D"]
    assert rows["| D"].endswith("| -, 0.250 | 87 | 8.53 | `exp-d-1`, `exp-d-2` |")
    assert "| 0.400 (one seed) |" in rows["| E"]
    assert rows["| A"].endswith("| - | 60.1 | 8.72 | none yet |")
    assert "Not there yet: exp-a-1, exp-a-2" in text
    assert "### New scenes of the cells that training shows" in text
    assert f"| D | {' | '.join(['0.750 (one seed)'] * 5)} | - | `exp-d-1/exam-shown` |" in text
    assert text.count("\n| E | ") == 1
    assert "4. D ~ E in understanding: **not shown either way**" in text
    assert "1. A << D in understanding, A ~ D in drawing: **not run**" in text
    assert "| 7.5 | 12.25 | 0.250 [0.200, 0.300] | `exp-d-1/exam-guidance-7.5` |" in text
    # At a quarter of 100 steps stands the mean of steps 16 to 25.
    assert "| none | 0.300 [0.200, 0.400] |" in text
    assert "| 20.5, 45.5, 70.5, 95.5 | `scratch` |" in text
    assert "| 0.250 [0.200, 0.300] | - | 3.59, " in rows["| none"]
    assert "| z-loss | not there yet |" in text
    assert "| `scratch/config.yaml` | 100 |" in text
    assert {run.folder for run in read_runs(tmp_path, SEEDS)} == {"exp-d-1", "exp-d-2", "exp-e-1"}

    draw_bars(tmp_path, SEEDS, tmp_path / "pictures" / "bars.png")
    assert (tmp_path / "pictures" / "bars.png").stat().st_size > 10_000


def test_drawings_by_guidance_are_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match="no exam by guidance"):
        draw_guidance(tmp_path, SEEDS, tmp_path / "guidance.png")
    for scale, shade in ((1.5, 40), (10.0, 200)):
        folder = exam_folder(tmp_path, "exp-d-1", scale)
        put_exam(folder, None, 7.0)
        lines: list[dict[str, object]] = [{"key": "question/1", "answer": "yes"}]
        for n, tag in enumerate(TAGS):
            name = f"{n}.png"
            Image.new("RGB", (8, 8), (shade, 30 * n, 0)).save(folder / name)
            told = {"tag": tag, "prompt": f"a photo of {n} dogs beside a cat", "files": [name]}
            lines += [told, told | {"files": ["missing.png"]}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "predictions.jsonl").write_text(text)
    draw_guidance(tmp_path, SEEDS, tmp_path / "pictures" / "guidance.png")
    with Image.open(tmp_path / "pictures" / "guidance.png") as image:
        assert image.size == (240, 720)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
    assert {(shade, 30 * n, 0) for shade in (40, 200) for n in range(6)} <= colours


def test_what_tables_are_made_of_can_be_taken_elsewhere(tmp_path):
    root, there = tmp_path / "runs", tmp_path / "docs"
    for run in ("exp-d-1", "scratch"):
        put_exam(exam_folder(root, run), 0.5, 8.0)
        (root / run / "config.yaml").write_text("kind: janus\n")
        (root / run / "final").mkdir()
        (exam_folder(root, run) / "predictions.jsonl").write_text("{}\n")
    put_exam(exam_folder(root, "exp-d-1", 1.5), None, 7.0)
    put_exam(shown_folder(root, "exp-d-1"), 0.75, None)
    lines = [{"step": n, "loss_gen": 4 - n / 7, "output_norm": n, "keys": []} for n in range(20)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / "scratch" / "metrics.jsonl").write_text(text)

    written = publish(root, there, ["exp-d-1", "scratch"])
    assert sorted(str(path.relative_to(there)) for path in written) == [
        "exp-d-1/config.yaml",
        "exp-d-1/exam-guidance-1.5/summary.json",
        "exp-d-1/exam-shown/summary.json",
        "exp-d-1/exam/summary.json",
        "scratch/config.yaml",
        "scratch/exam/summary.json",
        "scratch/metrics.jsonl",
    ]
    assert {path for path in there.rglob("*") if path.is_file()} == set(written)
    assert markdown(there, SEEDS) == markdown(root, SEEDS)
    with pytest.raises(FileNotFoundError, match=r"no run in .*nothing: its config\.yaml"):
        publish(root, there, ["nothing"])


def test_published_tables_are_those_of_the_published_exams():
    made = markdown(RUNS, SEEDS).split("\n### Runs")[0]
    assert made.count("| 87 | 8.53 | `exp-d-1`, `exp-d-2`, `exp-d-3` |") == 1
    assert "Not there yet" not in made
    assert made.rstrip() in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("letter", FACES)
@pytest.mark.parametrize("seed", SEEDS)
def test_published_runs_were_the_recipes_of_now(letter, seed):
    ran = yaml.safe_load((RUNS / run_name(letter, seed) / "config.yaml").read_text("utf-8"))
    config = dataclasses.asdict(experiment(letter, seed))
    for key in ("init", "ratio", "batch_size", "optim", "vq", "und_encoder", "language_model"):
        assert ran[key] == json.loads(json.dumps(config[key])), key
    assert (ran["run"]["seed"], ran["run"]["steps"]) == (seed, config["run"]["steps"])


NOT_RUN = {"scratch-dropout"}
"""Variants that docs/results.md has no figures of."""


@pytest.mark.parametrize("name", ["text", *BEFORE.values(), *VARIANTS])
def test_published_variants_were_the_recipes_of_now(name):
    path = RUNS / name / "config.yaml"
    assert path.is_file() == (name not in NOT_RUN)
    if name in NOT_RUN:
        return
    ran = yaml.safe_load(path.read_text("utf-8"))
    config = json.loads(json.dumps(dataclasses.asdict(recipe(name))))
    changed = {key for key in ran if ran[key] != config[key]}
    assert changed == {"run"}
    assert {key for key in ran["run"] if ran["run"][key] != config["run"][key]} == {"dir"}


def test_exams_of_different_sizes_are_told(tmp_path):
    put_exam(exam_folder(tmp_path, "exp-d-1"), 0.5, 8.0)
    assert "different sizes" not in markdown(tmp_path, SEEDS)
    put_exam(exam_folder(tmp_path, "exp-e-1"), 0.5, None)
    path = exam_folder(tmp_path, "exp-e-1") / "summary.json"
    path.write_text(path.read_text().replace('"n": 9', '"n": 7', 1))
    assert "Exams of different sizes:** existence F1 ([7, 9])." in markdown(tmp_path, SEEDS)


def test_tables_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"begin with scripts/ablation\.py run"):
        markdown(tmp_path / "none", SEEDS)
    with pytest.raises(FileNotFoundError, match="no exam in"):
        draw_bars(tmp_path, SEEDS, tmp_path / "bars.png")
    text = markdown(tmp_path, SEEDS)
    assert "Not there yet: exp-a-1" in text
    assert "that training shows\n\nNot there yet." in text


def test_a_level_is_of_the_tenth_before_its_place():
    lines = [{"x": float(n)} for n in range(10)]
    assert level(lines, "x", 1.0) == 9.0
    assert level(lines, "x", 0.5) == 4.0
    assert level(lines, "y", 1.0) is None
    assert level(lines[:1], "x", 0.25) == 0.0


def test_groups_name_folders():
    assert folder_of("D") == "exp-d-1"
    assert folder_of("drop-0") == "drop-0"


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_the_queue_in_miniature(tmp_path):
    root = tmp_path / "ablation"
    chosen = ["--root", str(root), "--experiments", "B", "C", "F", "--seeds", "1", "--groups"]
    chosen += ["--threads", "1", "--drawings", "1", "--questions", "4", "--references", "9"]
    chosen += ["--set=--run.steps=2"]
    first = script("run", *chosen, "--hours", "0")
    assert first.returncode == 0, first.stderr
    assert "text: waiting" in first.stdout

    ran = script("run", *chosen)
    logs = "\n".join(path.read_text()[-500:] for path in (root / "logs").iterdir())
    assert ran.returncode == 0, ran.stderr + logs
    keys = {
        letter: [
            json.loads(line)["keys"]
            for line in (root / f"exp-{letter}-1" / "metrics.jsonl").read_text().splitlines()
        ]
        for letter in "bcf"
    }
    for step in (0, 1):
        assert {len(keys[letter][step]) for letter in "bcf"} == {20, 10, 13}
        for letter in "cf":
            kept = [key for key in keys["b"][step] if key in set(keys[letter][step])]
            # Every key is there, each kind in its order; between kinds the order is the ratio's.
            assert sorted(kept) == sorted(keys[letter][step])
            for kind in ("und", "gen", "text"):
                of_kind = [[k for k in some if kind in k] for some in (kept, keys[letter][step])]
                assert of_kind[0] == of_kind[1]

    again = script("run", *chosen)
    assert "starts" not in again.stderr
    more = script("run", *chosen, "--questions", "5")
    assert (
        "exp-c-1-exam: what was there is of other options, prompts, prompts_sha256" in more.stderr
    )
    assert "exp-b-1-exam: starts" in more.stderr
    assert "exp-b-1: " not in more.stderr
    assert (root / "exp-c-1" / "old-exam-1" / "summary.json").is_file()
    other = script("run", *chosen, "--set=--optim.lr=0.5")
    assert other.returncode == 2
    assert "was started with optim.lr" in other.stderr
    table = script("table", "--root", str(root), "--seeds", "1", "--picture", str(root / "b.png"))
    assert table.returncode == 0, table.stderr
    assert "`exp-f-1/config.yaml` | 2 |" in table.stdout
    figures = {run.experiment: set(run.columns) for run in read_runs(root, [1])}
    assert figures["B"] == set(COLUMNS)
    assert figures["C"] == set(UNDERSTANDING)
    assert figures["F"] == set(COLUMNS) - set(UNDERSTANDING)
    assert (root / "b.png").is_file()


def test_the_script_tells_mistakes_in_one_line():
    wrong = script("run", "--experiments", "G")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "unknown experiment 'G'" in wrong.stderr
