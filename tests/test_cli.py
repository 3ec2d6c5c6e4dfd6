"""The command line: every mistake told in two lines, every ending with its exit code, nothing heavy imported for it."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import typer

from hashcli import cli, cli_commands, cli_output, registry, search
from hashcli.cli_eval import show_measures
from hashcli.errors import DamagedError, HashcliError, MachineError, RefusedError
from hashcli.eval_report import Summary
from hashcli.extraction import PhotoFailure
from hashcli.library import Library
from hashcli.search import Match, QueryResult
from hashcli.talk import Talk


@pytest.fixture(autouse=True)
def signals_as_before():
    """`main` takes over two signals, and what they raise where nothing can be; the next test gets all back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def world(tmp_path, monkeypatch, photo_folder) -> Path:
    """The current folder, with photos and no library: studio/ has classes, phone/ has none."""
    here = tmp_path / "here"
    photo_folder(here / "studio", kinds=2, each=2)
    photo_folder(here / "phone", kinds=2, each=2, flat=True, first=9)
    photo_folder(here / "single", kinds=1, each=2)
    (here / "empty").mkdir()
    (here / "file").write_text("not a photo")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HASHCLI_LIBRARY", str(tmp_path / "library"))
    monkeypatch.setenv("HASHCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HASHCLI_DEBUG", raising=False)
    return here


ADAPT = "adapt --src studio --tgt phone"

# command line -> exit code, what the error says, what the hint says
MISTAKES = {
    "adapt --src nowhere --tgt phone": (2, "--src: there is no folder nowhere", "check the spelling"),
    "adapt --src studio --tgt nowhere": (2, "--tgt: there is no folder nowhere", "check the spelling"),
    "adapt --src file --tgt phone": (2, "--src: file is a file, and a folder is needed", None),
    "adapt --src studio --tgt empty": (2, "--tgt: no photos in empty", "are looked for"),
    "adapt --src empty --tgt phone": (2, "--src: no photos in empty", "are looked for"),
    "adapt --src phone --tgt studio": (2, "has no class subfolders", "--labels FILE.csv"),
    "adapt --src single --tgt phone": (2, "one class only (0)", "second subfolder"),
    "adapt --src studio --tgt studio": (2, "--src and --tgt overlap", "neither contains the other"),
    "adapt --src studio --tgt studio/../studio/0": (2, "--src and --tgt overlap", "neither contains the other"),
    "adapt --src studio/0 --tgt studio": (2, "--src and --tgt overlap", "neither contains the other"),
    f"{ADAPT} --method coupel": (2, "no method is called 'coupel'", "did you mean couple?"),
    f"{ADAPT} --set nonsense": (2, "--set 'nonsense' has no value", "--set name=value"),
    f"{ADAPT} --set epoch=3": (2, "couple has no setting 'epoch'", "did you mean epochs?"),
    f"{ADAPT} --set epochs=many": (2, "epochs='many' is not a whole number", "the default is"),
    f"{ADAPT} --bits 20": (2, "20 bits", "multiple of 8 from 16 to 1024"),
    f"{ADAPT} --bits 8": (2, "8 bits", "multiple of 8 from 16 to 1024"),
    f"{ADAPT} --bits 2048": (2, "2048 bits", "multiple of 8 from 16 to 1024"),
    f"{ADAPT} --backbone efficientnet": (2, "no backbone is called 'efficientnet'", "efficientnet_lite0"),
    f"{ADAPT} --device cuda": (5, "no cuda device", "--device cpu"),
    f"{ADAPT} --labels nowhere.csv": (2, "there is no file nowhere.csv", None),
    f"{ADAPT} --report nowhere/failed.jsonl": (2, "in a folder that does not exist", "failed.jsonl"),
    f"{ADAPT} --report studio": (2, "--report: studio is a folder", "failed.jsonl"),
    f"{ADAPT} --library file": (2, "--library: file is a file", "another place"),
    f"{ADAPT} --library studio": (4, "not a library", "--library DIR"),
    f"{ADAPT} --library /proc/nowhere/library": (4, "no library can be made", "--library DIR"),
    "train nowhere --method lsh": (2, "there is no folder nowhere", "check the spelling"),
    "train studio --method couple": (2, "couple adapts one folder to another", "hashcli adapt"),
    "train phone --method source-only": (2, "has no class subfolders", "--labels FILE.csv"),
    "index": (4, "there is no library", "hashcli adapt"),
    "index phone": (4, "there is no library", "hashcli adapt"),
    "query phone/0-009.png": (4, "there is no library", "hashcli adapt"),
    "query --library file phone/0-009.png": (2, "--library: file is a file", "another place"),
    "query": (2, "no photo to look for", "hashcli query PHOTO"),
    "query x -0 --format tsv": (2, "--null goes with --format paths", "leave out one"),
    "eval": (2, "eval needs --queries and --database, or --src and --tgt", "hashcli eval"),
    "eval --queries studio": (2, "eval needs --queries and --database, or --src and --tgt", "hashcli eval"),
    "eval --src studio --tgt phone --queries phone --database studio": (2, "eval needs", "hashcli eval"),
    "eval --queries studio --database phone": (4, "there is no library", "hashcli adapt"),
    "eval --src studio --tgt phone --method itq,lhs": (2, "no method is called 'lhs'", "did you mean lsh?"),
    "eval --src studio --tgt phone --method itq,lsh --bits 20": (2, "20 bits", "multiple of 8"),
    "eval --src studio --tgt phone --method itq,lsh --set epochs=2": (2, "has no setting 'epochs'", None),
    "eval --src studio --tgt phone --method itq,lsh --set iterations=no": (2, "'no' is not a whole number", "default"),
    "eval --src studio --tgt phone --allow-seen": (
        2,
        "--allow-seen goes with --queries and --database",
        "hashcli eval",
    ),
    "eval --queries studio --database phone --bits 16": (2, "--bits goes with --src and --tgt alone", "hashcli eval"),
    "methods coupel": (2, "no method is called 'coupel'", "did you mean couple?"),
    "library info": (4, "there is no library", "hashcli adapt"),
    "library rollback": (4, "there is no library", "hashcli adapt"),
    "library clean": (2, "nothing was chosen", "--features"),
    "library clean --work": (4, "there is no library", "hashcli adapt"),
    "library export hasher.zip": (4, "there is no library", "hashcli adapt"),
    "library export file": (2, "file exists already", "does not exist yet"),
    "library export nowhere/hasher.zip": (2, "there is no folder nowhere", None),
    "library import nowhere.zip": (2, "there is no file nowhere.zip", "library export"),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_two_lines_before_any_work(world, monkeypatch, capsys, line):
    for module in ("training", "comparing", "indexing"):  # reading a photo now would be work
        monkeypatch.setattr(f"hashcli.{module}.{'extract' if module == 'indexing' else 'read_part'}", None)
    if "cuda" in line:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, error, hint = MISTAKES[line]

    before = sorted(path for path in Path.cwd().parent.rglob("*"))
    assert cli.main(line.split()) == code

    out, said = capsys.readouterr()
    assert out == ""
    assert sorted(path for path in Path.cwd().parent.rglob("*")) == before
    lines = said.splitlines()
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert len(lines) == (2 if len(lines) > 1 or hint else 1)
    if hint:
        assert lines[1].startswith("hint: ")
        assert hint in lines[1]


# what Typer itself finds wrong, and a word of what it says
TYPER_MISTAKES = {
    "adpt": "Did you mean 'adapt'?",
    "adapt --src studio": "Missing option '--tgt'",
    "adapt --sorce studio": "No such option: --sorce",
    "train": "Missing argument 'DIR'",
    "query x --top 0": "'--top' / '-k'",
    "query x --top many": "'--top' / '-k'",
    "query x --radius -1": "'--radius' / '-r'",
    "query x --rerank -1": "'--rerank'",
    "query x --format tvs": "Did you mean tsv?",
    "query x --domain target": "'target' is none of src, tgt. Did you mean tgt?",
    "methods --format paths": "'paths' is none of table, tsv, csv, jsonl",
    f"{ADAPT} --device gpu": "none of auto, cuda, cpu, mps",
    f"{ADAPT} --seed -1": "'--seed'",
    f"{ADAPT} --workers 0": "'--workers'",
    "eval --src studio --tgt phone --split 1.5": "'--split'",
    "eval --src studio --tgt phone --seeds 0": "'--seeds'",
    "library inof": "Did you mean 'info'?",
}


@pytest.mark.parametrize("line", TYPER_MISTAKES)
def test_a_mistyped_command_line_ends_with_2_and_names_the_word(world, capsys, line):
    assert cli.main(line.split()) == 2

    out, said = capsys.readouterr()
    assert out == ""
    assert TYPER_MISTAKES[line] in said


def test_the_installed_command_tells_a_mistake_and_nothing_else(hashcli):
    done = hashcli("query", "photo.jpg", code=4)

    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == f"error: there is no library at {hashcli.library}"
    assert not hashcli.library.exists()


def test_the_module_runs_as_the_command(hashcli):
    command = [sys.executable, "-m", "hashcli", "--version"]
    done = subprocess.run(command, env=hashcli.environment(), capture_output=True, text=True, check=True)

    assert done.stdout == hashcli("--version").stdout


# ---- endings


def ending(monkeypatch, error: BaseException | type[BaseException]) -> int:
    """The exit code of a command that meets this failure."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(registry, "installed", fail)
    return cli.main(["methods"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DamagedError("torn", "repair"), 4),
        (MachineError("no room", "tidy up"), 5),
        (RefusedError("worse", "--force"), 6),
    ],
)
def test_each_failure_has_its_exit_code(monkeypatch, capsys, error: HashcliError, code):
    assert ending(monkeypatch, error) == code
    assert capsys.readouterr().err == f"error: {error}\nhint: {error.hint}\n"


def test_a_failure_without_a_hint_is_one_line(monkeypatch, capsys):
    assert ending(monkeypatch, MachineError("no room")) == 5
    assert capsys.readouterr().err == "error: no room\n"


def test_a_full_disk_is_the_machines_fault_and_named(monkeypatch, capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/library/current")

    assert ending(monkeypatch, full) == 5
    assert capsys.readouterr().err.startswith("error: /data/library/current: No space left on device\nhint: ")


def test_a_name_that_is_too_long_is_a_mistake_in_the_command(world, capsys):
    name = "a" * 300
    for line in (f"query phone/0-009.png --report {name}", f"query x -L {name}", f"adapt --src {name} --tgt phone"):
        assert cli.main(line.split()) == 2
        assert capsys.readouterr().err.startswith(f"error: {name}")


def test_too_little_memory_is_the_machines_fault(monkeypatch, capsys):
    assert ending(monkeypatch, MemoryError) == 5
    assert capsys.readouterr().err.startswith("error: this machine ran out of memory\nhint: ")


@pytest.mark.parametrize("error", [KeyError("surprise"), OSError(errno.EBADF, "bad file")])
def test_a_bug_is_one_line_that_names_the_file_with_the_traceback(monkeypatch, capsys, tmp_path, error):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("HASHCLI_DEBUG", raising=False)

    assert ending(monkeypatch, error) == 70

    (said,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.iterdir()
    assert "a bug in hashcli" in said
    assert type(error).__name__ in said
    assert str(file) in said
    assert "Traceback" in file.read_text()
    assert "in fail" in file.read_text()


def test_debug_shows_the_traceback_itself(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HASHCLI_DEBUG", "1")

    assert ending(monkeypatch, KeyError("surprise")) == 70
    assert capsys.readouterr().err.startswith("Traceback")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_from_within(monkeypatch, capsys, number, code):
    tidied = []

    def work() -> None:
        try:
            signal.raise_signal(number)
        except Exception:  # nothing that handles failures may take a signal for one
            tidied.append("wrong")
        finally:
            tidied.append("right")

    monkeypatch.setattr(registry, "installed", work)

    assert cli.main(["methods"]) == code
    assert tidied == ["right"]
    assert capsys.readouterr().err == "stopped; the library is as it was; the same command goes on from here\n"


def test_a_signal_in_a_weak_references_callback_is_not_lost(monkeypatch, capsys):
    class Thing:
        pass

    def work() -> dict[str, object]:
        thing = Thing()
        watched = weakref.ref(thing, lambda gone: signal.raise_signal(signal.SIGINT))
        del thing
        assert watched() is None
        time.sleep(20)  # what is interrupted when it comes again
        return {}

    monkeypatch.setattr(registry, "installed", work)

    assert cli.main(["methods"]) == 130
    assert capsys.readouterr().err == "stopped; the library is as it was; the same command goes on from here\n"


def test_an_interrupt_that_was_ignored_stays_ignored(monkeypatch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr(registry, "installed", lambda: signal.raise_signal(signal.SIGINT) or {})

    assert cli.main(["methods"]) == 0


@pytest.mark.parametrize("arguments", [["methods", "--format", "tsv"], ["--help"]])
def test_a_closed_pipe_ends_quietly(hashcli, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "hashcli", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=hashcli.environment(),
        check=False,
    )
    os.close(writing)

    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""


def test_no_locale_ends_a_run(hashcli):
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}

    assert "couple" in hashcli("methods", "--format", "table", env=ascii_only).stdout
    said = hashcli("train", "caf\u00e9", "-m", "lsh", code=2, env=ascii_only).stderr
    assert said.isascii()
    assert "there is no folder" in said


# ---- methods


def test_methods_lists_what_is_installed(capsys):
    assert cli.main(["methods", "--format", "jsonl"]) == 0

    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"couple", "itq", "lsh", "source-only"} <= set(rows)
    assert rows["itq"]["package"].startswith("hashcli ")
    assert rows["itq"]["summary"]


def test_methods_tells_about_one(capsys):
    assert cli.main(["methods", "couple", "--format", "tsv", "--header"]) == 0

    header, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    about = {row[0]: row[1:] for row in rows}
    assert header == ["item", "value", "allowed", "help"]
    assert about["method"][0] == "couple"
    assert "source labels" in about["needs"][0]
    assert about["paper"][0]
    assert about["--set epochs"][0].isdigit()
    assert about["--set epochs"][1] == "1 to 10000"
    assert about["--set epochs"][2]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("hashcli adapt --set ep", "epochs="),
        ("hashcli adapt --method itq --set it", "iterations="),
        ("hashcli eval --method itq,l", "itq,lsh"),
        ("hashcli query --format j", "jsonl"),
    ],
)
def test_completion_knows_names_and_values(hashcli, typed, offered):
    words = {"_HASHCLI_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}

    assert offered in hashcli(env=words, code=None).stdout.split()


# ---- query


@pytest.fixture
def answered(world, monkeypatch):
    """Search that answers from a table by hand, {photo: error or None}, and records what it was asked."""
    asked: dict[str, object] = {}
    errors: dict[bytes, str | None] = {}

    def nearest(library, photos, **options):
        asked.update(options, photos=photos)
        found = [Match(b"", 1, 2, 0.5, 0.5, b"/found.jpg", None, "tgt")]
        return [
            QueryResult(photo, [] if errors.get(photo, photo == b"alone") else found, errors.get(photo))
            for photo in photos
        ]

    monkeypatch.setattr(search, "nearest", nearest)
    monkeypatch.setattr(cli_output, "opened", lambda folder: None)
    asked["errors"] = errors
    return asked


def type_in(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_query_prints_what_search_found(answered, capfd):
    assert cli.main(["query", "a", "-k", "3", "-r", "7", "--rerank", "0", "--domain", "src", "--include-self"]) == 0

    assert capfd.readouterr() == ("a\t1\t2\t0.5000\t/found.jpg\t\ttgt\n", "")
    assert answered["photos"] == [b"a"]
    assert (answered["top"], answered["radius"], answered["rerank"]) == (3, 7, 0)
    assert (answered["domain"], answered["include_self"]) == ("src", True)


def test_paths_on_stdin_that_end_with_nul_without_null_are_a_mistake(answered, monkeypatch, capsys):
    type_in(monkeypatch, b"a\0b\0")

    assert cli.main(["query", "-"]) == 2
    assert capsys.readouterr().err == "error: the paths on stdin end with NUL bytes\nhint: hashcli query - --null\n"


def test_a_limit_of_the_features_that_is_no_number_is_told_before_any_work(world, monkeypatch, capsys):
    monkeypatch.setenv("HASHCLI_FEATURES_GB", "much")
    monkeypatch.setattr("hashcli.training.read_part", None)  # reading a photo now would be work
    for line in (f"{ADAPT} --method lsh", "train phone --method lsh"):
        assert cli.main(line.split()) == 2
        assert "HASHCLI_FEATURES_GB is 'much'" in capsys.readouterr().err


def test_finding_nothing_ends_with_1(answered, capfd):
    assert cli.main(["query", "alone"]) == 1
    assert capfd.readouterr() == ("", "nothing found\n")


def test_one_of_several_finding_something_is_enough(answered):
    assert cli.main(["query", "alone", "other"]) == 0


def test_the_one_photo_that_cannot_be_looked_for_is_a_mistake(answered, capfd):
    answered["errors"][b"gone.jpg"] = "no such file or directory"

    assert cli.main(["query", "gone.jpg"]) == 2
    assert capfd.readouterr().err.startswith("error: gone.jpg: no such file or directory\nhint: ")


def test_the_one_photo_that_takes_an_extra_is_a_matter_of_installing_it(answered, capfd):
    answered["errors"][b"a.heic"] = "is HEIC: needs hashcli[heic]"

    assert cli.main(["query", "a.heic"]) == 5
    assert capfd.readouterr().err == "error: a.heic: is HEIC: needs hashcli[heic]\nhint: pip install 'hashcli[heic]'\n"


def test_some_photos_that_cannot_be_looked_for_are_reported_and_end_with_3(answered, capfd, tmp_path):
    answered["errors"] |= {b"gone.jpg": "no such file or directory", os.fsencode("odd\udcff"): "cut short"}
    report = tmp_path / "failed.jsonl"

    assert cli.main(["query", "gone.jpg", "here.jpg", "odd\udcff", "-f", "paths", "--report", str(report)]) == 3

    out, said = capfd.readouterr()
    assert out == "/found.jpg\n"
    assert said == f"2 failed, the first: gone.jpg: no such file or directory; {report} lists them\n"
    assert [json.loads(line) for line in report.read_text().splitlines()] == [
        {"version": 1, "path": "gone.jpg", "reason": "no such file or directory"},
        {"version": 1, "path": "odd\\xff", "path_bytes": "b2Rk/w==", "reason": "cut short"},
    ]


def test_query_reads_paths_from_stdin_a_line_each(answered, monkeypatch):
    type_in(monkeypatch, b"a b.jpg\n\xff.jpg\n\n  c\r\n")

    assert cli.main(["query", "-"]) == 0
    assert answered["photos"] == [b"a b.jpg", b"\xff.jpg", b"  c\r"]


def test_null_separates_paths_on_stdin_and_in_the_output(answered, monkeypatch, capfd):
    type_in(monkeypatch, b"a\nb\0c\0")

    assert cli.main(["query", "-", "-0"]) == 0
    assert answered["photos"] == [b"a\nb", b"c"]
    assert capfd.readouterr().out == "/found.jpg\0/found.jpg\0"


def test_null_on_stdin_leaves_another_format_as_it_is(answered, monkeypatch, capfd):
    type_in(monkeypatch, b"a\0")

    assert cli.main(["query", "-", "-0", "-f", "jsonl"]) == 0
    assert json.loads(capfd.readouterr().out)["path"] == "/found.jpg"


def test_one_missing_photo_from_stdin_is_no_mistake_of_the_command_line(answered, monkeypatch):
    type_in(monkeypatch, b"gone\n")
    answered["errors"][b"gone"] = "no such file or directory"

    assert cli.main(["query", "-"]) == 3


def test_nothing_on_stdin_finds_nothing(answered, monkeypatch):
    type_in(monkeypatch, b"")

    assert cli.main(["query", "-"]) == 1


# ---- library, eval, reports


def test_a_new_library_has_nothing_to_show_or_to_go_back_to(world, capsys):
    Library.create(Path(os.environ["HASHCLI_LIBRARY"]))

    assert cli.main(["library", "info", "-f", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["item"] for row in rows] == ["library", "cached features", "stopped runs", "search kernel"]
    assert rows[0]["name"] == os.environ["HASHCLI_LIBRARY"]
    assert cli.main(["library", "rollback"]) == 4
    assert cli.main(["query", "phone/0-009.png"]) == 4


def test_clean_drops_what_was_chosen_and_nothing_else(world, capsys):
    library = Library.create(Path(os.environ["HASHCLI_LIBRARY"]))
    for name in ("features", "work", "generations"):
        (library.folder / name).mkdir()
        (library.folder / name / "data").write_bytes(bytes(3_000_000))

    assert cli.main(["library", "clean", "--features"]) == 0

    assert capsys.readouterr().err == "3.0 MB freed\n"
    assert {p.name for p in library.folder.iterdir()} >= {"work", "generations"}
    assert not (library.folder / "features").exists()


def test_measures_show_means_and_deviations(capfd):
    mean = {"n_queries": 50.0, "n_excluded": 1.0, "map": 0.75, "precision_at_k": 0.5, "map_radius_2": 0.25}
    mean["share_of_empty_balls"] = 0.125
    alone = Summary("itq", "cross-domain", 64, 1, mean, None)
    several = Summary("lsh", "single-domain", 64, 3, mean, {name: 0.01 for name in mean})

    show_measures([alone, several], "tsv", header=True)
    show_measures([several], "table", header=False)

    header, first, second, *drawn = capfd.readouterr().out.splitlines()
    assert header.split("\t") == [
        *("method", "protocol", "bits", "seeds", "queries", "excluded", "map", "map_sd"),
        *(
            "precision_at_100",
            "precision_at_100_sd",
            "map_radius_2",
            "map_radius_2_sd",
            "empty_balls",
            "empty_balls_sd",
        ),
    ]
    assert first == "itq\tcross-domain\t64\t1\t50\t1\t0.7500\t\t0.5000\t\t0.2500\t\t0.1250\t"
    assert second.startswith("lsh\tsingle-domain\t64\t3\t50\t1\t0.7500\t0.0100\t0.5000\t0.0100\t")
    assert "0.7500 ± 0.0100" in drawn[-1]


def test_a_report_without_failures_is_an_empty_file(tmp_path):
    cli_output.finish([], tmp_path / "failed.jsonl", Talk())

    assert (tmp_path / "failed.jsonl").read_bytes() == b""


def test_failures_are_named_even_without_a_report(capsys):
    with pytest.raises(typer.Exit) as ended:
        cli_output.finish([PhotoFailure(b"/a\n.jpg", "cut short")], None, Talk())

    assert ended.value.exit_code == 3
    assert capsys.readouterr().err == "1 failed, the first: /a\\n.jpg: cut short; --report FILE.jsonl lists them\n"


def test_a_file_name_cannot_break_out_of_an_error_line(monkeypatch, capsys):
    odd = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), b"/data/\x1b[31m\n\xff")

    assert ending(monkeypatch, odd) == 5
    assert capsys.readouterr().err.splitlines()[0] == "error: /data/\\x1b[31m\\n\\udcff: No space left on device"


def test_what_to_type_next_names_a_library_given_on_the_command_line(monkeypatch):
    monkeypatch.delenv("HASHCLI_LIBRARY", raising=False)

    assert cli_output.query_command(None) == "hashcli query PHOTO"
    assert cli_output.query_command(Path("my photos")) == "hashcli query --library 'my photos' PHOTO"
    monkeypatch.setenv("HASHCLI_LIBRARY", "elsewhere")
    assert cli_output.query_command(Path("elsewhere")) == "hashcli query PHOTO"
    assert cli_output.query_command(Path("here")) == "hashcli query --library here PHOTO"


def test_nobody_is_asked_when_nobody_is_there(monkeypatch):
    type_in(monkeypatch, b"y\n")

    assert cli_output.confirmation() is None


def test_help_lists_the_commands_as_if_all_were_built(capsys, monkeypatch):
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    monkeypatch.delattr(cli_commands.Commands, "format_commands")
    assert cli.main(["--help"]) == 0

    assert listed == capsys.readouterr().out and "library" in listed


def test_options_of_a_command_that_is_not_asked_for_are_not_built(monkeypatch):
    monkeypatch.setattr(cli_commands, "PLACES", cli_commands.PLACES | {"eval": ("no_such_module", "evaluate")})

    assert cli.main(["query", "--help"]) == 0
