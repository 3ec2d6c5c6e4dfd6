"""Finding files, reading them safely, showing their names."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashcli import photos, walking
from hashcli.photos import PhotoError, PhotoFile, escape, unescape
from hashcli.walking import Problem, WalkOptions, walk

JPEG = b"\xff\xd8\xff\xe0 as far as names and magic numbers go"


def put(root, *names: bytes, data: bytes = JPEG) -> None:
    for name in names:
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def paths(root, **options) -> list[bytes]:
    return [found.path for found in walk(os.fsencode(root), WalkOptions(**options)) if isinstance(found, PhotoFile)]


def problems(root, **options) -> dict[bytes, str]:
    found = [f for f in walk(os.fsencode(root), WalkOptions(**options)) if isinstance(f, Problem)]
    return {os.path.relpath(problem.path, os.fsencode(root)): problem.reason for problem in found}


@pytest.fixture
def no_hanging():
    """What opens a FIFO waits for ever: let it end the test instead."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def test_walk_is_in_byte_order_of_whole_paths(tmp_path):
    names = [b"a.jpg", b"a/b.jpg", b"a-b.jpg", b"a/b/c.png", b"Z.JPEG", b"\xff\xfe.gif", b"z/\xc3\xa9.webp", b"a0.bmp"]
    put(tmp_path, *names)

    assert paths(tmp_path) == sorted(names)


def test_names_decide_who_is_a_photo_and_contents_only_where_there_is_no_extension(tmp_path):
    put(tmp_path, b"a.jpg", b"b.TIFF", b"space.png ", b"no-extension", b"c.txt", b"d.xmp", b"jpg")
    put(tmp_path, b"README", b"Makefile", data=b"nothing to see")
    put(tmp_path, b"text.jpg", data=b"text")  # decoding will tell

    assert paths(tmp_path) == sorted([b"a.jpg", b"b.TIFF", b"space.png ", b"no-extension", b"jpg", b"text.jpg"])


def test_hidden_files_and_folders_only_when_asked(tmp_path):
    put(tmp_path, b".a.jpg", b".trash/b.jpg", b"c/.d.jpg", b"e.jpg", b".jpg")

    assert paths(tmp_path) == [b"e.jpg"]
    assert paths(tmp_path, hidden=True) == sorted([b".a.jpg", b".trash/b.jpg", b"c/.d.jpg", b"e.jpg", b".jpg"])


def test_globs_on_the_path_below_the_root(tmp_path):
    put(tmp_path, b"a/1.jpg", b"a/2.png", b"b/1.jpg", b"b/c/1.jpg", b"[x].jpg")

    assert paths(
        tmp_path,
        include=(
            "a/*",
            "*/c/*",
        ),
    ) == [b"a/1.jpg", b"a/2.png", b"b/c/1.jpg"]
    assert paths(
        tmp_path,
        exclude=(
            "b",
            "*.png",
        ),
    ) == [b"[x].jpg", b"a/1.jpg"]
    assert paths(tmp_path, include=("*.jpg",), exclude=("a/*", "[[]x].jpg")) == [b"b/1.jpg", b"b/c/1.jpg"]


def test_an_excluded_folder_is_not_entered(tmp_path, monkeypatch):
    put(tmp_path, b"a/1.jpg", b"raw/deep/1.jpg")
    entered = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: entered.append(folder) or scandir(folder))

    paths(tmp_path, exclude=("raw",))

    assert [os.path.basename(folder) for folder in entered] == [os.fsencode(tmp_path.name), b"a"]


@pytest.mark.parametrize("follow", [False, True])
def test_loops_of_links_end(tmp_path, follow):
    put(tmp_path, b"a/1.jpg")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "self").symlink_to(".")

    assert paths(tmp_path, follow_symlinks=follow) == [b"a/1.jpg"]


def test_linked_folders_are_entered_when_asked_and_once(tmp_path):
    put(tmp_path, b"library/m/1.jpg", b"elsewhere/2.jpg")
    root = tmp_path / "library"
    (root / "z").symlink_to(tmp_path / "elsewhere")
    (root / "zz").symlink_to(tmp_path / "elsewhere")

    assert paths(root) == [b"m/1.jpg"]
    assert paths(root, follow_symlinks=True) == [b"m/1.jpg", b"z/2.jpg"]


def test_links_to_files_count_as_files_and_broken_ones_are_told(tmp_path):
    put(tmp_path, b"real/1.jpg")
    (tmp_path / "link.jpg").symlink_to("real/1.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")

    assert paths(tmp_path) == [b"link.jpg", b"real/1.jpg"]
    assert set(problems(tmp_path)) == {b"gone.jpg", b"self.jpg"}


def test_what_is_no_plain_file_is_told_and_never_opened(tmp_path, monkeypatch, no_hanging):
    os.mkfifo(tmp_path / "fifo.jpg")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")

        told = problems(tmp_path)

    assert {name: reason.split()[-1] for name, reason in told.items()} == {
        b"fifo.jpg": "FIFO",
        b"zero.jpg": "device",
        b"socket.jpg": "socket",
    }


@pytest.mark.parametrize("name", ["fifo.jpg", "zero.jpg", "folder.jpg", "gone.jpg"])
def test_read_and_stat_refuse_all_but_plain_files(tmp_path, name, no_hanging):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    full = os.fsencode(tmp_path / name)

    with pytest.raises(PhotoError):
        photos.stat_photo(full, b"")
    with pytest.raises(PhotoError):
        photos.read(PhotoFile(b"", full, 0, 0, 0, 0))


def test_a_folder_that_cannot_be_listed_is_told(tmp_path):
    put(tmp_path, b"a.jpg")
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # beyond PATH_MAX, for even root cannot list that
        os.mkdir("d" * 250, dir_fd=deep)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)

    assert paths(tmp_path) == [b"a.jpg"]
    assert list(problems(tmp_path).values()) == ["folder: file name too long"]
    assert list(walk(os.fsencode(tmp_path / "absent"))) == [
        Problem(os.fsencode(tmp_path / "absent"), "folder: no such file or directory")
    ]


def test_photos_that_take_a_package_of_their_own_name_the_extra(tmp_path, monkeypatch):
    put(tmp_path, b"a.heic", b"b.CR2", b"c.jpg")
    there: set[str] = set()
    monkeypatch.setattr(walking, "_is_there", lambda extra: extra in there)
    found = walk(os.fsencode(tmp_path))
    assert [(item.extra, item.reason) for item in found[:2]] == [
        ("heic", "needs hashcli[heic]"),
        ("raw", "needs hashcli[raw]"),
    ]
    there |= {"heic", "raw"}
    assert paths(tmp_path) == [b"a.heic", b"b.CR2", b"c.jpg"]


def test_stat_photo_and_walk_agree(tmp_path):
    put(tmp_path, b"a/1.jpg")
    root = os.fsencode(tmp_path)
    (walked,) = walk(root)

    assert photos.stat_photo(walked.full, root) == walked
    assert walked.full == os.path.join(root, b"a/1.jpg")
    assert photos.stat_photo(walked.full, root[:-1]).full == walked.full  # another folder, of a longer name


def test_read_gives_all_bytes_and_honors_the_limit(tmp_path):
    put(tmp_path, b"a.jpg", data=bytes(range(256)) * 5000)
    (file,) = walk(os.fsencode(tmp_path))

    assert photos.read(file) == bytes(range(256)) * 5000
    with pytest.raises(PhotoError, match="1 MB large, more than 0 MB"):
        photos.read(file, max_bytes=1000)


def test_large_files_are_mapped_not_copied(tmp_path, monkeypatch):
    put(tmp_path, b"a.jpg", data=JPEG)
    os.truncate(tmp_path / "a.jpg", 1 << 20)
    monkeypatch.setattr(photos, "_MAP_ABOVE", 1 << 19)
    (file,) = walk(os.fsencode(tmp_path))

    data = photos.read(file)

    assert not isinstance(data, bytes)
    assert photos.digest(data) == photos.digest(bytes(data))


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, change):
    put(tmp_path, b"a.jpg", data=bytes(1000))
    (file,) = walk(os.fsencode(tmp_path))
    fstat, calls = os.fstat, []

    def fstat_and_change(descriptor):
        status = fstat(descriptor)
        calls.append(descriptor)
        if len(calls) == 2:  # the one before reading
            os.utime(file.full, ns=(1, 1))
            if change != "rewrite":
                os.truncate(file.full, {"grow": 2000, "shrink": 10}[change])
        return status

    monkeypatch.setattr(os, "fstat", fstat_and_change)
    with pytest.raises(PhotoError, match="changed while it was read"):
        photos.read(file)


def test_digest_is_of_the_contents_alone():
    assert photos.digest(b"a") != photos.digest(b"b")
    assert len(photos.digest(b"")) == photos.DIGEST_SIZE
    assert photos.digest(b"").hex() == "e3b0c44298fc1c149afbf4c8996fb924"  # the first half of SHA-256 of nothing


# drawing from all of Unicode would first build a table of it, which takes longer than the test
ODD = "a/\\ \t\n\r\x1b\x7f\x85\u00a0é語\u0301\u200b\u200f\u202e\u2028\u2029\ufeff\U0001f344"


@given(st.binary(max_size=40) | st.text(ODD, max_size=30).map(str.encode))
def test_escaped_paths_come_back_and_do_no_harm(path):
    text = escape(path)

    assert unescape(text) == path
    text.encode("utf-8")
    assert not set(text) & set(map(chr, [*range(32), *range(127, 160)]))
    assert len(text.splitlines()) <= 1


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"a b/c.jpg", "a b/c.jpg"),
        ("日本語 é.jpg".encode(), "日本語 é.jpg"),
        ("nbsp\u00a0.jpg".encode(), "nbsp\u00a0.jpg"),
        (b"tab\tnew\nback\\", r"tab\tnew\nback\\"),
        (b"\x1b[31m\r\x7f", r"\x1b[31m\x0d\x7f"),
        (b"latin1-\xe9", r"latin1-\xe9"),
        ("\u202egpj.exe".encode(), r"\xe2\x80\xaegpj.exe"),
        ("c1 \u009b, line \u2028".encode(), r"c1 \xc2\x9b, line \xe2\x80\xa8"),
        (b"\\x41", r"\\x41"),
    ],
)
def test_escape_shows(path, shown):
    assert escape(path) == shown


def test_walking_needs_neither_pillow_nor_numpy():
    probe = "import sys, hashcli.photos; sys.exit(bool({'PIL', 'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
