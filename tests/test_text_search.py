"""Photos found by words: the installed command on photos with captions, and what it says when it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hashcli import caption_store, codes, repairing, verifying
from hashcli.caption_search import nearest_captions
from hashcli.encoder import Encoder
from hashcli.errors import DamagedError, LibraryError
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.records import DOMAINS
from hashcli.text_encoder import TextEncoder
from hashcli.text_search import nearest_to_text
from hashcli.training import TrainOptions, train
from tests import tiny
from tests.conftest import Command

SAID = {"0": "a red mushroom in the wood", "1": "two blue shoes", "2": "the green car on a road"}
BITS = ("-b", "16")


@pytest.fixture(scope="module")
def world(tmp_path_factory, photo_folder, shared_cache):
    """A library that `train` made of 30 photos in 3 classes, each with a text file beside it."""
    base = tmp_path_factory.mktemp("world")
    (base / "home").mkdir()
    photo_folder(base / "photos", kinds=3, each=10)
    for number, file in enumerate(sorted((base / "photos").rglob("*.png"))):
        Path(f"{file}.txt").write_text(f"{SAID[file.parent.name]}, photo {('one', 'two', 'three')[number % 3]}")
    command = Command(base / "home", base / "library", shared_cache)
    trained = command("train", base / "photos", *BITS)
    return command, base, trained.stderr


def found(command: Command, *arguments) -> list[dict]:
    return [json.loads(line) for line in command("query", *arguments, "-f", "jsonl").stdout.splitlines()]


def test_photos_with_classes_and_captions_are_learned_from_by_dcgh(world):
    _, _, said = world
    assert "dcgh learns from them" in said
    assert "dcgh learned codes of 16 bits from 27 labeled photos of 3 classes (3 more held out)" in said


@pytest.mark.parametrize(("words", "kind"), [("red mushroom", "0"), ("blue shoes", "1"), ("GREEN Car?", "2")])
def test_words_find_the_photos_they_describe(world, words, kind):
    command, base, _ = world
    matches = found(command, "--text", words, "-k", "8")
    assert [match["rank"] for match in matches] == list(range(1, 9))
    assert [m["distance"] for m in matches] == sorted(m["distance"] for m in matches)
    assert {Path(match["path"]).parent for match in matches} == {base / "photos" / kind}
    assert {match["query"] for match in matches} == {words}


def test_photos_still_find_photos(world):
    command, base, _ = world
    matches = found(command, base / "photos/1/003.png", "-k", "5")
    assert {match["label"] for match in matches} == {"1"}


def test_equal_distances_are_ordered_by_the_cosine_of_relaxed_codes(world):
    command, _, _ = world
    library = Library.open(command.library)
    result = nearest_to_text(library, "red mushroom", top=None, radius=16)
    assert len(result.matches) == 30 and result.unknown == {}
    generation = library.require()
    text = TextEncoder(generation.hasher).relaxed(["red mushroom"])[0]
    with generation.gallery() as gallery, library.features(generation.hasher.spec) as cache:
        roots = {root.id: root.path for root in gallery.roots()}
        expected = []
        for _, record in gallery.scan():
            feature = cache.take(cache.rows([record.digest]))
            domain = np.array([DOMAINS.index(record.domain)])
            relaxed = Encoder(generation.hasher).head.relaxed(feature, domain)[0]
            cosine = float(text @ relaxed / np.linalg.norm(text) / np.linalg.norm(relaxed))
            distance = int(((text >= 0) != (relaxed >= 0)).sum())
            expected.append((distance, -cosine, roots[record.root] + b"/" + record.path))
    expected.sort()
    assert [(m.distance, m.path) for m in result.matches] == [(d, path) for d, _, path in expected]
    np.testing.assert_allclose([m.cosine for m in result.matches], [-c for _, c, _ in expected], atol=1e-5)
    flat = nearest_to_text(library, "red mushroom", top=5, rerank=0).matches
    assert [m.similarity for m in flat] == [1 - 2 * m.distance / 16 for m in flat]
    assert all(m.cosine is None for m in flat)
    with pytest.raises(ValueError, match="one of top and radius"):
        nearest_to_text(library, "red", top=None)


def test_unknown_words_are_named_with_known_ones_and_the_others_looked_for(world):
    command, base, _ = world
    done = command("query", "--text", "red mushrom", "-k", "3", "-f", "paths")
    assert "mushrom: no caption that was learned from has this word; known are mushroom" in done.stderr
    assert all(line.startswith(str(base / "photos/0/")) for line in done.stdout.splitlines())
    nothing = command("query", "--text", "zebras crossing", code=1)
    assert nothing.stdout == ""
    assert "no word of the query is known" in nothing.stderr and "frequent words are" in nothing.stderr
    assert command("query", "--text", "", code=1).stdout == ""


def test_words_and_photos_are_not_looked_for_together(world):
    command, base, _ = world
    said = command("query", "--text", "red", base / "photos/0/000.png", code=2).stderr
    assert "leave out one of the two" in said


def test_query_by_words_imports_neither_torch_nor_scikit_learn(world):
    command, _, _ = world
    script = (
        "import sys; from hashcli import cli; sys.argv = ['hashcli', 'query', '--text', 'red', '-f', 'paths'];"
        "code = cli.main(); loaded = {'torch', 'sklearn', 'scipy', 'rich', 'onnx', 'PIL'} & set(sys.modules);"
        "print(code, sorted(loaded), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=command.environment(), capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "0 []"


@pytest.mark.slow
def test_a_hasher_takes_its_words_along_when_it_travels(world, tmp_path):
    command, base, _ = world
    command("library", "export", tmp_path / "hasher.zip")
    other = Command(command.home, tmp_path / "library", command.cache)
    other("library", "import", tmp_path / "hasher.zip")
    other("index", base / "photos")
    first = found(other, "--text", "blue shoes", "-k", "1")[0]
    assert Path(first["path"]).parent.name == "1"


def test_a_hasher_that_learned_from_photos_alone_says_so(tmp_path):
    library = Library.create(tmp_path / "library")
    tiny.noise(tmp_path / "photos/1.png", 1)
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(tmp_path / "photos", "tgt")])
    with pytest.raises(LibraryError, match="tiny learned from photos alone") as caught:
        nearest_to_text(library, "red")
    assert caught.value.exit_code == 4 and "--method dcgh" in caught.value.hint


@pytest.mark.slow
def test_captions_without_classes_lead_to_a_method_that_needs_none(world, tmp_path):
    command, base, _ = world
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (base / "photos").rglob("*.png*"):
        shutil.copy(file, flat / f"{file.parent.name}-{file.name}")
    own = Command(command.home, tmp_path / "library", command.cache)
    quick = ("--set", "epochs=1", "--set", "steps_per_epoch=2")
    assert "dcgh would learn from both" in own("train", flat, *BITS, *quick).stderr
    assert "this library knows no words" in own("query", "--text", "red", code=4).stderr
    refused = own("train", flat, *BITS, "-m", "dcgh", code=2).stderr
    assert "has no class subfolders" in refused and "--labels FILE.csv" in refused


@pytest.mark.slow
def test_a_table_of_captions_takes_the_place_of_text_files(world, tmp_path):
    command, base, _ = world
    table = tmp_path / "captions.csv"
    names = sorted((base / "photos").rglob("*.png"))
    table.write_text("path,caption\n" + "".join(f"{name},kind{name.parent.name}\n" for name in names))
    own = Command(command.home, tmp_path / "library", command.cache)
    own("train", base / "photos", *BITS, "--captions-file", table)
    assert Path(found(own, "--text", "kind2", "-k", "1")[0]["path"]).parent.name == "2"
    refused = own("train", base / "photos", *BITS, "-m", "lsh", "--captions-file", table, code=2).stderr
    assert "lsh learns nothing from captions" in refused


# ---- captions found by photos


@pytest.fixture
def learned(world):
    """The library and the folder of photos of the world, for tests that change neither."""
    command, base, _ = world
    return Library.open(command.library), base / "photos"


def caption(photo: Path) -> str:
    return Path(f"{photo}.txt").read_text()


@pytest.fixture
def copied(learned, tmp_path, monkeypatch, shared_cache):
    """A copy of it that a test may change; the photos are those of all."""
    monkeypatch.setenv("HASHCLI_CACHE", str(shared_cache))
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


def test_a_caption_of_the_photo_itself_alone_shows_with_include_self_only(copied):
    library, photos = copied
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


def test_near_duplicates_are_folded_for_words_and_among_captions(copied, tmp_path):
    library, photos = copied
    first, more = photos / "0" / "000.png", tmp_path / "more"
    more.mkdir()
    for level, said in enumerate(("a red mushroom", "a mushroom in the wood")):
        Image.open(first).save(more / f"{level}.png", compress_level=level)  # other bytes, the same picture
        (more / f"{level}.txt").write_text(said)
    index(library, [more], progress=Silent())
    same = {bytes(first), bytes(more / "0.png"), bytes(more / "1.png")}

    every, unique = (nearest_to_text(library, "red mushroom", top=None, radius=16, unique=u) for u in (False, True))
    assert same < {m.path for m in every.matches}
    assert [m.path for m in unique.matches if m.path in same] == [m.path for m in every.matches if m.path in same][:1]
    assert [m.rank for m in unique.matches] == list(range(1, 33 - unique.folded))
    assert len(nearest_to_text(library, "red mushroom", top=2, unique=True).matches) == 2

    asked = [bytes(photos / "1" / "003.png")]
    (every,), (unique,) = (nearest_captions(library, asked, top=30, unique=u) for u in (False, True))
    assert same == {m.path for m in every.matches} & same
    assert [m.path for m in unique.matches if m.path in same] == [m.path for m in every.matches if m.path in same][:1]
    assert len(unique.matches) + unique.folded == len(every.matches)


def test_captions_follow_the_photos_of_the_gallery(copied, tmp_path):
    library, photos = copied
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


@pytest.mark.slow
def test_captions_from_a_table_go_over_to_the_next_hasher(copied, tmp_path):
    library, photos = copied
    table = tmp_path / "said.csv"
    table.write_text("path,caption\n" + "".join(f"{p},thing {p.parent.name}\n" for p in sorted(photos.rglob("*.png"))))
    train(library, photos, TrainOptions("dcgh", n_bits=16, captions=table), Silent())
    assert set(captions_of(library).values()) == {"thing 0", "thing 1", "thing 2"}
    train(library, photos, TrainOptions("lsh", n_bits=16), Silent())
    assert captions_of(library) == {}
    with pytest.raises(LibraryError, match="knows no words: lsh learned from photos alone"):
        nearest_captions(library, [bytes(photos / "0" / "000.png")])


def test_damaged_captions_are_found_and_read_again_after_repair(copied):
    library, photos = copied
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
