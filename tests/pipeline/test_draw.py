from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus import build
from openjanus.config import DrawingConfig
from openjanus.pipeline import Drawing, Janus, PartialDrawing


def same_pixels(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def same(first: Drawing, second: Drawing) -> bool:
    """Equal ids and equal pixels."""
    return torch.equal(first.image_ids, second.image_ids) and all(
        same_pixels(a, b) for a, b in zip(first.images, second.images, strict=True)
    )


def test_a_drawing_says_how_it_was_made(janus: Janus) -> None:
    drawing = janus.draw("a red square", n=2, seed=3, top_k=9)
    assert drawing.image_ids.shape == (2, janus.config.num_gen_image_tokens)
    assert [image.size for image in drawing.images] == [(32, 32)] * 2
    assert (drawing.prompt, drawing.seed, drawing.options.top_k) == ("a red square", 3, 9)
    assert drawing.options.guidance_scale == 5.0
    assert not torch.equal(drawing.image_ids[0], drawing.image_ids[1])


def test_a_model_draws_by_its_own_settings_unless_told_otherwise(janus: Janus) -> None:
    own = DrawingConfig(guidance_scale=2.0, temperature=0.5)
    model = build(dataclasses.replace(janus.config, drawing=own), device="cpu")
    model.load_state_dict(janus.model.state_dict())
    careful = Janus(model, janus.processor.tokenizer)
    drawing = careful.draw("a cat", seed=5)
    assert (drawing.options.guidance_scale, drawing.options.temperature) == (2.0, 0.5)
    assert same(drawing, janus.draw("a cat", seed=5, guidance_scale=2.0, temperature=0.5))
    greedy = careful.draw("a cat", seed=5, temperature=0.0)  # 0 is not "left out"
    assert (greedy.options.guidance_scale, greedy.options.temperature) == (2.0, 0.0)
    assert same(greedy, janus.draw("a cat", guidance_scale=2.0, temperature=0.0))
    last = list(careful.draw_stream("a cat", seed=5, partial_images=0))[-1]
    assert last.options == drawing.options and torch.equal(last.image_ids, drawing.image_ids[0])


def test_the_first_ids_can_be_given(janus: Janus) -> None:
    kept = janus.draw("a cat", seed=5).image_ids[0, :8]
    drawing = janus.draw("a dog", n=2, seed=6, prefix_ids=kept)
    assert torch.equal(drawing.image_ids[:, :8], kept.expand(2, 8))
    assert not torch.equal(drawing.image_ids[0], drawing.image_ids[1])
    assert drawing.options.prefix_ids == tuple(kept.tolist())
    (batch,) = janus.draw_batch(["a dog"], n=2, seed=6, prefix_ids=kept.tolist())
    assert same(batch, drawing)
    states = list(janus.draw_stream("a dog", seed=6, prefix_ids=kept, partial_images=3))
    assert [len(state.image_ids) for state in states] == [4, 8, 12, 16]
    assert torch.equal(states[-1].image_ids, drawing.image_ids[0])
    assert torch.equal(
        janus.draw("a dog", seed=6, prefix_ids=[]).image_ids[0, :1].cpu(),
        janus.draw("a dog", seed=6).image_ids[0, :1].cpu(),
    )


def test_guidance_can_change_from_row_to_row(janus: Janus, tmp_path: Path) -> None:
    schedule = [1.0, 5.0, 2.0, 2.0]
    drawing = janus.draw("a cat", seed=5, guidance_scale=schedule)
    assert drawing.options.guidance_scale == tuple(schedule)
    plain = janus.draw("a cat", seed=5, guidance_scale=1.0)
    assert torch.equal(drawing.image_ids[0, :4], plain.image_ids[0, :4])
    assert not torch.equal(drawing.image_ids, plain.image_ids)
    drawing.save(tmp_path)
    record = json.loads((tmp_path / "drawing.json").read_text(encoding="utf-8"))
    assert record["options"]["guidance_scale"] == schedule


def test_image_i_is_the_same_at_any_n(janus: Janus) -> None:
    one, ten = janus.draw("a cat", seed=5), janus.draw("a cat", n=10, seed=5)  # ten: two pages
    assert torch.equal(one.image_ids[0], ten.image_ids[0])
    assert same_pixels(one.images[0], ten.images[0])
    assert len({tuple(ids.tolist()) for ids in ten.image_ids}) == 10


def test_a_batch_gives_what_single_calls_give(janus: Janus) -> None:
    prompts = ["a cat", "two very small green bicycles on a blue ground", "x"]
    batch = janus.draw_batch(prompts, n=2, seed=0)
    assert [drawing.prompt for drawing in batch] == prompts
    for prompt, drawing in zip(prompts, batch, strict=True):
        assert same(drawing, janus.draw(prompt, n=2, seed=0))
    assert janus.draw_batch([]) == []


def test_a_stream_ends_in_what_draw_gives(janus: Janus) -> None:
    drawing = janus.draw("a dog", n=2, seed=1)
    states = list(janus.draw_stream("a dog", n=2, seed=1, partial_images=3))
    assert len(states) == 2 * 4  # a grid of 4 x 4: three unfinished states and the finished one
    finished = [state for state in states if state.is_complete]
    for state in finished:
        assert torch.equal(state.image_ids, drawing.image_ids[state.image_index])
        assert same_pixels(state.image, drawing.images[state.image_index])
    assert {state.image_index for state in finished} == {0, 1}
    first = [state for state in states if state.image_index == 0]
    assert [len(state.image_ids) for state in first] == [4, 8, 12, 16]
    assert all(torch.equal(s.image_ids, drawing.image_ids[0][: len(s.image_ids)]) for s in first)


def test_every_state_shows_more_of_each_picture(janus: Janus) -> None:
    shown = [0, 0, 0]
    for state in janus.draw_stream("a dog", n=3, seed=1, partial_images=3):
        pixels = np.asarray(state.image)
        assert pixels.shape == (32, 32, 3)
        drawn = (pixels != 127).any(axis=(1, 2))  # by rows of pixels
        rows = len(state.image_ids) // 4
        assert drawn[: 8 * rows].mean() > 0.9 and not drawn[8 * rows :].any()
        assert rows > shown[state.image_index]
        shown[state.image_index] = rows
    assert shown == [4, 4, 4]


def test_progress_is_told_of_every_id_and_changes_nothing(janus: Janus) -> None:
    told: list[tuple[str, int, int]] = []
    drawing = janus.draw("a cat", n=2, seed=5, on_progress=lambda *what: told.append(what))
    assert told == [("drawing", done, 2 * 16) for done in range(1, 2 * 16 + 1)]
    assert same(drawing, janus.draw("a cat", n=2, seed=5))


def test_an_unfinished_picture_is_grey_below(janus: Janus) -> None:
    state = next(janus.draw_stream("a dog", seed=1, partial_images=3))
    pixels = np.asarray(state.image)
    assert (pixels[8:] == 127).all()
    assert not (pixels[:8] == 127).all()


@pytest.mark.parametrize(
    ("count", "lengths"), [(None, [8, 16]), (0, [16]), (1, [8, 16]), (3, [4, 8, 12, 16])]
)
def test_partial_images_says_how_many_states(
    janus: Janus, count: int | None, lengths: list[int]
) -> None:
    states = list(janus.draw_stream("a dog", seed=1, partial_images=count))
    assert [len(state.image_ids) for state in states] == lengths


def test_leaving_a_stream_stops_the_work(janus: Janus) -> None:
    stream = janus.draw_stream("a dog", n=3)
    assert isinstance(next(stream), PartialDrawing)
    assert janus._engine.num_running == 3
    stream.close()  # pyright: ignore[reportAttributeAccessIssue] # a generator
    assert not janus._engine.has_work
    janus.draw_stream("never started")
    assert not janus._engine.has_work


def test_a_slot_is_free_when_a_stream_is_left_between_rows(janus: Janus) -> None:
    stream = janus.draw_stream("a dog", seed=1, partial_images=3)
    for expected in (4, 8):
        assert len(next(stream).image_ids) == expected
        assert janus._engine.num_running == 1
    stream.close()  # pyright: ignore[reportAttributeAccessIssue] # a generator
    assert janus._engine.num_running == 0
    assert not janus._engine.has_work


def test_open_streams_share_the_engine_and_change_nothing(janus: Janus) -> None:
    expected = {name: janus.draw(name, seed=2) for name in ("a", "b", "c")}
    first, second = janus.draw_stream("a", seed=2), janus.draw_stream("b", seed=2)
    states = {"a": [next(first)], "b": [next(second)]}
    assert same(janus.draw("c", seed=2), expected["c"])
    for one, other in itertools.zip_longest(first, second):
        states["a"] += [one]
        states["b"] += [other]
    for name, all_states in states.items():
        assert torch.equal(all_states[-1].image_ids, expected[name].image_ids[0])


def test_seeds(janus: Janus) -> None:
    free = janus.draw("a cat")
    assert same(free, janus.draw("a cat", seed=free.seed))
    assert janus.draw("a cat").seed != free.seed
    assert len({drawing.seed for drawing in janus.draw_batch(["a", "a", "a"])}) == 3
    zero = janus.draw("a cat", seed=0)
    assert zero.seed == 0
    assert not torch.equal(zero.image_ids, janus.draw("a cat", seed=1).image_ids)


def test_temperature_zero_is_greedy_through_every_layer(janus: Janus) -> None:
    drawing = janus.draw("a cat", n=2, seed=1, temperature=0.0)
    assert same(drawing, janus.draw("a cat", n=2, seed=2, temperature=0.0))
    assert torch.equal(drawing.image_ids[0], drawing.image_ids[1])
    assert torch.equal(drawing.image_ids, janus.draw("a cat", n=2, top_k=1).image_ids)
    # Greedy under guidance: each id is the likeliest of its guided distribution.
    prompt_ids = janus.processor.gen_prompt("a cat")
    ids: list[int] = []
    with torch.no_grad():
        for _ in range(3):
            logits = []
            for prompt in (prompt_ids, janus.processor.uncond_prompt(len(prompt_ids))):
                embeds = janus.model.embed_text(torch.tensor([prompt]))
                if ids:
                    embeds = torch.cat([embeds, janus.model.embed_gen(torch.tensor([ids]))], 1)
                hidden = janus.model.language_model.model(embeds)
                logits.append(janus.model.image_logits(hidden[0, -1]))
            ids.append(int((logits[1] + 5.0 * (logits[0] - logits[1])).argmax()))
    assert drawing.image_ids[0, :3].tolist() == ids


def test_guidance_and_negative_prompt_do_something(janus: Janus) -> None:
    plain = janus.draw("a cat", seed=1, guidance_scale=1.0)
    guided = janus.draw("a cat", seed=1)
    negative = janus.draw("a cat", seed=1, negative_prompt="a dog on a very long red sofa")
    ids = [tuple(d.image_ids[0].tolist()) for d in (plain, guided, negative)]
    assert len(set(ids)) == 3


def test_score_image_ranks_what_was_drawn_first(janus: Janus) -> None:
    greedy = janus.draw("a cat", temperature=0.0, guidance_scale=1.0).image_ids[0]
    other = janus.draw("a cat", seed=1, guidance_scale=1.0).image_ids[0]
    before = greedy.clone()
    scores = janus.score_image("a cat", greedy)
    assert scores.shape == greedy.shape
    assert bool((scores < 0).all())
    assert float(scores.sum()) > float(janus.score_image("a cat", other).sum())
    assert torch.equal(greedy, before)
    plain, guided = (janus.score_image("a cat", greedy, guidance_scale=s) for s in (1.0, 5.0))
    torch.testing.assert_close(plain, scores)
    assert not torch.allclose(guided, scores)


def test_encode_and_decode(janus: Janus, picture: Image.Image) -> None:
    ids = janus.encode_image(picture)
    assert (ids.shape, ids.dtype) == ((16,), torch.int64)
    decoded = janus.decode_image(ids)
    assert (decoded.size, decoded.mode) == ((32, 32), "RGB")
    assert same_pixels(decoded, janus.decode_image(ids.tolist()))


def test_save_and_sheet(janus: Janus, tmp_path: Path) -> None:
    drawing = janus.draw("ein Apfel – größer", n=3, seed=4)
    drawing.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    with Image.open(folder / "2.png") as image:
        assert same_pixels(image, drawing.images[2])
    record = json.loads((folder / "drawing.json").read_text(encoding="utf-8"))
    assert record["format_version"] == 1
    assert (record["prompt"], record["seed"]) == ("ein Apfel – größer", 4)
    assert record["options"]["guidance_scale"] == 5.0
    assert torch.equal(torch.tensor(record["image_ids"]), drawing.image_ids)
    assert drawing.sheet().width > 2 * 32


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "prompt is empty"),
        ("  \n", {}, "prompt is empty"),
        ("a <image_placeholder>", {}, "cannot edit"),
        ("x" * 500, {}, "tokens, the context holds 256"),
        ("a", {"n": 0}, "n must be an integer >= 1, got 0"),
        ("a", {"n": 1.5}, "n must be an integer >= 1, got 1.5"),
        ("a", {"seed": -1}, "seed must be an integer"),
        ("a", {"seed": "x"}, "seed must be an integer"),
        ("a", {"guidance_scale": float("inf")}, "guidance_scale must be finite"),
        ("a", {"temperature": -1.0}, "temperature must be finite and >= 0"),
        ("a", {"temperature": 1e39}, "temperature must be at most 1,000,000"),
        ("a", {"top_p": 0.0}, "top_p must be in"),
        ("a", {"top_p": "1"}, "top_p must be an int or a float, got '1'"),
        ("a", {"temperature": "1"}, "temperature must be an int or a float, got '1'"),
        ("a", {"temperature": torch.ones(())}, "temperature must be an int or a float, got tensor"),
        ("a", {"top_k": 0}, "top_k must be an integer >= 1"),
        ("a", {"guidance_scale": 1.0, "negative_prompt": "b"}, "does nothing at guidance_scale 1"),
        ("a", {"negative_prompt": " "}, "negative_prompt: the prompt is empty"),
        ("a", {"negative_prompt": 5}, "negative_prompt: a drawing prompt is one string, got int"),
        (["a"], {}, "draw takes one string, got list: use draw_batch"),
        ("a", {"guidance_scale": [1.0, 1.0, 1.0, 1.0], "negative_prompt": "b"}, "does nothing"),
        ("a", {"guidance_scale": [1.0, 2.0]}, "or 4, one a row of ids, got 2"),
        ("a", {"guidance_scale": "5"}, "must be a number, or one for each row of ids, got '5'"),
        ("a", {"guidance_scale": torch.ones(4)}, "a number, or one for each row.* got tensor"),
        ("a", {"prefix_ids": [[1, 2]]}, "prefix_ids must be the first ids of one picture"),
        ("a", {"prefix_ids": [0.5]}, "prefix_ids must be the first ids of one picture"),
        ("a", {"prefix_ids": ["b"]}, "prefix_ids must be the first ids of one picture"),
        ("a", {"prefix_ids": [[1], [2, 3]]}, "prefix_ids must be the first ids of one picture"),
        ("a", {"prefix_ids": [2**70]}, "prefix_ids must be the first ids of one picture"),
        ("a", {"prefix_ids": [2**32 + 3]}, r"prefix_ids must be in \[0, 64\), got 4294967299"),
        ("a", {"prefix_ids": range(16)}, "prefix_ids must be fewer than the 16"),
    ],
)
def test_wrong_drawings_are_refused(janus: Janus, prompt, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        janus.draw(prompt, **options)
    assert not janus._engine.has_work


def test_a_wrong_stream_is_refused_at_the_call(janus: Janus) -> None:
    a_list: Any = ["a"]
    with pytest.raises(ValueError, match="prompt is empty"):
        janus.draw_stream("")
    with pytest.raises(ValueError, match="a drawing prompt is one string, got list"):
        janus.draw_stream(a_list)
    with pytest.raises(ValueError, match=r"partial_images must be in \[0, 3\], got 4"):
        janus.draw_stream("a", partial_images=4)


def test_a_wrong_prompt_of_a_batch_is_named_and_nothing_is_drawn(janus: Janus) -> None:
    with_none: Any = ["a", None]
    with pytest.raises(ValueError, match=r"prompts\[1\]: the prompt is empty"):
        janus.draw_batch(["a", "", "b"])
    with pytest.raises(ValueError, match=r"prompts\[1\]: a drawing prompt is one string, got Non"):
        janus.draw_batch(with_none)
    with pytest.raises(ValueError, match="got one string: use draw"):
        janus.draw_batch("a cat")
    assert not janus._engine.has_work


def test_unknown_options_name_near_matches(janus: Janus) -> None:
    with pytest.raises(TypeError, match=r"draw\(\) has no option 'guidance'.*'guidance_scale'"):
        janus.draw("a", guidance=3.0)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match=r"chat\(\) has no option 'max_tokens'.*'max_new_tokens'"):
        janus.chat("a", max_tokens=3)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3], "must be 16 integers"),
        ([[0] * 16], "must be 16 integers"),
        ([0.5] * 16, "must be 16 integers, got torch.float32"),
        ([64] * 16, r"must be in \[0, 64\), got 64 to 64"),
        ([-1] + [0] * 15, r"must be in \[0, 64\), got -1 to 0"),
    ],
)
def test_wrong_ids_are_refused(janus: Janus, ids: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        janus.decode_image(ids)
    with pytest.raises(ValueError, match=message):
        janus.score_image("a", ids)


def test_changed_weights_draw_anew(janus: Janus) -> None:
    """What a prompt was prefilled with before must not outlive the weights that made it."""
    own = Janus(copy.deepcopy(janus.model), janus.processor.tokenizer)
    before = own.draw("a cat", seed=5)
    with torch.no_grad():
        for parameter in own.model.parameters():
            parameter.mul_(1.5)
    after = own.draw("a cat", seed=5)
    fresh = Janus(own.model, own.processor.tokenizer).draw("a cat", seed=5)
    assert torch.equal(after.image_ids, fresh.image_ids)
    assert not torch.equal(after.image_ids, before.image_ids)


def test_replaced_weights_draw_anew(janus: Janus) -> None:
    own = Janus(copy.deepcopy(janus.model), janus.processor.tokenizer)
    before = own.draw("a cat", seed=5)
    others = {name: 1.5 * weight for name, weight in own.model.state_dict().items()}
    own.model.load_state_dict(others, assign=True)
    after = own.draw("a cat", seed=5)
    fresh = Janus(own.model, own.processor.tokenizer).draw("a cat", seed=5)
    assert torch.equal(after.image_ids, fresh.image_ids)
    assert not torch.equal(after.image_ids, before.image_ids)


def test_weights_made_in_inference_mode_draw_too(janus: Janus) -> None:
    with torch.inference_mode():
        own = Janus(copy.deepcopy(janus.model), janus.processor.tokenizer)
        drawn = own.draw("a cat", seed=5)
    assert torch.equal(drawn.image_ids, janus.draw("a cat", seed=5).image_ids)


def test_half_a_character_is_refused(janus: Janus) -> None:
    with pytest.raises(ValueError, match="which is no whole character: write UTF-8"):
        janus.draw("a \udcff cat")


def test_each_prompt_may_have_a_seed_of_its_own(janus):
    drawings = janus.draw_batch(["a", "b"], n=2, seed=[5, 6])
    assert [drawing.seed for drawing in drawings] == [5, 6]
    for drawing in drawings:
        alone = janus.draw(drawing.prompt, n=2, seed=drawing.seed)
        assert torch.equal(alone.image_ids, drawing.image_ids)
    with pytest.raises(ValueError, match="2 prompts need as many seeds, got 1"):
        janus.draw_batch(["a", "b"], seed=[5])


def test_the_default_device_is_not_asked(janus: Janus) -> None:
    expected = janus.draw("a dog", seed=4).image_ids
    reply = janus.chat("why?", max_new_tokens=4, temperature=1.0, seed=1).token_ids
    torch.set_default_device("meta")  # any other than the model's
    try:
        drawn = janus.draw("a dog", seed=4).image_ids
        told = janus.chat("why?", max_new_tokens=4, temperature=1.0, seed=1).token_ids
    finally:
        torch.set_default_device(None)
    assert torch.equal(drawn, expected) and told == reply
