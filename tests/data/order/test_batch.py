from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpt.data.order.batch import RowGroup, collate, mixed, word_rows
from mpt.data.order.plan import length_groups
from mpt.data.windows import EncodedSplit, Places

PAD = 99


def starts(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def split_of(*windows, labelled=True):
    """A split of windows, each given as its pieces and the columns of its words; word n has label n."""
    columns = [column for _, words in windows for column in words]
    return EncodedSplit(
        pieces=np.array([piece for pieces, _ in windows for piece in pieces], dtype=np.int32),
        piece_starts=starts([len(pieces) for pieces, _ in windows]),
        positions=np.array(columns, dtype=np.int32),
        word_starts=starts([len(words) for _, words in windows]),
        labels=np.arange(len(columns), dtype=np.int32) if labelled else None,
        windows_of=np.arange(len(windows) + 1),
        places=Places(
            paths=("f.txt",),
            files=np.zeros(len(windows), dtype=np.int32),
            lines=np.arange(len(windows), dtype=np.int32),
        ),
    )


THREE = (([1, 11, 12, 2], [1, 2]), ([1, 21, 2], [1]), ([1, 31, 32, 33, 34, 2], [1, 3, 4]))


def test_collate():
    batch = collate(split_of(*THREE), np.array([2, 1]), pad=PAD)
    assert batch.input_ids_BS.tolist() == [[1, 31, 32, 33, 34, 2], [1, 21, 2, PAD, PAD, PAD]]
    assert batch.attention_mask_BS.tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    assert batch.words_M.tolist() == [1, 3, 4, 6 + 1]
    assert batch.labels_M.tolist() == [3, 4, 5, 2]
    assert batch.num_pieces == 9
    dtypes = (batch.input_ids_BS.dtype, batch.attention_mask_BS.dtype, batch.words_M.dtype, batch.labels_M.dtype)
    assert dtypes == (torch.int64, torch.bool, torch.int64, torch.int64)


def test_widths_follow_their_words():
    split = replace(split_of(*THREE), widths=np.array([1, 1, 1, 2, 1, 1], dtype=np.int32))
    batch = collate(split, np.array([2, 0]), pad=PAD)
    assert batch.words_M.tolist() == [1, 3, 4, 6 + 1, 6 + 2] and batch.widths_M.tolist() == [2, 1, 1, 1, 1]
    assert batch.widths_M.dtype == torch.int64
    assert collate(split_of(*THREE), np.array([2, 0]), pad=PAD).widths_M is None


def test_rows_of_one_length_have_no_mask():
    batch = collate(split_of(*THREE), np.array([1, 1]), pad=PAD)
    assert batch.attention_mask_BS is None and batch.num_pieces == 6
    assert batch.input_ids_BS.tolist() == [[1, 21, 2]] * 2


def test_text_without_labels_has_none():
    assert collate(split_of(*THREE, labelled=False), np.array([0]), pad=PAD).labels_M is None


@pytest.mark.parametrize("windows", [[0], [2, 1]])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_batch_moves_whole(windows, labelled):
    batch = collate(split_of(*THREE, labelled=labelled), np.array(windows), pad=PAD)
    moved = batch.to(torch.device("meta"))
    for name in ("input_ids_BS", "attention_mask_BS", "words_M", "labels_M"):
        before, after = getattr(batch, name), getattr(moved, name)
        assert (before is None) == (after is None)
        assert before is None or (after.device.type == "meta" and after.shape == before.shape)


@st.composite
def splits(draw):
    windows = []
    for number in range(draw(st.integers(1, 12))):
        length = draw(st.integers(1, 9))
        columns = draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=length, unique=True).map(sorted))
        windows.append(([100 * number + i for i in range(length)], columns))
    return split_of(*windows), windows


@given(splits(), st.data())
def test_every_word_of_a_batch_keeps_its_piece_and_label(split_windows, data):
    split, windows = split_windows
    rows = data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=8))
    batch = collate(split, np.array(rows), pad=-1)
    expected = [windows[row][0][column] for row in rows for column in windows[row][1]]
    assert batch.input_ids_BS.flatten()[batch.words_M].tolist() == expected
    words = [word for row in rows for word in range(split.word_starts[row], split.word_starts[row + 1])]
    assert word_rows(split, np.array(rows)).tolist() == words
    assert batch.labels_M.tolist() == words
    assert batch.num_pieces == sum(len(windows[row][0]) for row in rows)
    assert batch.num_pieces == int((batch.input_ids_BS >= 0).sum())


@given(splits(), st.integers(1, 40), st.data())
def test_evaluation_sees_every_window_once(split_windows, tokens, data):
    split, windows = split_windows
    wanted = data.draw(st.lists(st.integers(0, len(windows) - 1), unique=True, min_size=1))
    groups = [np.array(wanted)[rows] for rows in length_groups(split.pieces_of(np.array(wanted)), tokens=tokens)]
    assert sorted(np.concatenate(groups).tolist()) == sorted(wanted)
    lengths = [split.window_pieces[group] for group in groups]
    assert all(len(group) == 1 or len(group) * group.max() <= tokens for group in lengths)
    assert (np.diff(np.concatenate(lengths)) >= 0).all()


@pytest.mark.parametrize(("whole", "expected"), [(False, [0, 0, 1, 2, 2]), (True, [0, 0, 1, 1, 1])])
def test_groups_are_numbered_in_the_order_of_the_batch(whole, expected):
    split = EncodedSplit(
        pieces=np.arange(8, dtype=np.int32),
        piece_starts=np.array([0, 3, 5, 8]),
        positions=np.array([0, 1, 1, 2, 0], dtype=np.int32),
        word_starts=np.array([0, 1, 3, 5]),
        labels=np.array([1, 1, 0, 0, 3], dtype=np.int32),
        whole=whole,
        one_right=True,
        windows_of=np.array([0, 2, 3]),
        places=Places(paths=("x",), files=np.zeros(2, dtype=np.int32), lines=np.ones(2, dtype=np.int32)),
    )
    batch = collate(split, np.array([2, 0, 1]), pad=9)
    assert batch.groups_M.tolist() == expected
    assert batch.labels_M.tolist() == [0, 3, 1, 1, 0]
    assert batch.to(torch.device("cpu")).groups_M.tolist() == expected


def test_segments_are_padded_with_zeros():
    split = EncodedSplit(
        pieces=np.arange(5, dtype=np.int32),
        piece_starts=np.array([0, 3, 5]),
        segments=np.array([0, 1, 1, 0, 1], dtype=np.uint8),
        positions=np.zeros(2, dtype=np.int32),
        word_starts=np.array([0, 1, 2]),
        labels=None,
        windows_of=np.array([0, 1, 2]),
        places=Places(paths=("x",), files=np.zeros(2, dtype=np.int32), lines=np.ones(2, dtype=np.int32)),
    )
    assert collate(split, np.array([1, 0]), pad=9).segments_BS.tolist() == [[0, 1, 0], [0, 1, 1]]


# Rows of several slots and tasks


def test_rows_are_of_the_slot_and_the_tasks_that_are_told():
    batch = collate(split_of(*THREE), np.array([2, 1]), pad=PAD, tasks=("a", "b"), slot=3)
    assert batch.rows == (RowGroup(slot=3, tasks=("a", "b"), rows=2, words=4),) and batch.slots == [3, 3]
    assert collate(split_of(*THREE), np.array([2, 1]), pad=PAD).rows == (), "a text that nobody scores"


def test_mixed_batches_are_their_rows_one_after_the_other():
    split = split_of(*THREE)
    first = collate(split, np.array([1]), pad=PAD, tasks=("a",), slot=2)
    second = collate(split, np.array([2, 0]), pad=PAD, tasks=("b", "c"))
    batch = mixed([first, second], pad=PAD)
    assert batch.input_ids_BS.tolist() == [
        [1, 21, 2, PAD, PAD, PAD],
        [1, 31, 32, 33, 34, 2],
        [1, 11, 12, 2, PAD, PAD],
    ]
    assert batch.attention_mask_BS.sum(1).tolist() == [3, 6, 4] and batch.num_pieces == 13
    assert batch.words_M.tolist() == [1, 6 + 1, 6 + 3, 6 + 4, 12 + 1, 12 + 2]
    assert batch.rows == (*first.rows, *second.rows) and batch.slots == [2, 0, 0]
    assert batch.labels_M is None and batch.groups_M is None


@given(splits(), st.booleans(), st.booleans(), st.data())
def test_mixing_batches_equals_collating_their_rows_together(split_windows, widths, segments, data):
    split, windows = split_windows
    if widths:
        split = replace(split, widths=np.ones(len(split.positions), dtype=np.int32))
    if segments:
        split = replace(split, segments=np.arange(len(split.pieces), dtype=np.uint8) % 2)
    rows = data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=8))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)))))
    groups = [group for group in np.split(np.array(rows), cuts) if len(group)]
    batch = mixed([collate(split, group, pad=-1, tasks=(f"t{n}",), slot=n) for n, group in enumerate(groups)], pad=-1)
    whole = collate(split, np.array(rows), pad=-1)
    for name in ("input_ids_BS", "attention_mask_BS", "words_M", "widths_M", "segments_BS"):
        ours, theirs = getattr(batch, name), getattr(whole, name)
        assert (ours is None) == (theirs is None), name
        assert ours is None or (ours.dtype == theirs.dtype and torch.equal(ours, theirs)), name
    assert batch.slots == [slot for slot, group in enumerate(groups) for _ in group]
    assert [group.words for group in batch.rows] == [int(split.words_of(group).sum()) for group in groups]
    assert [group.tasks for group in batch.rows] == [(f"t{n}",) for n in range(len(groups))]


def test_what_some_batches_have_is_made_up_for_in_others():
    """A word of one piece, and pieces of the first segment."""
    plain = split_of(*THREE)
    rich = replace(plain, widths=np.array([1, 1, 1, 2, 1, 1]), segments=np.ones(len(plain.pieces), dtype=np.uint8))
    batch = mixed([collate(rich, np.array([2]), pad=PAD), collate(plain, np.array([0]), pad=PAD)], pad=PAD)
    assert batch.widths_M.tolist() == [2, 1, 1, 1, 1]
    assert batch.segments_BS.tolist() == [[1] * 6, [0] * 6]
