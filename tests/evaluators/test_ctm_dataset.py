"""Any torch dataset is a task, and what does not fit is said."""

from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from evaluators.ctm.dataset import Dataset
from evaluators.ctm.inputs import Image, Numbers, Tokens


def pictures(num: int = 40, labels: int = 3) -> TensorDataset:
    """Bright and dark pictures that tell their numbers."""
    inputs = torch.arange(num).view(-1, 1, 1, 1).expand(-1, 2, 4, 4) / num
    return TensorDataset(inputs, torch.arange(num) % labels)


def few_pictures(num: int = 40, labels: int = 3) -> TensorDataset:
    return TensorDataset(torch.ones(num // 4, 2, 4, 4), torch.zeros(num // 4, dtype=torch.long))


def words(**_: int) -> list[tuple[list[int], list[int]]]:
    return [([number % 5, 1, 4], [number % 2, 1]) for number in range(30)]


def arrays(**_: int) -> list[tuple[np.ndarray, np.int64]]:
    return [(np.full(3, number, dtype=np.float64), np.int64(number % 2)) for number in range(30)]


def stream(**_: int) -> object:
    return iter([])


def nothing(**_: int) -> list[object]:
    return []


def lonely(**_: int) -> list[int]:
    return [1, 2, 3, 4] * 10


def task(train: str = "pictures", test: str = "few_pictures", **changed: object) -> Dataset:
    plain = {
        "train": f"{__file__}:{train}",
        "test": f"{__file__}:{test}",
        "inputs": Image(channels=2, height=4, width=4, widths=(4,), pools=()),
        "classes": 3,
    }
    return Dataset(**{**plain, **changed})


def test_every_sample_to_train_on_is_of_one_kind() -> None:
    made = task(held_out=0.2, arguments={"num": 80})
    assert made.num_rows == {"search": 16, "selection": 16, "test": 20}
    data = made.open()
    known = data.batch(torch.Generator().manual_seed(0), 2000)
    kinds = [known, data.rows("search"), data.rows("selection")]
    numbers = [(80 * one.inputs[:, 0, 0, 0]).round().long().unique().tolist() for one in kinds]
    assert [len(one) for one in numbers] == [48, 16, 16]
    assert sorted(chain.from_iterable(numbers)) == list(range(80))
    for one in kinds:
        named = (80 * one.inputs[:, 1, 2, 3]).round().long() % 3
        assert one.targets[:, 0].tolist() == named.tolist()


def test_another_seed_cuts_elsewhere() -> None:
    first, second = (task(seed=seed).open().rows("search").inputs for seed in (0, 1))
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_tokens_may_come_as_lists_and_have_classes_at_each_position() -> None:
    made = task(
        "words", "words", inputs=Tokens(vocabularies=(5,), length=3), classes=2, positions=2
    )
    rows = made.open().rows("test")
    assert rows.inputs.tolist()[7] == [[2], [1], [4]]
    assert rows.targets.tolist()[7] == [1, 1]


def test_numbers_may_come_as_arrays() -> None:
    rows = task("arrays", "arrays", inputs=Numbers(size=3), classes=2).open().rows("test")
    assert rows.inputs.dtype == torch.float32
    assert rows.inputs[5].tolist() == [5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": Image(channels=1, height=4, width=4)}, r"image of shape \(1, 4, 4\), got \(2"),
        ({"inputs": Numbers(size=3)}, r"sample 0 of .*:pictures: expected numbers of shape \(3,\)"),
        ({"classes": 2}, r"sample 2 of .*: expected classes from 0 to 1, got \[2\]"),
        ({"positions": 2}, "expected 2 classes, whole numbers"),
        ({"train": "stream"}, "train: expected .*:stream to return a map-style dataset"),
        ({"test": "nothing"}, "test: .*:nothing returned an empty dataset"),
        ({"train": "lonely"}, "sample 0 of .*:lonely"),
        ({"train": "missing"}, "has no function 'missing'"),
        ({"arguments": {"sizes": 3}}, "train: .*:pictures cannot be called: .*'sizes'"),
        ({"arguments": {"num": 8}}, r"held_out: .* got 0 of 8 \(0\.1\)"),
        (
            {"train": "words", "inputs": Tokens(vocabularies=(4,), length=3), "positions": 2},
            r"sample 0 of .*: expected ids from 0 to below \[4\], got 4",
        ),
        (
            {"train": "words", "inputs": Tokens(vocabularies=(4, 4), length=3)},
            r"expected tokens, whole numbers of shape \(3, 2\)",
        ),
    ],
)
def test_what_does_not_fit_is_said(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**changed).open()
