"""The small decoder of unfinished pictures."""

from __future__ import annotations

import torch

from openjanus.model.previewer import Previewer


def previewer(patch: int = 4) -> Previewer:
    torch.manual_seed(0)
    return Previewer(torch.randn(16, 8), patch, width=6)


def test_ids_become_patches_of_pixels() -> None:
    pixels = previewer()(torch.randint(16, (2, 3, 5)))
    assert pixels.shape == (2, 3, 12, 20)


def test_rows_that_are_not_known_are_as_if_the_picture_ended_there() -> None:
    """So that what is trained on whole pictures is what unfinished ones are shown by."""
    net, ids = previewer(), torch.randint(16, (1, 6, 6))
    known = torch.zeros(1, 6, 6, dtype=torch.bool)
    known[:, :4] = True
    assert torch.allclose(net(ids, known)[:, :, :16], net(ids[:, :4]), atol=1e-6)
    assert not torch.allclose(net(ids)[:, :, :16], net(ids[:, :4]), atol=1e-3)


def test_a_place_sees_two_places_around_it() -> None:
    net, ids = previewer(patch=1), torch.zeros(1, 9, 9, dtype=torch.long)
    other = ids.clone()
    other[0, 4, 4] = 1
    changed = (net(ids) - net(other)).abs().sum(1)[0] > 0  # (9, 9)
    assert changed[2:7, 2:7].all()
    changed[2:7, 2:7] = False
    assert not changed.any()


def test_the_codebook_is_the_tokenizers_and_not_trained() -> None:
    net = previewer()
    assert torch.allclose(net.codebook.norm(dim=-1), torch.ones(16))
    assert "codebook" not in net.state_dict()
    assert all(parameter is not net.codebook for parameter in net.parameters())
