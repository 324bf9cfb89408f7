"""Lists of pictures (CSV): wrong ones are named; those beside class folders are held against them."""

from __future__ import annotations

import pytest

from metarl import datasets
from metarl.datasets.sets import SPLITS
from metarl.datasets.trees import DatasetError


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("val.csv", None, "not found in"),
        (
            "images/n0000000200000001.jpg",
            None,
            r"val\.csv, line 2: names n0000000200000001\.jpg, which",
        ),
        (
            "val.csv",
            b"n0000000200000001.jpg,n00000002\n",
            r"val\.csv: does not begin with filename,label",
        ),
        ("val.csv", b"", r"val\.csv: does not begin with"),
        ("val.csv", b"filename,label\na.jpg\n", r"val\.csv: line 2 is not filename,label"),
        ("val.csv", b"\xff\xfe\x00", r"val\.csv: is no CSV file"),
        (
            "val.csv",
            b"filename,label\n../../secret.jpg,n00000002\n",
            r"\.\./secret\.jpg, which images/ does",
        ),
        ("val.csv", b"filename,label\n", r"val holds 0 classes with pictures, not the 1 of mini"),
        (
            "val.csv",
            b"filename,label\n" + b"n0000000400000000.jpg,n00000002\n",
            r"test\.csv, line 3: names n0000000400000000\.jpg, as .*val\.csv, line 2 does",
        ),
        (
            "val.csv",
            b"filename,label\nn0000000200000000.jpg,n00000004\n",
            r"n00000004 is in test and in val",
        ),
    ],
)
def test_a_wrong_list_is_named(name, content, sentence, tmp_path, samples):
    files = samples.listed() | {name: content}
    files = {each: file for each, file in files.items() if file is not None}
    samples.write_folder(tmp_path / "d", files)
    with pytest.raises(DatasetError, match=sentence):
        datasets.load("mini-imagenet", "val", tmp_path / "d")


def with_lists(samples):
    lists = {name: file for name, file in samples.listed().items() if name.endswith(".csv")}
    return samples.class_folders() | lists


@pytest.mark.parametrize("zipped", [False, True])
def test_class_folders_must_hold_what_the_lists_beside_them_name(zipped, tmp_path, samples):
    files = with_lists(samples)
    files.pop("train/n00000003/n0000000300000001.jpg")
    write = samples.write_zip if zipped else samples.write_folder
    root = write(tmp_path / "mini.zip", files)
    sentence = (
        r"train\.csv, line 3: names n0000000300000001\.jpg, which no folder n00000003 of that "
        "split holds; copy or download"
    )
    with pytest.raises(DatasetError, match=sentence):
        datasets.load("mini-imagenet", "train", root)


def test_lists_that_name_none_of_the_folders_pictures_are_of_another_copy(tmp_path, samples):
    files = with_lists(samples)
    renamed = {
        name.replace("/n0", "/m0", 2).replace("/m0", "/n0", 1): files[name] for name in files
    }
    assert "train/n00000001/m0000000100000000.jpg" in renamed
    found = datasets.load("mini-imagenet", "val", samples.write_folder(tmp_path / "d", renamed))
    assert found.names == ("n00000002",)


def test_so_are_lists_that_cannot_be_read_and_ones_in_other_folders(tmp_path, samples):
    files = with_lists(samples) | {"val.csv": b"number;name\n1;a\n"}
    found = datasets.load("mini-imagenet", "val", samples.write_folder(tmp_path / "a", files))
    assert found.names == ("n00000002",)
    files = with_lists(samples)
    files.pop("val/n00000002/n0000000200000001.jpg")
    for split in SPLITS:
        files[f"{split}/{split}.csv"] = files.pop(f"{split}.csv")
    found = datasets.load("mini-imagenet", "val", samples.write_zip(tmp_path / "mini.zip", files))
    assert len(found.images) == 1
