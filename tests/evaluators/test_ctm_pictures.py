"""MNIST and CIFAR-10 are read as their authors give them, and what is not whole is refused."""

from pathlib import Path

import numpy as np
import pytest

from evaluators.ctm.pictures import Pictures
from tests.evaluators.ctm_rows import batch, same, samples, write_cifar10, write_mnist


def test_mnist_is_read_packed_or_not(tmp_path: Path) -> None:
    write_mnist(tmp_path, train=50, test=7)
    task = Pictures(folder=str(tmp_path), format="mnist", held_out=0.2)
    assert task.num_rows == {"search": 10, "selection": 10, "test": 7}
    test = task.open().rows("test")
    raw = np.frombuffer((tmp_path / "t10k-images-idx3-ubyte").read_bytes()[16:], dtype=np.uint8)
    assert np.allclose(test.inputs.numpy().reshape(-1), raw / 255)
    assert test.targets[:, 0].tolist() == list(range(7))


def test_cifar10_is_read_from_its_binary_version(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    task = Pictures(folder=str(tmp_path), format="cifar10", pools=(0,))
    assert task.num_rows == {"search": 4, "selection": 4, "test": 8}
    data = task.open()
    raw = np.fromfile(tmp_path / "test_batch.bin", dtype=np.uint8).reshape(8, 3073)
    test = data.rows("test")
    assert test.targets[:, 0].tolist() == raw[:, 0].tolist()
    # A row is the label, then all of the red, of the green and of the blue.
    assert np.allclose(test.inputs[3, 1, 2, 5], raw[3, 1 + 1024 + 2 * 32 + 5] / 255)
    assert len(set(samples(batch(data, size=600)))) == 40 - 8


def test_rows_are_cut_where_the_seed_says_and_test_rows_are_not(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    first, second = (
        Pictures(folder=str(tmp_path), format="mnist", seed=seed).open() for seed in (0, 1)
    )
    for kind in ("search", "selection"):
        assert set(samples(first.rows(kind))) != set(samples(second.rows(kind)))
    assert same(first.rows("test"), second.rows("test"))


def test_fewer_pictures_can_be_trained_on(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = Pictures(folder=str(tmp_path), format="mnist", train_rows=6).open()
    assert len(set(samples(batch(data, size=300)))) == 6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train-images-idx3-ubyte.gz", "expected the file train-images-idx3-ubyte or train-images"),
        ("t10k-labels-idx1-ubyte", "expected the file t10k-labels-idx1-ubyte or t10k-labels"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, words: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=words):
        Pictures(folder=str(tmp_path), format="mnist").open()


def test_a_missing_file_of_cifar10_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(ValueError, match=r"folder: expected the file data_batch_3\.bin in"):
        _ = Pictures(folder=str(tmp_path), format="cifar10").num_rows


def test_files_that_are_cut_short_or_something_else_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    task = Pictures(folder=str(tmp_path / "mnist"), format="mnist")
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"expected 7056 bytes after the head of .*, got 7051"):
        task.open()
    path.write_bytes(b"<html>" + whole)
    with pytest.raises(ValueError, match="expected an idx file that begins with 00000803"):
        _ = task.num_rows
    write_cifar10(tmp_path / "cifar")
    path = tmp_path / "cifar" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="expected pictures of 3073 bytes each in"):
        _ = Pictures(folder=str(tmp_path / "cifar"), format="cifar10").num_rows


def test_labels_of_another_number_than_pictures_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    head = np.array([2049, 3], ">u4").tobytes()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(head + b"\1\2\3")
    with pytest.raises(ValueError, match=r"expected 9 pictures of .* and as many labels"):
        Pictures(folder=str(tmp_path), format="mnist").open()


def test_a_share_that_holds_no_picture_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, train=5)
    with pytest.raises(ValueError, match=r"held_out: .* got 0 of 5 \(0\.1\) and 9 for tests"):
        _ = Pictures(folder=str(tmp_path), format="mnist").num_rows
