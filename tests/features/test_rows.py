import numpy as np
import pytest
import torch

from richrep.features.rows import Rows, as_rows, row_chunks

LEFT = torch.arange(12.0).view(6, 2)
RIGHT = -torch.arange(6.0).view(6, 1)
BOTH = torch.cat([LEFT, RIGHT], dim=1)


def test_members_side_by_side_are_read_as_their_concatenation() -> None:
    rows = Rows([LEFT, RIGHT])
    assert rows.shape == (6, 3) and len(rows) == 6 and rows.ndim == 2
    assert torch.equal(rows[1:4], BOTH[1:4])
    assert torch.equal(rows[torch.tensor([5, 0, 0])], BOTH[[5, 0, 0]])
    assert torch.equal(rows.joined(), BOTH)


def test_one_tensor_is_read_by_view_and_joined_as_itself() -> None:
    assert Rows([LEFT])[2:4].data_ptr() == LEFT[2:4].data_ptr()
    assert Rows([LEFT]).joined() is LEFT
    assert Rows([LEFT]).gives_views
    for copied in (Rows([LEFT, RIGHT]), Rows([LEFT.half()]), Rows([LEFT], torch.arange(6))):
        assert not copied.gives_views
        copied[0:2].zero_()
    assert torch.equal(LEFT, torch.arange(12.0).view(6, 2))


def test_chosen_rows_keep_their_order_and_can_be_chosen_from_again() -> None:
    rows = Rows([LEFT, RIGHT]).take(torch.tensor([4, 1, 3]))
    assert torch.equal(rows[:], BOTH[[4, 1, 3]])
    assert torch.equal(rows[1:], BOTH[[1, 3]])
    assert torch.equal(rows.take(torch.tensor([2, 0]))[:], BOTH[[3, 4]])
    assert torch.equal(rows.joined(), BOTH[[4, 1, 3]])
    assert rows.take(None) is rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_read_as_float32_and_stays_stored_as_it_is(dtype: torch.dtype) -> None:
    rows = Rows([LEFT.to(dtype)])
    assert rows.dtype == rows[:2].dtype == torch.float32
    assert torch.equal(rows[:2], LEFT[:2])  # small whole numbers are exact in every type
    assert rows.joined().dtype == dtype


def test_one_member_in_float64_makes_all_float64() -> None:
    rows = Rows([LEFT.to(torch.float16), RIGHT.double()])
    assert rows.dtype == rows[:1].dtype == torch.float64


def test_bytes_of_a_reading_are_those_stored() -> None:
    # 6 rows of 2 values in 2 bytes and of 1 value in 4 bytes; of 2 rows a third
    rows = Rows([LEFT.to(torch.float16), RIGHT])
    assert rows.num_bytes == 6 * (2 * 2 + 4)
    assert rows.take(torch.tensor([0, 5])).num_bytes == 2 * (2 * 2 + 4)


def test_mapped_files_are_read_without_being_copied(tmp_path) -> None:
    np.asarray(LEFT).astype("<f2").tofile(tmp_path / "features.bin")
    mapped = torch.from_numpy(np.memmap(tmp_path / "features.bin", dtype="<f2", mode="c", shape=(6, 2)))
    assert torch.equal(Rows([mapped, RIGHT])[2:5], BOTH[2:5])
    assert Rows([mapped]).joined() is mapped


def test_chunks_cover_all_rows_once_in_order() -> None:
    chunks = list(row_chunks(Rows([LEFT, RIGHT]), torch.tensor([5, 0, 2]), chunk_rows=2))
    assert [start for start, _ in chunks] == [0, 2]
    assert torch.equal(torch.cat([chunk for _, chunk in chunks]), BOTH[[5, 0, 2]])


def test_rows_stay_rows_and_tensors_become_rows() -> None:
    rows = Rows([LEFT])
    assert as_rows(rows) is rows
    assert torch.equal(as_rows(LEFT, torch.tensor([3]))[:], LEFT[3:4])


def test_rows_are_read_where_they_are_asked_for() -> None:
    features = torch.arange(12.0).view(6, 2)
    there = torch.device("meta")  # holds no values, but says where it is
    read = Rows([features.half()], torch.tensor([4, 1]), there)
    assert read.device == there and read[:].device == there and read[:].dtype == torch.float32
    assert read.take(torch.tensor([1])).device == there and read.joined().dtype == torch.float16
    assert not Rows([features], device=there).gives_views and Rows([features]).gives_views


def test_rows_move_whole_up_to_a_size_and_are_read_by_the_block_beyond() -> None:
    features, there = torch.arange(12.0).view(6, 2), torch.device("meta")
    assert isinstance(Rows([features]).on(there, 48), torch.Tensor)
    assert isinstance(Rows([features]).on(there, 47), Rows)
    assert Rows([features]).on(features.device, 0)[:].data_ptr() == features.data_ptr()  # there already: nothing to do
