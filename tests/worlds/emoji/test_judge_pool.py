from __future__ import annotations

import numpy as np
import torch

from openjanus.model.vq import VQTokenizer
from openjanus.worlds.emoji.indexed import SceneSource
from openjanus.worlds.emoji.judge_pool import ReconstructionPool, redraw_with
from openjanus.worlds.emoji.sampling import touches_held_out


def pool_of(vq: VQTokenizer, source: SceneSource, *, disturbed_share: float) -> ReconstructionPool:
    return ReconstructionPool(
        vq, source, size=12, disturbed_share=disturbed_share, disturbed_ids=0.5, bf16=True
    )


def test_the_pool_is_bounded_and_made_of_training_scenes(
    vq: VQTokenizer, source: SceneSource
) -> None:
    pool = pool_of(vq, source, disturbed_share=0.0)
    pool.add(range(10))
    expected = redraw_with(vq, bf16=True)(np.stack([source.picture(i) for i in range(10)]))
    assert np.array_equal(np.stack(pool.pictures), expected)
    pool.add(range(10, 15))
    assert len(pool.pictures) == len(pool.scenes) == 12
    assert pool.scenes[:3] == [source.scene(i) for i in (12, 13, 14)]
    assert not any(touches_held_out(scene) for scene in pool.scenes)
    pictures, scenes = pool.draw(5, np.random.default_rng(0))
    for picture, scene in zip(pictures, scenes, strict=True):
        slots = [i for i, known in enumerate(pool.scenes) if known is scene]
        assert any(picture is pool.pictures[i] for i in slots)


def test_disturbed_ids_move_to_near_rows_and_not_too_many(
    vq: VQTokenizer, source: SceneSource
) -> None:
    pool = pool_of(vq, source, disturbed_share=1.0)
    ids = torch.randint(16, (50, 64), generator=torch.Generator().manual_seed(0))
    moved = pool._disturbed(ids, np.random.default_rng(0))
    share = (moved != ids).float().mean().item()
    assert 0.1 < share < 0.4  # up to a half, a quarter on average
    assert moved.min() >= 0
    assert moved.max() < 16
    still = pool_of(vq, source, disturbed_share=0.0)
    assert torch.equal(still._disturbed(ids, np.random.default_rng(0)), ids)
