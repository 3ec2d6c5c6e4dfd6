"""Files become rows of the feature cache, and nothing is read, decoded or encoded twice."""

from __future__ import annotations

import functools
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hashcli import decoding, extraction, identity, photos
from hashcli.extraction import extract
from hashcli.features import FeatureCache
from hashcli.identity import IdentityCache
from hashcli.photos import PhotoFile
from hashcli.progress import Silent
from hashcli.walking import walk

DIM = 5


@dataclass(frozen=True)
class FakeSpec:
    key: str = "k"
    size: int = 8
    fit: photos.Fit = "squash"
    dim: int = DIM


@dataclass(frozen=True)
class FakeBackbone:
    spec: FakeSpec = FakeSpec()


@dataclass
class FakeLibrary:
    folder: Path

    def identity(self) -> IdentityCache:
        return IdentityCache(self.folder / "identity")

    def features(self, spec: FakeSpec) -> FeatureCache:
        return FeatureCache(self.folder / "features" / spec.key, spec.dim)


@dataclass
class Session:
    """A backbone that counts what it sees and breaks when told."""

    batches: list[int] = field(default_factory=list)
    breaks_at: int = 10**9
    batch: int = 32

    def features(self, pixels: np.ndarray) -> np.ndarray:
        if len(self.batches) == self.breaks_at:
            raise KeyboardInterrupt
        self.batches.append(len(pixels))
        return feature(pixels)


def feature(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1)[:, :DIM].astype(np.float16)


@pytest.fixture(autouse=True)
def trust_fresh_files(monkeypatch):
    monkeypatch.setattr(identity, "RACY_NS", -(10**18))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def library(tmp_path):
    return FakeLibrary(tmp_path / "library")


def add(folder: Path, *names: str) -> None:
    for name in names:
        color = np.random.default_rng(list(name.encode())).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(color).save(folder / name)


def files(folder: Path) -> list[PhotoFile]:
    return [found for found in walk(os.fsencode(folder)) if isinstance(found, PhotoFile)]


def run(folder, library, session, backbone=None, workers=1, progress=None):
    given = folder if isinstance(folder, list) else files(folder)
    return extract(given, backbone or FakeBackbone(), library, workers=workers, progress=progress, session=session)


def kept(library: FakeLibrary, rows: np.ndarray) -> np.ndarray:
    with library.features(FakeSpec()) as cache:
        return cache.take(rows)


def test_rows_and_digests_are_aligned_with_the_files(folder, library):
    add(folder, "c.png", "a.png", "b.png")
    found = run(folder, library, Session(), workers=2)

    data = [photos.read(file) for file in files(folder)]
    assert found.digests == [photos.digest(d) for d in data]
    pixels = np.stack([photos.decode(d, 8, "squash") for d in data])
    assert (kept(library, found.rows) == feature(pixels)).all()
    assert (found.n_read, found.n_encoded, found.failures) == (3, 3, [])


def test_a_second_run_reads_nothing_and_opens_no_session(folder, library, monkeypatch):
    add(folder, "a.png", "b.png")
    (folder / "bad.png").write_text("bad")
    first = run(folder, library, Session())
    monkeypatch.setattr("hashcli.worker.subprocess.Popen", lambda *a, **k: pytest.fail("a decoder was started"))
    session = Session()

    second = run(folder, library, session)

    assert (second.n_read, second.n_encoded, session.batches) == (0, 0, [])
    assert second.digests == first.digests
    assert (second.rows == first.rows).all()
    assert second.failures == first.failures


def test_only_what_is_new_or_changed_is_read(folder, library):
    add(folder, "a.png", "b.png", "c.png")
    run(folder, library, Session())
    add(folder, "d.png")
    Image.new("RGB", (8, 8), "red").save(folder / "b.png")
    session = Session()

    found = run(folder, library, session)

    assert (found.n_read, found.n_encoded, session.batches) == (2, 2, [2])
    assert (found.rows >= 0).all()


def test_moved_and_copied_photos_are_read_but_not_decoded_or_encoded(folder, library):
    add(folder, "a.png", "b.png")
    first = run(folder, library, Session())
    os.rename(folder / "a.png", folder / "z.png")
    shutil.copy(folder / "b.png", folder / "copy.png")
    session = Session()

    found = run(folder, library, session)

    assert [os.path.basename(file.path) for file in files(folder)] == [b"b.png", b"copy.png", b"z.png"]
    assert found.rows.tolist() == [first.rows[1], first.rows[1], first.rows[0]]
    assert (found.n_read, found.n_encoded, session.batches) == (2, 0, [])


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_contents_are_encoded_once(folder, library, workers):
    add(folder, "a.png")
    for number in range(9):
        shutil.copy(folder / "a.png", folder / f"{number}.png")
    session = Session()

    found = run(folder, library, session, workers=workers)

    assert session.batches == [1]
    assert set(found.rows.tolist()) == {0}
    assert len(found.digests) == found.n_read == 10


def test_failures_name_path_and_reason_in_order_each_time(folder, library, monkeypatch):
    add(folder, "good.png")
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("text")
    (folder / "twin.png").write_text("text")
    given = files(folder)
    gone = PhotoFile(os.fsencode(folder), b"gone.png", 1, 1, 1, 1)

    for _ in range(2):
        found = run([gone, *given], library, Session())
        assert [(os.path.basename(f.path), f.reason) for f in found.failures] == [
            (b"gone.png", "no such file or directory"),
            (b"empty.png", "is empty"),
            (b"text.png", "is not an image, or damaged in its first bytes"),
            (b"twin.png", "is not an image, or damaged in its first bytes"),
        ]
        assert all(os.path.isabs(failure.path) for failure in found.failures)
        assert (found.rows >= 0).tolist() == [False, False, True, False, False]
        assert [digest is None for digest in found.digests] == [True, False, False, False, False]
    assert found.n_read == 1  # the file that could not be opened may be there again


def test_a_photo_that_failed_is_tried_again_when_it_or_the_decoder_changes(folder, library, monkeypatch):
    (folder / "a.png").write_text("half written")
    assert run(folder, library, Session()).failures
    monkeypatch.setattr(extraction, "DECODE_RULE", "another rule")
    assert run(folder, library, Session()).n_read == 1

    add(folder, "a.png")

    found = run(folder, library, Session())
    assert (found.failures, found.n_encoded) == ([], 1)


def test_an_interrupted_run_goes_on_where_it_was(folder, library):
    add(folder, *(f"{number:02}.png" for number in range(12)))
    broken = Session(breaks_at=2, batch=4)
    with pytest.raises(KeyboardInterrupt):
        run(folder, library, broken)
    session = Session(batch=4)

    found = run(folder, library, session)

    assert broken.batches == [4, 4]
    assert session.batches == [4]
    assert (found.n_read, found.n_encoded) == (4, 4)
    assert sorted(found.rows.tolist()) == list(range(12))


def test_another_backbone_reads_again_and_shares_what_is_known_of_the_files(folder, library):
    add(folder, "a.png", "b.png")
    first = run(folder, library, Session())
    other = FakeBackbone(FakeSpec(key="other", size=4))

    found = run(folder, library, Session(), other)

    assert (found.n_read, found.n_encoded) == (2, 2)
    assert found.digests == first.digests


def test_fresh_files_are_read_again_until_they_can_be_trusted(folder, library, monkeypatch):
    monkeypatch.setattr(identity, "RACY_NS", 2 * 10**9)
    add(folder, "a.png")
    run(folder, library, Session())
    session = Session()

    found = run(folder, library, session)

    assert (found.n_read, found.n_encoded, session.batches) == (1, 0, [])


def test_forgotten_features_are_made_again(folder, library):
    add(folder, "a.png", "b.png")
    first = run(folder, library, Session())
    with library.features(FakeSpec()) as cache:
        cache.forget([int(first.rows[0])])

    found = run(folder, library, Session())

    assert found.n_encoded == 1
    assert (kept(library, found.rows)[0] == kept(library, first.rows)[0]).all()


def test_damaged_features_are_told_and_made_again(folder, library):
    add(folder, "a.png", "b.png", "c.png")
    first = run(folder, library, Session())
    whole = kept(library, first.rows)
    with library.features(FakeSpec()) as cache:
        (shard,) = cache.folder.glob("shard-*")
    data = bytearray(shard.read_bytes())
    data[30] ^= 1
    shard.write_bytes(data)
    shutil.copy(folder / "a.png", folder / "twin.png")  # known by its contents alone
    said: list[str] = []
    progress = Silent()
    progress.say = said.append

    found = run(folder, library, Session(), progress=progress)

    assert said == ["1 cached features are damaged; their photos are read again"]
    assert found.n_encoded == 1
    assert (kept(library, found.rows) == whole[[0, 1, 2, 0]]).all()


def test_a_damaged_feature_of_a_renamed_photo_is_made_again(folder, library):
    add(folder, "a.png")
    whole = kept(library, run(folder, library, Session()).rows)
    with library.features(FakeSpec()) as cache:
        os.truncate(next(cache.folder.glob("shard-*")), 30)
    os.rename(folder / "a.png", folder / "b.png")

    found = run(folder, library, Session())

    assert (kept(library, found.rows) == whole).all()


def test_photos_that_failed_for_want_of_pillow_heif_are_tried_again_when_it_is_there(folder, library, monkeypatch):
    versions = {"pillow": "13"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    (folder / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    assert len(run(folder, library, Session()).failures) == 1
    assert run(folder, library, Session()).n_read == 0
    versions["pillow-heif"] = "1.0"
    assert run(folder, library, Session()).n_read == 1


def test_a_photo_that_took_too_long_is_reported_and_tried_again(folder, library, monkeypatch):
    add(folder, "a.png", "b.png")
    slow = functools.partial(decoding.decode_all, timeout=1e-6)
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "decode_all", slow)
        first = run(folder, library, Session())
    assert [failure.reason for failure in first.failures] == ["takes longer than 1e-06 s to decode"] * 2

    found = run(folder, library, Session())

    assert (found.n_read, found.failures) == (2, [])


def test_progress_counts_every_photo_once(folder, library):
    add(folder, "a.png", "b.png", "c.png")
    counted: list[list[int | None]] = []

    class Counting(Silent):
        @contextmanager
        def task(self, what, total=None):
            counted.append([total, 0])
            yield self

        def advance(self, n=1):
            counted[-1][1] += n

    run(files(folder)[:2], library, Session(), progress=Counting())
    run(folder, library, Session(), progress=Counting())

    assert counted == [[2, 2], [3, 3]]


def test_no_photos_are_no_work(library):
    session = Session()
    found = run([], library, session)
    assert (found.digests, found.rows.tolist(), found.failures, session.batches) == ([], [], [], [])
