"""Captions found by photos, and what is kept of them as a library lives on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hashcli import caption_store, codes, repairing, verifying
from hashcli.caption_search import nearest_captions
from hashcli.encoder import Encoder
from hashcli.errors import DamagedError, LibraryError
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.text_encoder import TextEncoder
from hashcli.training import TrainOptions, train
from tests import tiny

SAID = {"0": "a red mushroom", "1": "two blue shoes", "2": "the green car"}
KINDS = ("one", "two", "three")


def caption(photo: Path) -> str:
    return f"{SAID[photo.parent.name]}, {KINDS[int(photo.stem) % 3]}"


@pytest.fixture(scope="module")
def learned(tmp_path_factory, photo_folder, shared_cache):
    """A library that learned from 30 photos of 3 classes with 9 different captions, and the photos' folder."""
    base = tmp_path_factory.mktemp("said")
    photo_folder(base / "photos", kinds=3, each=10)
    for photo in sorted((base / "photos").rglob("*.png")):
        Path(f"{photo}.txt").write_text(caption(photo))
    library = Library.create(base / "library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASHCLI_CACHE", str(shared_cache))
        tiny.decode_here(patch)
        train(library, base / "photos", TrainOptions("dcgh", n_bits=16), Silent())
    return library, base / "photos"


@pytest.fixture
def world(learned, tmp_path, monkeypatch):
    """A copy of it that a test may change; the photos are those of all."""
    monkeypatch.undo()
    tiny.decode_here(monkeypatch)
    shutil.copytree(learned[0].folder, tmp_path / "library")
    return Library.open(tmp_path / "library"), learned[1]


def captions_of(library: Library) -> dict[bytes, str]:
    generation = library.require()
    return caption_store.by_photo(generation.folder, generation.hasher)


def test_captions_come_by_distance_then_cosine_of_relaxed_codes(learned):
    library, photos = learned
    photo = photos / "1" / "003.png"
    (result,) = nearest_captions(library, [bytes(photo)], top=None, radius=16, include_self=True)
    generation = library.require()
    hasher = generation.hasher
    with library.features(hasher.spec) as cache, generation.gallery() as gallery:
        digest = next(r.digest for _, r in gallery.scan() if r.path == b"1/003.png")
        image = Encoder(hasher).head.relaxed(cache.take(cache.rows([digest])), np.zeros(1, np.int64))[0]
    expected = []
    for text in {caption(p) for p in photos.rglob("*.png")}:
        relaxed = TextEncoder(hasher).relaxed([text])[0]
        distance = sum((a >= 0) != (b >= 0) for a, b in zip(image, relaxed, strict=True))
        cosine = float(image @ relaxed / np.linalg.norm(image) / np.linalg.norm(relaxed))
        first = min(bytes(p) for p in photos.rglob("*.png") if caption(p) == text)
        expected.append((distance, -cosine, text, first))
    expected.sort()
    assert [(m.rank, m.distance, m.caption, m.path) for m in result.matches] == [
        (rank, d, text, path) for rank, (d, _, text, path) in enumerate(expected, 1)
    ]
    np.testing.assert_allclose([m.similarity for m in result.matches], [-c for _, c, _, _ in expected], atol=1e-5)
    assert {m.caption.partition(",")[0] for m in result.matches[:3]} == {"two blue shoes"}
    (flat,) = nearest_captions(library, [bytes(photo)], top=4, rerank=0)
    assert [m.similarity for m in flat.matches] == [1 - 2 * m.distance / 16 for m in flat.matches]


def test_a_caption_of_the_photo_itself_alone_shows_with_include_self_only(world):
    library, photos = world
    photo = photos / "2" / "004.png"
    text = Path(f"{photo}.txt")
    own, before = "the green car of mine", text.read_text()
    text.write_text(own)
    try:
        (library.require().folder / caption_store.FILE).unlink()
        index(library, progress=Silent())
        for include, shown in ((False, False), (True, True)):
            (result,) = nearest_captions(library, [bytes(photo)], top=30, include_self=include)
            assert (own in {m.caption for m in result.matches}) is shown
    finally:
        text.write_text(before)


def test_captions_follow_the_photos_of_the_gallery(world, tmp_path):
    library, photos = world
    assert len(captions_of(library)) == 30
    more = tmp_path / "more"
    for seed, said in enumerate(("a red car", "", "")):
        tiny.noise(more / f"{seed}.png", 100 + seed)
        if said:
            (more / f"{seed}.txt").write_text(said)
    index(library, [more], progress=Silent())
    said = captions_of(library)
    assert len(said) == 33 and sorted(said.values())[:3] == ["", "", "a red car"]
    results = nearest_captions(library, [bytes(photos / "0" / "000.png")], top=30)
    assert bytes(more / "0.png") in {m.path for m in results[0].matches}
    (more / "0.png").unlink()
    index(library, [more], prune=True, yes=True, progress=Silent())
    assert "a red car" not in captions_of(library).values()


def test_captions_from_a_table_go_over_to_the_next_hasher(world, tmp_path):
    library, photos = world
    table = tmp_path / "said.csv"
    table.write_text("path,caption\n" + "".join(f"{p},thing {p.parent.name}\n" for p in sorted(photos.rglob("*.png"))))
    train(library, photos, TrainOptions("dcgh", n_bits=16, captions=table), Silent())
    assert set(captions_of(library).values()) == {"thing 0", "thing 1", "thing 2"}
    train(library, photos, TrainOptions("lsh", n_bits=16), Silent())
    assert captions_of(library) == {}
    with pytest.raises(LibraryError, match="knows no words: lsh learned from photos alone"):
        nearest_captions(library, [bytes(photos / "0" / "000.png")])


def test_damaged_captions_are_found_and_read_again_after_repair(world):
    library, photos = world
    file = library.require().folder / caption_store.FILE
    whole = captions_of(library)
    record = json.loads(file.read_text())
    record["captions"][0][0] = "something else"
    file.write_text(json.dumps(record))
    with pytest.raises(DamagedError, match=r"captions\.json is not what hashcli wrote"):
        nearest_captions(library, [bytes(photos / "0" / "000.png")])
    assert [f.item for f in verifying.verify(library, Silent())] == ["g000001 captions"]
    assert "dropped the damaged captions" in " ".join(repairing.repair(library.folder, Silent()).done)
    with pytest.raises(LibraryError, match="no indexed photo has a caption"):
        nearest_captions(library, [bytes(photos / "0" / "000.png")])
    index(library, progress=Silent())
    assert captions_of(library) == whole


def test_codes_of_captions_are_those_of_the_text_head(learned):
    library, _ = learned
    generation = library.require()
    kept = caption_store.read(generation.folder, generation.hasher)
    assert kept.texts == tuple(sorted(kept.texts)) and len(kept.texts) == 9
    relaxed = TextEncoder(generation.hasher).relaxed(list(kept.texts))
    np.testing.assert_array_equal(kept.codes, codes.pack(relaxed >= 0))
