"""What answers and hashers must not depend on: locale, order of files, threads; and what training depends on alone."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from campaigns.world import ODD_NAMES, photo
from hashcli import backbones, fitting, training
from hashcli.backbones import ExportedBackbone
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.training import TrainOptions
from tests import tiny
from tests.conftest import Command

OPTIONS = TrainOptions(
    method="couple",
    settings=("epochs=2", "steps_per_epoch=3", "warmup=1"),
    n_bits=16,
    device="cpu",
    workers=1,
    seed=3,
    hold_out=False,
)
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = [{"LC_ALL": "C", **ASCII}, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "tr_TR.UTF-8"}]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """studio/ with two classes and phone/ with odd names, among them letters that Turkish has its own rules for."""
    for i in range(12):
        tiny.noise(tmp_path / "studio" / "iI"[i % 2] / f"I{i}.png", i)
    for i, name in enumerate([*ODD_NAMES, "İ.png".encode(), "ı.PNG".encode(), b"I.png", b"i.PNG", b"Z.png", b"a.png"]):
        photo(os.fsencode(tmp_path / "phone") + b"/" + name, i)
    photo(os.fsencode(tmp_path / "stranger.png"), 99)
    return tmp_path


@pytest.fixture
def exported(photos: Path, monkeypatch: pytest.MonkeyPatch) -> ExportedBackbone:
    made = tiny.backbone(photos / "backbone")
    monkeypatch.setattr(backbones, "exported", lambda *_, **__: made)
    tiny.decode_here(monkeypatch)
    return made


class Backwards:
    """os.scandir, last name first."""

    def __init__(self, path, listed=os.scandir) -> None:
        with listed(path) as entries:
            self._entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    def __iter__(self) -> Backwards:
        return self

    def __next__(self) -> os.DirEntry[str]:
        return next(self._entries)

    def __enter__(self) -> Backwards:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    close = __exit__


def test_training_gives_the_same_bits_for_seed_and_threads_however_files_are_listed(photos, exported, monkeypatch):
    heads, records, held = [], [], []
    for name, listing in (("one", os.scandir), ("two", Backwards)):
        monkeypatch.setattr(os, "scandir", listing)
        library = Library.at(photos / name)
        training.adapt(library, photos / "studio", photos / "phone", OPTIONS, Silent())
        hasher = library.require().hasher
        heads.append(hasher.head_path.read_bytes())
        records.append(json.loads((hasher.folder / "hasher.json").read_text()))
        with library.require().gallery() as gallery:
            held.append({record.path: gallery.codes([slot]).tobytes() for slot, record in gallery.scan()})
    assert heads[0] == heads[1]
    for record in records:
        assert record["seed"] == 3
        assert record["threads"] == min(torch.get_num_threads(), fitting.MOST_THREADS)
    assert held[0] == held[1] and len(held[0]) == 23


def test_answers_do_not_depend_on_the_locale(photos, exported, shared_cache):
    library = Library.at(photos / "library")
    tiny.adapt(library, exported, [(photos / "studio", "src"), (photos / "phone", "tgt")])
    command = Command(photos, library.folder, shared_cache)
    script = Path(sysconfig.get_path("scripts"), "hashcli")
    asked = [os.fsencode(photos / "stranger.png"), os.fsencode(photos / "phone") + b"/\xff\xfe.png"]
    answers = set()
    for locale in LOCALES:
        environment = {k: v for k, v in command.environment().items() if not k.startswith("LC_")} | locale
        done = subprocess.run(
            [script, "query", *asked, "--top", "100", "--format", "jsonl", "--quiet"],
            env=environment,
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b""), locale
        answers.add(done.stdout)
    assert len(answers) == 1
    assert answers.pop().count(b"\n") == 2 * 23 - 1
