from __future__ import annotations

import pytest
import torch

from richrep.errors import RichrepError
from richrep.training.mix import MixOptions, mix_batch

IMAGES = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8).clone()  # image i is i everywhere
LABELS = torch.tensor([0, 1, 2, 3])


def mixed(options: MixOptions, *, step: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return mix_batch(IMAGES.clone(), LABELS, options, num_classes=4, seed=seed, step=step)


@pytest.mark.parametrize("options", [MixOptions(mixup=0.8), MixOptions(cutmix=1.0), MixOptions(mixup=1.0, cutmix=1.0)])
def test_targets_say_how_much_of_every_image_is_in_the_mixture(options: MixOptions) -> None:
    for step in range(8):
        images, targets = mixed(options, step=step)
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        # image i is i everywhere, so the mean of a mixture is the sum of label * share
        torch.testing.assert_close(images.mean((1, 2, 3)), targets @ LABELS.float())


def test_mixup_blends_and_cutmix_pastes() -> None:
    blended, _ = mixed(MixOptions(mixup=1.0))
    assert all(len(image.unique()) == 1 for image in blended)
    pasted, targets = mixed(MixOptions(cutmix=1.0))
    assert set(pasted.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert 0 < targets[0, 0] < 1


def test_the_same_seed_and_step_mix_alike_whatever_was_drawn_before() -> None:
    options = MixOptions(mixup=1.0, cutmix=1.0)
    state = torch.get_rng_state()
    first = mixed(options, step=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    mixed(options, step=6)
    assert all(torch.equal(a, b) for a, b in zip(first, mixed(options, step=5), strict=True))
    for other in (mixed(options, step=6), mixed(options, step=5, seed=1)):
        assert not torch.equal(first[1], other[1])


def test_probabilities_of_zero_and_one_are_kept() -> None:
    for step in range(20):
        images, targets = mixed(MixOptions(mixup=1.0, probability=0.0), step=step)
        assert torch.equal(images, IMAGES) and torch.equal(targets, torch.eye(4))
        assert len(mixed(MixOptions(mixup=1.0, cutmix=1.0, cutmix_share=0.0), step=step)[0][1].unique()) == 1
        cut = mixed(MixOptions(mixup=1.0, cutmix=1.0, cutmix_share=1.0), step=step)[0]
        assert set(cut.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}


def test_the_share_of_mixup_follows_the_beta_distribution() -> None:
    shares = torch.stack([mixed(MixOptions(mixup=0.4), step=step)[1][0, 0] for step in range(400)])
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)) = 0.1389; standard errors about 0.019 and 0.005
    assert shares.mean().item() == pytest.approx(0.5, abs=0.08)
    assert shares.var().item() == pytest.approx(0.1389, abs=0.02)


def test_the_default_mixes_nothing() -> None:
    assert not MixOptions().mixes
    assert torch.equal(mixed(MixOptions())[0], IMAGES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": -0.1}, "mixup must be a number >= 0, 0 for never, got -0.1"),
        ({"probability": 1.1}, r"probability must be in \[0, 1\], got 1.1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RichrepError, match=message):
        MixOptions(**options)
