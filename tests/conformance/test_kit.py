"""What a kit holds, that it is true, and what a report makes of answers."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from openjanus.conformance import check_kit, write_kit
from openjanus.conformance.checkpoint import CODEBOOK_USED, CONFIG, VARIANT_CONFIG
from openjanus.conformance.files import read_case, read_manifest
from openjanus.conformance.inputs import INPUTS
from openjanus.conformance.openjanus import OpenjanusSubject, load
from openjanus.conformance.parts import TRAINED_PARTS
from openjanus.conformance.transformers import TransformersSubject
from openjanus.conformance.vectors import KINDS, VECTORS, Answers, Inputs
from openjanus.weights.formats import open_checkpoint

ROOT = Path(__file__).parents[2]


def plain(kit: Path, name: str) -> dict[str, Any]:
    """A vector as another program reads it."""
    return json.loads((kit / "vectors" / f"{name}.json").read_text(encoding="utf-8"))


def arrays(kit: Path, name: str) -> dict[str, np.ndarray]:
    return load_file(kit / "vectors" / f"{name}.safetensors")


# what it holds


def test_everything_agrees_with_the_package_that_wrote_it(kit: Path) -> None:
    report = check_kit(kit, OpenjanusSubject)
    assert [row.vector for row in report.rows] == list(VECTORS)
    assert {row.outcome for row in report.rows} == {"agrees"}
    assert max(row.amount or 0.0 for row in report.rows) < 1e-6


def test_every_vector_has_inputs_and_answers_of_both(kit: Path) -> None:
    assert set(INPUTS) == set(VECTORS)
    ours, theirs = OpenjanusSubject(kit), TransformersSubject(kit)
    assert all(ours.knows(name) and theirs.knows(name) for name in VECTORS)
    assert not ours.knows("packed")
    assert set(theirs.known) | set(theirs.absent) | set(theirs.notes) <= set(VECTORS)
    assert not set(theirs.known) & set(theirs.absent)


def test_it_needs_no_framework_to_be_read(kit: Path) -> None:
    manifest = json.loads((kit / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format_version"] == 1
    for name in manifest["vectors"]:
        told = plain(kit, name)
        assert (told["name"], told["trap"]) == (name, VECTORS[name].trap)
        assert told["kind"] in KINDS
        if told["tensors"]:
            found = {f"{a.dtype} {a.shape}": key for key, a in arrays(kit, name).items()}
            assert set(told["tensors"].values()) == set(found)
        outputs = {**told["expected"], **told["tensors"]}
        assert any(not key.startswith("inputs.") for key in outputs), "nothing to compare"


def test_the_same_seed_writes_the_same_kit(kit: Path, tmp_path: Path) -> None:
    write_kit(tmp_path / "again")
    files = [path.relative_to(kit) for path in kit.rglob("*") if path.is_file()]
    assert files
    _, differ, missing = filecmp.cmpfiles(kit, tmp_path / "again", files, shallow=False)
    assert (differ, missing) == ([], [])


def test_the_authors_layout_holds_what_nobody_uses(kit: Path) -> None:
    index = json.loads((kit / "deepseek" / "model.safetensors.index.json").read_text())
    names = index["weight_map"]
    assert len(set(names.values())) > 1
    assert any("attn_pool" in name for name in names)
    used = "gen_vision_model.quantize.codebook_used"
    assert load_file(kit / "deepseek" / names[used])[used].shape == (CODEBOOK_USED,)


def test_both_layouts_hold_one_model_and_two_generations(kit: Path) -> None:
    models = []
    for layout in ("deepseek", "transformers"):
        checkpoint = open_checkpoint(kit / layout)
        assert checkpoint.config == CONFIG
        models.append(checkpoint.load(device="cpu", dtype=None).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert open_checkpoint(kit / "variant" / "deepseek").config == VARIANT_CONFIG


# that it is true


def test_templates_are_those_of_the_authors_code(
    kit: Path, read_vector: Callable[[str], Any]
) -> None:
    told = plain(kit, "templates")
    authors = {case["prompt"]: case["model"] for case in read_vector("templates")}
    for case in told["inputs"]["cases"]:
        model = {"main": "janus-pro", "variant": "janus-1.3b"}[case["processor"]]
        assert authors[told["expected"][case["name"]]] == model
    assert set(told["expected"].values()) == set(authors)


def test_resized_pictures_are_those_of_the_authors_code(
    kit: Path, read_vector: Callable[[str], Any]
) -> None:
    told, authors = plain(kit, "resize"), read_vector("und_preprocess")
    assert authors["rule"].startswith(told["inputs"]["rule"])
    known = {(c["index"], c["width"], c["height"]): c["sha256"] for c in authors["cases"]}
    for case in told["inputs"]["cases"]:
        place = (case["index"], case["width"], case["height"])
        assert told["expected"][case["name"]] == known[place]


def test_vq_ids_are_the_nearest_of_normalised_rows(kit: Path) -> None:
    rows = OpenjanusSubject(kit).vq.quantize.embedding.weight.detach().numpy().astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    assert lengths.max() / lengths.min() > 5, "rows of one norm would forgive everything"
    subject, case = OpenjanusSubject(kit), read_case(kit, "vq_ids")
    with torch.no_grad():
        z = subject.vq.encode_to_vectors(case.inputs["pixel_values"])
    z = z.flatten(2).transpose(1, 2).double().numpy()
    angles = (z / np.linalg.norm(z, axis=-1, keepdims=True)) @ (rows / lengths[:, None]).T
    assert np.array_equal(angles.argmax(-1), arrays(kit, "vq_ids")["expected.image_ids"])


def test_pixels_are_truncated(kit: Path) -> None:
    subject, case = OpenjanusSubject(kit), read_case(kit, "pixels")
    with torch.no_grad():
        x = subject.vq.decode_ids(case.inputs["image_ids"]).double().numpy()
    exact = np.clip((x + 1) / 2 * 255, 0, 255).transpose(0, 2, 3, 1)
    below = exact - arrays(kit, "pixels")["expected.pictures"]
    assert below.min() > -1e-3 and below.max() < 1 + 1e-3 and below.mean() > 0.3


def test_ids_are_no_constant_and_have_no_near_rival(kit: Path) -> None:
    for name in ("vq_ids", "guided_ids", "unguided_ids"):
        ids = arrays(kit, name)["expected.image_ids"]
        assert ids.shape == (2, CONFIG.num_gen_image_tokens)
        assert len(np.unique(ids)) >= 8 and not np.array_equal(*ids)
    for name in ("guided_ids", "unguided_ids"):
        assert min(plain(kit, name)["inputs"]["least_margins"]) > 0.01
    assert plain(kit, "answer_ids")["inputs"]["least_margin"] > 0.01
    guided, unguided = (plain(kit, n)["inputs"] for n in ("guided_ids", "unguided_ids"))
    assert (guided["guidance_scale"], unguided["guidance_scale"]) == (5.0, 1.0)


def test_one_mean_over_all_supervised_tokens(kit: Path) -> None:
    """The mixed loss weighs each task by its tokens; its rows are those of the three."""
    inputs = read_case(kit, "loss_mixed").inputs
    subject = OpenjanusSubject(kit)
    words, drawn = (inputs["labels"] != -100).sum(), inputs["image_ids"].numel()
    told = {name: float(arrays(kit, f"loss_{name}")["expected.loss"]) for name in ("gen", "mixed")}
    text = float(subject.answer("loss_text", _without_drawings(inputs))["loss"])
    gen = float(subject.answer("loss_gen", _drawings(inputs))["loss"])
    mean = (text * float(words) + gen * drawn) / (float(words) + drawn)
    assert told["mixed"] == pytest.approx(mean, abs=1e-5)
    assert abs(told["mixed"] - (text + gen) / 2) > 1e-2


def _without_drawings(inputs: Inputs) -> Inputs:
    rows = ~inputs["gen_slots"].any(1)
    kept = {key: inputs[key][rows] for key in ("input_ids", "attention_mask", "labels")}
    return kept | {name: inputs[name] for name in ("pixel_values", "parts")}


def _drawings(inputs: Inputs) -> Inputs:
    rows = inputs["gen_slots"].any(1)
    names = ("input_ids", "attention_mask", "labels", "gen_slots")
    kept = {key: inputs[key][rows] for key in names}
    return kept | {name: inputs[name] for name in ("image_ids", "parts")}


def test_gradients_reach_what_a_task_uses_and_nothing_else(kit: Path) -> None:
    used = {
        "text": {"language_model"},
        "und": {"language_model", "und_encoder", "und_aligner"},
        "gen": {"language_model", "gen_embed", "gen_aligner", "gen_head"},
        "mixed": set(TRAINED_PARTS),
    }
    for task, wanted in used.items():
        norms = arrays(kit, f"loss_{task}")["expected.gradient_norms"]
        found = {part for part, norm in zip(TRAINED_PARTS, norms, strict=True) if norm > 1e-4}
        assert found == wanted


# what a report makes of answers


class Altered(OpenjanusSubject):
    """openjanus with something said of a vector, or another answer to it."""

    def __init__(
        self,
        folder: Path,
        *,
        known: Mapping[str, str],
        absent: Mapping[str, str],
        other: Mapping[str, Callable[[], Answers]],
    ) -> None:
        super().__init__(folder)
        self.known, self.absent, self.errors = known, absent, (RuntimeError,)
        self.other = other

    def answer(self, vector: str, inputs: Inputs) -> Answers:
        return self.other[vector]() if vector in self.other else super().answer(vector, inputs)


def fails() -> Answers:
    raise RuntimeError("no such thing\nat all")


def test_outcomes(kit: Path) -> None:
    found = check_kit(
        kit,
        partial(
            Altered,
            known={"vq_ids": "as ever", "resize": "mended", "gen_embed": "it is old"},
            absent={"training_ids": "it does not train"},
            other={
                "vq_ids": lambda: {"image_ids": torch.zeros(2, 16, dtype=torch.long)},
                "gen_embed": fails,
                "und_aligner": fails,
                "vq_pixels": lambda: {"pixel_values": torch.full((2, 3, 16, 16), torch.nan)},
                "siglip_features": lambda: {"features": torch.zeros(2, 3)},
            },
        ),
    )
    rows = {row.vector: row for row in found.rows}
    assert rows["vq_ids"].outcome == "known" and rows["vq_ids"].note == "as ever"
    assert rows["gen_embed"].outcome == "known"
    assert rows["gen_embed"].told == "fails: RuntimeError"
    assert rows["resize"].outcome == "gone"
    assert rows["resize"].note == "no longer true of it: mended"
    assert rows["training_ids"].outcome == "absent"
    assert rows["und_aligner"].note == "no such thing"
    assert rows["vq_pixels"].told == "not finite"
    assert rows["siglip_features"].told == "features: shape (2, 3) for (2, 16, 32)"
    assert found.unexpected == ("siglip_features", "und_aligner", "vq_pixels")
    json.dumps(found.to_json(), allow_nan=False)


def test_a_changed_weight_is_seen(copied_kit: Path) -> None:
    _change(copied_kit / "transformers", "model.aligner.fc1.weight")
    assert check_kit(copied_kit, OpenjanusSubject).unexpected == ("weights_transformers",)
    _change(copied_kit / "deepseek", "aligner.layers.2.bias")
    found = set(check_kit(copied_kit, OpenjanusSubject).unexpected)
    assert {"weights_deepseek", "und_aligner", "und_logits"} <= found
    assert not found & {"vq_ids", "gen_embed", "loss_gen", "guided_ids"}


def _change(folder: Path, name: str) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    path = folder / index["weight_map"][name]
    tensors: dict[str, Tensor] = load_tensors(path)
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, path, metadata={"format": "pt"})


def test_weights_in_bf16_are_seen_and_change_no_word(
    differing: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounded(folder: Path, **options: Any) -> Any:
        janus = load(folder, **options)
        with torch.no_grad():
            for parameter in janus.model.parameters():
                parameter.copy_(parameter.bfloat16())
        return janus

    monkeypatch.setattr("openjanus.conformance.openjanus.load", rounded)
    found = differing()
    numbers = {"siglip_features", "und_aligner", "und_logits", "vq_latents", "vq_pixels"}
    assert numbers | {"gen_embed", "gen_logits", "pixels", "loss_mixed"} <= found
    assert not found & {"templates", "prompt_ids", "resize", "und_pixels", "training_ids"}


# kits that are none


def test_a_kit_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no kit in .*manifest\.json is missing.*write"):
        check_kit(tmp_path, OpenjanusSubject)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"format_version": 2}, "reads up to 1: install a newer one"),
        ({"format_version": True}, "whole number"),
        ({"openjanus": None}, "does not say which openjanus"),
        ({"vectors": "all"}, "vectors must be a list of names"),
        ({"vectors": ["packed"]}, r"no packed\.json"),
        ({"vectors": ["../manifest"]}, "cannot be called"),
    ],
)
def test_manifests_that_are_refused(
    manifest: dict[str, Any], message: str, copied_kit: Path
) -> None:
    told = read_manifest(copied_kit) | manifest
    (copied_kit / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_kit(copied_kit, OpenjanusSubject)


def test_a_vector_of_a_newer_package_is_named(copied_kit: Path) -> None:
    told = plain(copied_kit, "templates") | {"name": "packed"}
    (copied_kit / "vectors" / "packed.json").write_text(json.dumps(told), encoding="utf-8")
    manifest = read_manifest(copied_kit) | {"vectors": ["templates", "packed"]}
    (copied_kit / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ValueError, match="'packed' that this openjanus cannot ask openjanus"):
        check_kit(copied_kit, OpenjanusSubject)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vq_ids.json", "{", "is not valid JSON"),
        ("vq_ids.json", "[]", "must hold a JSON object"),
        ("vq_ids.json", "{}", r"is no vector \(KeyError\('name'\)\)"),
        ("vq_ids.safetensors", "", "is broken"),
    ],
)
def test_files_that_are_refused(file: str, content: str, message: str, copied_kit: Path) -> None:
    (copied_kit / "vectors" / file).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{message}.*write the kit again"):
        check_kit(copied_kit, OpenjanusSubject)


def test_files_that_do_not_belong_together(copied_kit: Path) -> None:
    place = copied_kit / "vectors"
    (place / "vq_ids.safetensors").write_bytes((place / "vq_latents.safetensors").read_bytes())
    with pytest.raises(ValueError, match="does not hold the tensors that"):
        read_case(copied_kit, "vq_ids")
    (place / "vq_ids.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no vq_ids\.safetensors"):
        read_case(copied_kit, "vq_ids")
    told = plain(copied_kit, "vq_ids") | {"kind": "vague"}
    (place / "vq_ids.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(ValueError, match="kind 'vague': known kinds are exact"):
        read_case(copied_kit, "vq_ids")


# the page about them


def test_the_page_explains_every_vector() -> None:
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    missing = [name for name in VECTORS if f"`{name}`" not in page]
    assert missing == []
