"""The installed command in fresh processes, on image files on disk: what a user does, and what must come out."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import Command

FAST = ("--set", "epochs=2", "--set", "steps_per_epoch=10", "--set", "warmup=1", "-b", "32")


@pytest.fixture(scope="module")
def world(tmp_path_factory, photo_folder, shared_cache):
    """A library adapted once from studio/ to phone/; tests that change it take a copy."""
    base = tmp_path_factory.mktemp("world")
    (base / "home").mkdir()
    photo_folder(base / "studio", kinds=3, each=8)
    photo_folder(base / "phone", kinds=3, each=6, flat=True, first=100, tint=(30, 0, -30))
    photo_folder(base / "later", kinds=3, each=3, flat=True, first=200, tint=(30, 0, -30))
    photo_folder(base / "held-out", kinds=3, each=3, first=300, tint=(30, 0, -30))
    command = Command(base / "home", base / "library", shared_cache)
    command("adapt", "--src", base / "studio", "--tgt", base / "phone", *FAST)
    return command, base


@pytest.fixture
def own(world, tmp_path):
    """The same with a library of its own to change."""
    command, base = world
    shutil.copytree(base / "library", tmp_path / "library")
    return Command(command.home, tmp_path / "library", command.cache), base


def found(command: Command, *arguments) -> list[dict]:
    return [json.loads(line) for line in command("query", *arguments, "-f", "jsonl").stdout.splitlines()]


def paths(command: Command, photo: Path, top: int = 1000) -> set[str]:
    return {match["path"] for match in found(command, photo, "-k", str(top))}


def test_adapt_indexes_both_folders_and_query_finds_the_same_kind(world):
    command, base = world
    matches = found(command, base / "held-out/1/300.png", "-k", "5")
    assert [m["rank"] for m in matches] == [1, 2, 3, 4, 5]
    assert [m["distance"] for m in matches] == sorted(m["distance"] for m in matches)
    kinds = [Path(m["path"]).name.split("-")[0] if "phone" in m["path"] else m["label"] for m in matches]
    assert kinds.count("1") >= 4
    assert {m["domain"] for m in found(command, base / "held-out/1/300.png", "-k", "100")} == {"src", "tgt"}


def test_a_photo_of_the_library_is_left_out_of_its_own_results_unless_asked(world):
    command, base = world
    photo = base / "phone/0-100.png"
    assert str(photo) not in paths(command, photo)
    first = found(command, photo, "--include-self", "-k", "1")[0]
    assert (first["path"], first["distance"]) == (str(photo), 0)


def test_query_gives_an_indexed_photo_the_code_that_index_gave_it(own):
    command, base = own
    copy = base / "copy.png"
    shutil.copy(base / "phone/1-102.png", copy)
    twin = found(command, copy, "--include-self", "-k", "1")[0]
    assert twin["distance"] == 0


def test_query_imports_no_torch(world):
    command, base = world
    script = (
        "import sys; from hashcli import cli; sys.argv = ['hashcli', 'query', sys.argv[1], '-f', 'paths'];"
        "code = cli.main();"
        "loaded = {'torch', 'torchvision', 'timm', 'rich', 'onnx', 'scipy', 'sklearn'} & set(sys.modules);"
        "sys.exit(f'{loaded} loaded' if loaded else code)"
    )
    python = Path(sysconfig.get_path("scripts")) / "python"
    photo = base / "held-out/1/301.png"
    done = subprocess.run(
        [python, "-c", script, photo], env=command.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_index_adds_changes_moves_and_prunes(own, photo_folder, tmp_path):
    command, base = own
    more = photo_folder(tmp_path / "more", kinds=3, each=2, flat=True, first=400)
    command("index", more)
    query = base / "held-out/0/300.png"
    assert {str(p) for p in more.iterdir()} < paths(command, query)

    (more / "0-400.png").rename(more / "moved.png")
    shutil.copy(base / "later/2-200.png", more / "1-400.png")
    (more / "2-400.png").unlink()
    said = command("index", more).stderr
    now = paths(command, query)
    assert str(more / "moved.png") in now and str(more / "0-400.png") not in now
    assert str(more / "2-400.png") in now, "a photo that vanished stays until --prune"
    assert "moved" in said

    command("index", more, "--prune", "--yes")
    assert str(more / "2-400.png") not in paths(command, query)


def test_adapt_index_adapt_finds_the_photos_of_all_three_and_rollback_goes_back(own, photo_folder, tmp_path):
    command, base = own
    command("index", base / "later")
    b = {str(p) for p in (base / "later").iterdir()}
    other_src = photo_folder(tmp_path / "studio2", kinds=2, each=6, first=500)
    other_tgt = photo_folder(tmp_path / "phone2", kinds=2, each=6, flat=True, first=600)
    refused = command("adapt", "--src", other_src, "--tgt", other_tgt, *FAST, code=2)
    assert "--replace" in refused.stderr

    command("adapt", "--src", other_src, "--tgt", other_tgt, "--replace", "-m", "source-only", *FAST[:4], "-b", "64")
    a = {str(p) for folder in ("studio", "phone") for p in (base / folder).rglob("*.png")}
    c = {str(p) for folder in (other_src, other_tgt) for p in folder.rglob("*.png")}
    assert paths(command, base / "held-out/0/300.png") == a | b | c

    command("library", "rollback")
    assert paths(command, base / "held-out/0/300.png") == a | b


def test_adapting_again_reads_no_photo(own):
    command, base = own
    script = (
        "import sys; from hashcli import cli\n"
        "def watch(event, arguments):\n"
        "    starts = event == 'subprocess.Popen' and 'hashcli' in str(arguments[1])\n"  # not PyTorch's own
        "    if starts or (event == 'open' and str(arguments[0]).endswith('.png')):\n"
        "        print('READ', event, arguments[:2])\n"
        "sys.addaudithook(watch)\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ["adapt", "--src", base / "studio", "--tgt", base / "phone", "-m", "itq", "-b", "16", "--seed", "3"]
    python = Path(sysconfig.get_path("scripts")) / "python"
    done = subprocess.run(
        [python, "-c", script, *arguments], env=command.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "READ" not in done.stdout
    assert paths(command, base / "held-out/0/300.png") >= {str(base / "phone/0-100.png")}


def test_eval_of_the_library_leaves_out_photos_that_trained_it(world):
    command, base = world
    report = json.loads(
        command(
            "eval", "--queries", base / "held-out", "--database", base / "studio", "-f", "jsonl"
        ).stdout.splitlines()[0]
    )
    assert 0.5 < report["map"] <= 1
    seen = command("eval", "--queries", base / "studio", "--database", base / "studio", code=None)
    assert seen.returncode == 2 and "took part in training" in seen.stderr
    allowed = command("eval", "--queries", base / "studio", "--database", base / "studio", "--allow-seen")
    assert "24 of 24 query photos took part in training" in allowed.stderr


def test_eval_compares_methods_and_leaves_the_library_alone(world):
    command, base = world
    before = sorted((p, p.stat().st_mtime_ns) for p in (base / "library/generations").rglob("*") if p.is_file())
    arguments = ("--method", "itq,lsh", "--seeds", "2", "-b", "16", "-f", "jsonl")
    lines = command(
        "eval", "--src", base / "studio", "--tgt", base / "phone", "--queries", base / "held-out", *arguments
    ).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["method"] for row in rows} == {"itq", "lsh"}
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (base / "library/generations").rglob("*") if p.is_file())


def test_a_staged_hasher_serves_nothing_until_index_completes_it(own):
    command, base = own
    query = base / "held-out/0/300.png"
    old = found(command, query)
    command("adapt", "--src", base / "studio", "--tgt", base / "phone", "-m", "lsh", "-b", "16", "--no-index")
    assert found(command, query) == old
    command("index")
    assert found(command, query) != old
    assert len(paths(command, query)) == 24 + 18


def test_export_and_import_carry_a_hasher_to_another_library(world, tmp_path):
    command, base = world
    command("library", "export", tmp_path / "hasher.zip")
    other = Command(command.home, tmp_path / "other", command.cache)
    other("library", "import", tmp_path / "hasher.zip")
    other("index", base / "phone")
    query = base / "held-out/1/301.png"
    here = {m["path"]: m["distance"] for m in found(command, query, "-k", "1000")}
    there = {m["path"]: m["distance"] for m in found(other, query, "-k", "1000")}
    assert len(there) == 18
    assert all(here[path] == distance for path, distance in there.items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_adapt_leaves_the_old_state_and_the_same_command_goes_on(own, number, tmp_path, photo_folder):
    command, base = own
    query = base / "held-out/0/300.png"
    old = found(command, query)
    photo_folder(tmp_path / "s", kinds=2, each=10, first=1000)
    photo_folder(tmp_path / "t", kinds=2, each=20, flat=True, first=2000)
    script = Path(sysconfig.get_path("scripts")) / "hashcli"
    arguments = ["adapt", "--src", tmp_path / "s", "--tgt", tmp_path / "t", "--replace", "-m", "lsh", "-b", "32"]
    running = subprocess.Popen(
        [script, *arguments], env=command.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert "reading photos" in running.stderr.readline()
    running.send_signal(number)
    _, said = running.communicate(timeout=240)
    assert running.returncode == 128 + number, said
    assert "goes on from here" in said and "Traceback" not in said
    assert found(command, query) == old
    if number == signal.SIGINT:
        command(*arguments)
        assert len(paths(command, query)) == 24 + 18 + 60
