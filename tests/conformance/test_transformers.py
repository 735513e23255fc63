"""transformers' port held to a kit: only what is known differs, and for the reason given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.conformance import Report, check_kit
from openjanus.conformance.files import read_case
from openjanus.conformance.pictures import pattern
from openjanus.conformance.transformers import ABSENT, KNOWN, TransformersSubject


@pytest.fixture(scope="module")
def subject(kit: Path) -> TransformersSubject:
    return TransformersSubject(kit)


@pytest.fixture(scope="module")
def report(kit: Path, subject: TransformersSubject) -> Report:
    return check_kit(kit, lambda folder: subject)


def test_only_known_differences(report: Report) -> None:
    assert report.unexpected == ()
    outcomes = {row.vector: row.outcome for row in report.rows}
    assert {name for name, outcome in outcomes.items() if outcome == "known"} == set(KNOWN)
    assert {name for name, outcome in outcomes.items() if outcome == "absent"} == set(ABSENT)


def test_what_agrees_agrees_closely(report: Report) -> None:
    """Far within what is allowed, so that rounding alone fails nobody."""
    for row in report.rows:
        if row.kind == "numbers" and row.outcome == "agrees":
            assert row.amount is not None and row.amount <= row.tolerance / 5, row.vector


def test_every_difference_is_explained(report: Report) -> None:
    told = report.table()
    assert all(f"{name}: {why}" in told for name, why in {**KNOWN, **ABSENT}.items())


def test_resizing_differs_by_rounding_alone(kit: Path, subject: TransformersSubject) -> None:
    case = read_case(kit, "resize")
    size = case.inputs["size"]
    found = subject.answer("resize", case.inputs)
    for one in case.inputs["cases"]:
        picture = Image.fromarray(pattern(one["index"], one["width"], one["height"]))
        scale = size / max(picture.size)
        width, height = (max(round(side * scale), 14) for side in picture.size)
        square = Image.new("RGB", (size, size), (127, 127, 127))
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        square.paste(resized, ((size - width) // 2, (size - height) // 2))
        digest = hashlib.sha256(np.asarray(square).tobytes()).hexdigest()
        assert found[one["name"]] == digest, one["name"]


def test_vq_ids_differ_by_normalising_alone(kit: Path, subject: TransformersSubject) -> None:
    case = read_case(kit, "vq_ids")
    vq = subject.vq
    rows = vq.quantize.embedding.weight.detach().clone()
    with torch.no_grad():
        z = vq.quant_conv(vq.encoder(case.inputs["pixel_values"])).flatten(2).transpose(1, 2)
        raw = torch.cdist(z, rows).argmin(-1)
        assert torch.equal(torch.as_tensor(subject.answer("vq_ids", case.inputs)["image_ids"]), raw)
        try:
            vq.quantize.embedding.weight.copy_(torch.nn.functional.normalize(rows, dim=-1))
            found = subject.answer("vq_ids", case.inputs)["image_ids"]
        finally:
            vq.quantize.embedding.weight.copy_(rows)
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(case.expected["image_ids"]))


def test_it_fails_without_guidance_by_the_size_of_its_batch(
    kit: Path, subject: TransformersSubject
) -> None:
    with pytest.raises(RuntimeError, match=r"size|shape"):
        subject.answer("unguided_ids", read_case(kit, "unguided_ids").inputs)


def test_a_difference_that_is_gone_is_said(
    kit: Path, subject: TransformersSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = read_case(kit, "vq_ids").expected
    answer: Callable[..., object] = subject.answer
    monkeypatch.setattr(
        subject, "answer", lambda name, given: right if name == "vq_ids" else answer(name, given)
    )
    report = check_kit(kit, lambda folder: subject)
    (row,) = [row for row in report.rows if row.vector == "vq_ids"]
    assert row.outcome == "gone"
    assert "vq_ids: no longer true of it: it looks for the nearest row" in report.table()
    assert report.unexpected == ()
    assert json.dumps(report.to_json(), allow_nan=False)
