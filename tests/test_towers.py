"""Words as open_clip's text tower sees them: the whole way from a model with random weights to found photos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hashcli import backbones, caption_store, cli, codes, hasher_transfer, onnx_export, towers
from hashcli.encoder import TowerSession
from hashcli.errors import DamagedError, UsageError
from hashcli.fitting import Labeled, fit_method
from hashcli.hasher import Hasher
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.text_encoder import TextEncoder
from hashcli.torchvision_remedy import import_torchvision
from hashcli.vocabulary import Vocabulary, Words
from tests import tiny

NAME = "open_clip:tiny-clip/random"
SAID = {"0": "a red mushroom in the wood", "1": "two blue shoes", "2": "the green car on a road"}
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """A world in which open_clip knows a tiny model of random weights, and nothing is looked for elsewhere."""
    import huggingface_hub.constants

    base = tmp_path_factory.mktemp("towers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASHCLI_CACHE", str(base / "cache"))
        patch.setenv("HASHCLI_OFFLINE", "1")
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(base / "hub"))
        tiny.decode_here(patch)
        patch.setattr(onnx_export, "captured", _refuses)  # the thorough exporter takes seconds for the smallest network
        yield base, patch


def _refuses(*_: object) -> None:
    raise RuntimeError("not today")


@pytest.fixture(scope="module")
def model(patched):
    """The model, with its weights where a download would have put them."""
    import_torchvision()
    import open_clip

    base, patch = patched
    (base / "tiny-clip.json").write_text(json.dumps(CONFIG))
    patch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    patch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(base / "tiny-clip.json")
    patch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"random": {"hf_hub": "someone/tiny/"}})
    with torch.random.fork_rng(), onnx_export.quiet():
        torch.manual_seed(3)
        model = open_clip.create_model("tiny-clip").eval()
    home = base / "hub" / "models--someone--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (home / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(model.state_dict(), home / "snapshots" / ("0" * 40) / "open_clip_model.safetensors")
    return model


@pytest.fixture(scope="module")
def backbone(model):
    return backbones.exported(NAME, Silent())


@pytest.fixture(scope="module")
def learned(patched, backbone, photo_folder):
    """A library that `train` made with that backbone, of photos with text files beside them."""
    base, _ = patched
    photos = photo_folder(base / "photos", kinds=3, each=10)
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        Path(f"{file}.txt").write_text(f"{SAID[file.parent.name]}, photo {('one', 'two', 'three')[number % 3]}")
    library = base / "library"
    assert cli.main(["train", str(photos), "-L", str(library), "-b", "16", "--backbone", NAME, "--device", "cpu"]) == 0
    return library, photos


def hasher_of(folder: Path) -> Hasher:
    return Library.open(folder).require().hasher


def test_the_exported_tower_gives_open_clips_embeddings(model, backbone):
    import open_clip

    texts = ["a red mushroom", "Two BLUE shoes!", "a text that is much longer than the twelve tokens there is room for"]
    tower = towers.of(backbone, Silent())
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("tiny-clip")(texts)).numpy()
    np.testing.assert_allclose(tower.features(texts), expected, rtol=2e-3, atol=2e-3)
    assert not tower.features(["", " \n"]).any()
    assert (tower.features([texts[1], texts[0], texts[1]]) == tower.features(texts)[[1, 0, 1]]).all()


def test_the_tower_is_made_once_and_again_when_damaged(backbone, monkeypatch):
    first = towers.of(backbone, Silent())
    with monkeypatch.context() as patch:
        patch.setattr(towers, "_made", _refuses)
        assert towers.of(backbone, Silent()).digest == first.digest
    (backbone.folder / towers.FILE).unlink()  # a library may have the same file by another name
    (backbone.folder / towers.FILE).write_bytes(b"junk")
    assert towers.of(backbone, Silent()).digest == first.digest


def test_backbones_without_a_tower_have_none(tmp_path):
    assert towers.of(tiny.backbone(tmp_path / "backbone"), Silent()) is None


def test_models_that_read_words_in_another_way_have_none(model):
    from hashcli import clip

    assert clip.tokenizer("tiny-clip/random").context == 12
    assert clip.tokenizer("roberta-ViT-B-32") is None


def test_words_find_photos_and_none_is_unknown(learned, capfd):
    library, _ = learned
    for text, kinds in (("two blue shoes, photo two", {"1"}), ("zebra", set(SAID))):
        assert cli.main(["query", "-L", str(library), "--text", text, "-k", "5", "-f", "jsonl"]) == 0
        heard = capfd.readouterr()
        found = [json.loads(line) for line in heard.out.splitlines()]
        assert len(found) == 5 and {match["label"] for match in found} <= kinds
        assert "zebra" not in heard.err


def test_captions_have_the_same_codes_in_the_library_as_when_they_are_asked_for(learned):
    hasher = hasher_of(learned[0])
    assert hasher.tower is not None and hasher.settings["text"] == "auto"
    kept = caption_store.read(Library.open(learned[0]).require().folder, hasher)
    assert len(kept.texts) == 9
    encoder = TextEncoder(hasher)
    alone = [encoder.relaxed([text])[0] for text in kept.texts]
    np.testing.assert_array_equal(kept.codes, codes.pack(np.stack(alone) >= 0))


def test_a_query_by_words_needs_no_torch(learned):
    library, _ = learned
    program = (
        "import sys; from hashcli.library import Library; from hashcli.text_search import nearest_to_text;"
        "from pathlib import Path;"
        "found = nearest_to_text(Library.open(Path(sys.argv[1])), 'two blue shoes, photo one', top=3);"
        "assert {m.label for m in found.matches} == {'1'};"
        "print(sorted({'torch', 'open_clip', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, library], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_setting_says_whether_words_are_counted(rng):
    labels = np.arange(30) % 3
    features = (rng.standard_normal((3, 20))[labels] + rng.standard_normal((30, 20))).astype(np.float16)
    said = [SAID[str(label)] for label in labels]

    def fitted(setting: str, tower: Words | None) -> Words | None:
        source = Labeled(features, labels, captions=said, tower=lambda: tower)
        return fit_method("dcgh", [setting], source, None, n_classes=3, n_bits=16, seed=0, progress=Silent()).words

    tower = Vocabulary.fit(said)  # any maker of features serves here
    assert fitted("text=tower", tower) is fitted("text=auto", tower) is tower
    assert fitted("text=words", tower) is not tower and fitted("text=auto", None) == tower
    with pytest.raises(UsageError, match="text=tower needs a backbone with a text tower") as refused:
        fitted("text=tower", None)
    assert "text=words" in refused.value.hint


def test_a_damaged_tower_in_a_hasher_is_told_and_export_and_import_keep_a_whole_one(learned, tmp_path):
    hasher = hasher_of(learned[0])
    hasher_transfer.export(hasher, tmp_path / "h.zip")
    copy = hasher_transfer.import_from(tmp_path / "h.zip", tmp_path / "copy")
    np.testing.assert_array_equal(TextEncoder(copy).relaxed(["a car"]), TextEncoder(hasher).relaxed(["a car"]))
    path, digest = copy.tower
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"tower\.onnx is not the file that was written"):
        TextEncoder(Hasher.open(copy.folder))
    with pytest.raises(DamagedError, match=r"tower\.onnx"):
        copy.verify()
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedError, match=r"tower\.onnx"):
        Hasher.open(copy.folder)
    with pytest.raises(DamagedError, match=r"tower\.onnx has the inputs"):
        TowerSession(hasher.tower[0], digest, 13, 16)
