"""The algebra that several scores share."""

import pytest
import torch

from richrep.evaluation.transferability.inputs import along_principal_directions, class_mean_deviations, one_hot


@pytest.mark.parametrize("shape", [(20, 5), (5, 20)], ids=["N>D", "N<D"])
def test_directions_are_those_of_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = torch.randn(shape[0], 3, generator=generator, dtype=torch.float64)
    eigenvalues, explained = along_principal_directions(values, targets)
    left, singular, _ = torch.linalg.svd(values, full_matrices=False)
    torch.testing.assert_close(eigenvalues.flip(0), singular.square())
    torch.testing.assert_close(explained.flip(0), (left.T @ targets).square())


def test_directions_that_are_rounding_are_left_out() -> None:
    values = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    repeated = torch.cat([values, values, 0 * values], 1)
    assert along_principal_directions(repeated, torch.ones(30, 1, dtype=torch.float64))[0].shape == (2,)


def test_classes_without_images_have_no_column() -> None:
    assert one_hot(torch.tensor([4, 1, 4])).tolist() == [[0, 1], [1, 0], [0, 1]]


def test_deviations_of_class_means_make_the_covariance_between_classes() -> None:
    # Values 0, 2, 4, 6 with means 1 and 5 around 3, half of the images each: √½·(-2), √½·2, whose squares sum to 4.
    found = class_mean_deviations(torch.tensor([[0.0], [2.0], [4.0], [6.0]]).double(), torch.tensor([0, 0, 1, 1]))
    assert found.flatten().tolist() == pytest.approx([-(2**0.5), 2**0.5])
