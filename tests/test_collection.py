import os
import re
from pathlib import Path

import pytest

from hashcli.collection import LabelTable, check_apart, collect, real_folder, with_classes
from hashcli.errors import UsageError
from hashcli.progress import Silent
from hashcli.walking import WalkOptions

ANY = WalkOptions()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "studio"
    for name in ("mug/1.jpg", "mug/deep/2.jpg", "shoe/3.png", "loose.jpg"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return root


def refusal(action) -> UsageError:
    with pytest.raises(UsageError) as caught:
        action()
    return caught.value


def test_the_class_is_the_first_level_subfolder_and_loose_photos_have_none(folder):
    found = with_classes(collect(folder, "--src", ANY), None, "--src")
    assert dict(zip([f.path for f in found.files], found.labels, strict=True)) == {
        b"loose.jpg": (),
        b"mug/1.jpg": ("mug",),
        b"mug/deep/2.jpg": ("mug",),
        b"shoe/3.png": ("shoe",),
    }
    assert found.classes == ["mug", "shoe"]


def test_labels_from_a_table_win_over_subfolders_and_may_be_several(folder):
    table = folder.parent / "labels.csv"
    table.write_text("path,labels\nstudio/mug/1.jpg,red;tall\nstudio/shoe/3.png,red\n")
    found = with_classes(collect(folder, "--src", ANY), table, "--src")
    assert found.classes == ["red", "tall"]
    assert found.multi_label
    assert [labels for labels in found.labels if labels] == [("red", "tall"), ("red",)]


def test_rows_of_a_table_that_name_no_photo_are_told_with_an_example(folder):
    table = folder.parent / "labels.csv"
    table.write_text("path,labels\nstudio/mug/1.jpg,red\nstudio/shoe/3.png,blue\nz.jpg,red\nstudio/b.jpg,red\n")
    talk = Silent()
    talk.say = (said := []).append
    with_classes(collect(folder, "--src", ANY), table, "--src", talk)
    assert said == [
        f"--labels: 2 of 4 paths in {table} are no photo of {folder}, the first: {folder.parent}/studio/b.jpg"
    ]
    lookup, said[:] = LabelTable(table), []
    for file in collect(folder, "--src", ANY).files:
        lookup.labels_of(file)
    lookup.say_strange("here", talk)
    assert said == [f"--labels: 2 of 4 paths in {table} are no photo of here, the first: {folder}/b.jpg"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("file,label\n", "must be `path,labels`"),
        ("path,labels\na,b,c\n", "line 2 .* has 3 columns"),
        ("path,labels\na.jpg,b\nc\0.jpg,d\n", "line 3 .* has a NUL byte"),
        ("path,labels\nelsewhere.jpg,red\n", "no path in"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_its_line(folder, text, says):
    table = folder.parent / "labels.csv"
    table.write_text(text)
    error = refusal(lambda: with_classes(collect(folder, "--src", ANY), table, "--src"))
    assert re.search(says, str(error))


def test_a_folder_that_is_not_there_a_file_and_an_empty_one_are_told_apart(folder):
    assert "there is no folder" in str(refusal(lambda: collect(folder / "nope", "--src", ANY)))
    assert "is a file" in str(refusal(lambda: collect(folder / "loose.jpg", "--src", ANY)))
    (folder / "empty").mkdir()
    assert "no photos in" in str(refusal(lambda: collect(folder / "empty", "--tgt", ANY)))
    assert "--include and --exclude" in str(refusal(lambda: collect(folder, "--tgt", WalkOptions(include=("*.tif",)))))


def test_no_class_and_one_class_are_refused_with_what_to_do(folder):
    flat = refusal(lambda: with_classes(collect(folder / "shoe", "--src", ANY), None, "--src"))
    assert "no class subfolders" in str(flat) and "--labels" in (flat.hint or "")
    one = refusal(lambda: with_classes(collect(folder / "mug", "--src", ANY), None, "--src"))
    assert "one class only (deep)" in str(one)


def test_a_photo_that_links_lead_to_counts_once_and_under_its_own_name(folder, tmp_path):
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(b"y")
    os.symlink(folder / "mug/1.jpg", folder / "a-link.jpg")
    os.symlink(folder / "shoe", folder / "z-shoe")
    os.symlink(outside, folder / "b-link.jpg")
    os.symlink(outside, folder / "mug/b-link.jpg")
    os.link(folder / "shoe/3.png", folder / "shoe/hard.png")
    own = [b"loose.jpg", b"mug/1.jpg", b"mug/deep/2.jpg", b"shoe/3.png", b"shoe/hard.png"]
    for options in (ANY, WalkOptions(follow_symlinks=True)):
        assert [file.path for file in collect(folder, "--src", options).files] == [b"b-link.jpg", *own]


@pytest.mark.parametrize("one, other", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_overlapping_folders_are_refused(tmp_path, one, other):
    (tmp_path / "a/b").mkdir(parents=True)
    paths = [real_folder(tmp_path / name, "--src") for name in (one, other)]
    assert "overlap" in str(refusal(lambda: check_apart(*paths, "--src and --tgt")))


def test_a_symlink_to_the_same_folder_overlaps_and_a_common_prefix_does_not(tmp_path):
    for name in ("ab", "abc"):
        (tmp_path / name).mkdir()
    os.symlink(tmp_path / "ab", tmp_path / "link")
    check_apart(real_folder(tmp_path / "ab", "x"), real_folder(tmp_path / "abc", "x"), "x")
    assert refusal(lambda: check_apart(real_folder(tmp_path / "ab", "x"), real_folder(tmp_path / "link", "x"), "x"))
