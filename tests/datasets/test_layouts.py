"""Whatever layout the files have, the arrays are the same; what is wrong with a file is said."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from metarl import datasets
from metarl.datasets import locating
from metarl.datasets.sets import OMNIGLOT, SPLITS, split_classes
from metarl.datasets.trees import MAX_BYTES, DatasetError


def omniglot_as(layout, root, samples):
    background, evaluation = samples.characters().values()
    if layout == "folders":
        samples.write_folder(root, background | evaluation)
    elif layout == "nested folders":
        samples.write_folder(root / "data/omniglot-py", background | evaluation)
    elif layout == "doubly nested":
        samples.write_folder(root / "images_background", background)
        samples.write_folder(root / "images_evaluation", evaluation)
    elif layout == "zips":
        samples.write_zip(root / "omniglot/images_background.zip", background)
        samples.write_zip(root / "omniglot/images_evaluation.zip", evaluation)
    elif layout == "zips without a folder":
        for part, files in samples.characters().items():
            inner = {name.removeprefix(f"{part}/"): files[name] for name in files}
            samples.write_zip(root / f"{part}.zip", inner)
    else:
        samples.write_zip(root / "a/images_background.zip", background, "./x/")
        samples.write_folder(root / "b", evaluation)
    return root


def mini_as(layout, root, samples):
    if layout == "class folders":
        samples.write_folder(root / "mini-imagenet", samples.class_folders())
    elif layout == "lists":
        samples.write_folder(root, samples.listed())
    elif layout == "class folders beside lists":
        lists = {name: file for name, file in samples.listed().items() if name.endswith(".csv")}
        samples.write_zip(root / "mini_imagenet.zip", samples.class_folders() | lists)
    elif layout == "zip of lists":
        samples.write_zip(root / "x/miniImageNet.zip", samples.listed(), "mini/")
    else:
        return samples.write_zip(root / "pictures.zip", samples.class_folders(), "a/b/")
    return root


LAYOUTS = {
    "omniglot": (
        omniglot_as,
        ("folders", "nested folders", "doubly nested", "zips", "zips without a folder", "mixed"),
    ),
    "mini-imagenet": (
        mini_as,
        ("class folders", "lists", "class folders beside lists", "zip of lists", "a zip itself"),
    ),
}


@pytest.mark.parametrize(
    ("name", "layout"), [(name, each) for name, (_, all_) in LAYOUTS.items() for each in all_[1:]]
)
def test_each_layout_gives_the_same_arrays(name, layout, tmp_path, samples):
    write, (first, *_) = LAYOUTS[name]
    one, other = (write(each, tmp_path / each, samples) for each in (first, layout))
    samples.write_folder(
        other, {"__MACOSX/._x.png": b"", ".git/x.png": b""}
    ) if other.is_dir() else None
    for split in (*SPLITS, "train+val"):
        expected, found = (datasets.load(name, split, root) for root in (one, other))
        assert found.names == expected.names
        assert np.array_equal(found.starts, expected.starts)
        assert np.array_equal(found.images, expected.images)


def test_classes_and_counts_of_each_split(tmp_path, samples):
    root = mini_as("lists", tmp_path, samples)
    train, val, test = (datasets.load("mini-imagenet", split, root) for split in SPLITS)
    assert train.names == ("n00000001", "n00000003")
    assert train.starts.tolist() == [0, 1, 4]
    assert (val.names, val.starts.tolist()) == (("n00000002",), [0, 2])
    assert (test.names, test.starts.tolist()) == (("n00000004",), [0, 2])
    both = datasets.load("mini-imagenet", "train+val", root)
    assert both.names == train.names + val.names
    assert both.starts.tolist() == [0, 1, 4, 6]
    assert both.images.shape == (6, 3, 84, 84)
    assert both.starts.dtype == np.int64


def test_a_class_holds_its_own_pictures_in_the_order_of_their_names(tmp_path, samples):
    files = samples.class_folders()
    root = samples.write_folder(tmp_path / "d", files)
    for split in SPLITS:
        found = datasets.load("mini-imagenet", split, root)
        for index, word in enumerate(found.names):
            own = sorted(name for name in files if name.startswith(f"{split}/{word}/"))
            decoded = [np.asarray(Image.open(io.BytesIO(files[name]))) for name in own]
            part = found.images[found.starts[index] : found.starts[index + 1]]
            assert np.array_equal(part.transpose(0, 2, 3, 1), np.stack(decoded))


def test_a_drawing_is_the_mean_of_the_ink_that_each_pixel_covers(tmp_path, samples):
    """Oracle: source pixels given to the target pixel that their centres lie in, and averaged."""
    root = omniglot_as("folders", tmp_path, samples)
    found = datasets.load("omniglot", "test", root)
    path = sorted((root / next(iter(root.glob(f"*/{found.names[0]}")))).iterdir())[1]
    ink = 255.0 * ~np.asarray(Image.open(path))
    target = np.ceil((np.arange(105) + 0.5) * 28 / 105).astype(int) - 1
    sums, counts = np.zeros((28, 28)), np.zeros((28, 28))
    np.add.at(sums, (target[:, None], target[None, :]), ink)
    np.add.at(counts, (target[:, None], target[None, :]), 1)
    assert counts.min() == 9
    np.testing.assert_allclose(found.images[1, 0], sums / counts, atol=1.01)


def test_paper_is_0_and_ink_is_255(tmp_path, samples):
    files = {
        name: content for part in samples.characters().values() for name, content in part.items()
    }
    for name in files:
        shade = 255 if name.endswith("01.png") else 0
        files[name] = samples.png(np.full((105, 105), shade, np.uint8), "1")
    found = datasets.load("omniglot", "train+val", samples.write_folder(tmp_path, files))
    assert np.unique(found.images[0::2]).tolist() == [0]
    assert np.unique(found.images[1::2]).tolist() == [255]


def test_another_size(tmp_path, samples):
    root = mini_as("lists", tmp_path, samples)
    small = datasets.load("mini-imagenet", "val", root, image_size=42).images
    assert small.shape == (2, 3, 42, 42)
    large = datasets.load("mini-imagenet", "val", root).images
    # Both are averages of the same pictures, so their means agree.
    np.testing.assert_allclose(small.mean((2, 3)), large.mean((2, 3)), atol=1.0)
    with pytest.raises(DatasetError, match=r"image size 0: must be from 1 to 512"):
        datasets.load("mini-imagenet", "val", root, image_size=0)


def test_characters_are_split_as_the_paper_counts_and_no_class_twice():
    names = [f"Alphabet{index // 30}/character{index % 30:02}" for index in range(1623)]
    split = split_classes(names, OMNIGLOT.counts)
    assert [len(split[each]) for each in SPLITS] == [1100, 100, 423]
    assert sorted(name for each in split.values() for name in each) == sorted(names)
    assert split == split_classes(names[::-1], OMNIGLOT.counts)
    sums = [[hashlib.sha256(name.encode()).hexdigest() for name in split[each]] for each in SPLITS]
    assert max(sums[0]) < min(sums[1])
    assert max(sums[1]) < min(sums[2])


def test_the_root_comes_before_the_variable_and_that_before_home(tmp_path, monkeypatch, samples):
    files = samples.class_folders()
    places = [tmp_path / "root", tmp_path / "variable", tmp_path / "home/.cache/metarl"]
    for shade, place in zip((10, 20, 30), places, strict=True):
        picture = samples.jpeg(np.full((84, 84, 3), shade, np.uint8))
        samples.write_folder(place, dict.fromkeys(files, picture))
    assert datasets.load("mini-imagenet", "val").images[0, 0, 0, 0] == 30
    monkeypatch.setenv("METARL_DATA", str(places[1]))
    assert datasets.load("mini-imagenet", "val").images[0, 0, 0, 0] == 20
    assert datasets.load("mini-imagenet", "val", places[0]).images[0, 0, 0, 0] == 10


@pytest.mark.parametrize("variable", ["METARL_DATA", "METARL_CACHE"])
def test_an_unknown_home_is_one_sentence(variable, root, monkeypatch):
    monkeypatch.setenv(variable, "~nobody-of-this-name/data")
    place = None if variable == "METARL_DATA" else root
    with pytest.raises(DatasetError, match=r"~nobody-of-this-name/data: begins with a home folder"):
        datasets.load("mini-imagenet", "train", place)


def test_a_root_of_too_many_folders_is_refused_unless_the_set_is_near(
    tmp_path, samples, monkeypatch
):
    monkeypatch.setattr(locating, "MAX_FOLDERS", 3)
    for number in range(4):
        (tmp_path / f"d/z{number}").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"d: holds too many folders to search; name the one"):
        datasets.load("omniglot", "train", tmp_path / "d")
    omniglot_as("folders", tmp_path / "d", samples)
    assert len(datasets.load("omniglot", "train", tmp_path / "d").names) == 2


def test_a_set_that_is_nowhere_names_every_place_and_what_to_do(tmp_path, monkeypatch, samples):
    monkeypatch.setenv("METARL_DATA", str(tmp_path / "variable"))
    samples.write_folder(tmp_path / "variable", samples.characters()["images_background"])
    with pytest.raises(DatasetError) as caught:
        datasets.load("omniglot", "train")
    said = str(caught.value)
    assert (
        f"{tmp_path}/variable ($METARL_DATA, which has images_background but no images_eval" in said
    )
    assert f"{tmp_path}/home/.cache/metarl (the usual place, which is no folder)" in said
    assert "<alphabet>/<character>/<drawing>.png" in said
    assert "by $METARL_DATA, by problem.data of a configuration, or by --data of python -m" in said
    with pytest.raises(DatasetError, match=rf"not found in {tmp_path}/else \(the folder asked for"):
        datasets.load("mini-imagenet", "train", tmp_path / "else")


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(DatasetError, match=r"'cifar': is none of omniglot, mini-imagenet"):
        datasets.load("cifar", "train", tmp_path)
    with pytest.raises(DatasetError, match=r"'all': is none of train, val, test, train\+val"):
        datasets.load("omniglot", "all", tmp_path)


def test_the_folder_that_bears_the_sets_name_comes_first(tmp_path, samples):
    other = {name.replace("n000", "m000"): file for name, file in samples.class_folders().items()}
    samples.write_folder(tmp_path / "another-set", other)
    with pytest.raises(DatasetError, match=r"class m00000001, which is none of mini-imagenet"):
        datasets.load("mini-imagenet", "val", tmp_path)
    mini_as("class folders", tmp_path, samples)
    assert datasets.load("mini-imagenet", "val", tmp_path).names == ("n00000002",)


def test_a_missing_drawing_or_character_is_named(tmp_path, samples):
    root = omniglot_as("folders", tmp_path / "d", samples)
    folder = root / "images_background/Latin/character01"
    next(iter(folder.iterdir())).unlink()
    with pytest.raises(
        DatasetError, match=r"class Latin/character01 has 1 pictures, not 2; copy or"
    ):
        datasets.load("omniglot", "test", root)
    next(iter(folder.iterdir())).unlink()
    with pytest.raises(
        DatasetError, match=r"images_background: holds 2 classes with pictures, not the 3"
    ):
        datasets.load("omniglot", "test", root)
    samples.write_folder(root, {"images_background/Runes/character01/x.png": b""})
    with pytest.raises(
        DatasetError, match=r"images_evaluation: holds Runes/character01, as another"
    ):
        datasets.load("omniglot", "test", root)


def test_a_file_too_large_for_a_picture_is_not_read_whole(tmp_path, samples):
    files = samples.class_folders()
    root = samples.write_folder(tmp_path / "d", files)
    with (root / next(iter(files))).open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DatasetError, match=r"is larger than 32 MiB, so no picture of this set"):
        datasets.load("mini-imagenet", "val", root)
