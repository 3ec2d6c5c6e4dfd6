"""The quality benchmark: its lists hold, its runs are those of the product, its tables are made from its results."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from hashcli import backbones
from hashcli.errors import UsageError
from hashcli.evaluation import compare_methods, hold_out, split_trials
from hashcli.fitting import Labeled, normalized
from hashcli.network import fit_input_norm
from hashcli.progress import Silent
from tests import tiny
from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))  # where its scripts find each other when they are run
import demo_data
import measuring
import quality
import report
import runs
import tables
import tasks
import variants

RESULTS = REPOSITORY / "benchmarks/results/quality"
FAST = "epochs=2,steps_per_epoch=5"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A task of two classes in two domains, one of its target photos a copy; gives the command's words."""

    def write(_: Path, folder: Path) -> None:
        for domain, shift in (("here", 0), ("there", 40)):
            for number in range(20):
                for kind, colors in enumerate(((200, 20, 20, 200), (20, 200, 20, 20))):
                    noisy = np.random.default_rng([number, kind, shift]).integers(0, 50, 4) + colors
                    tiny.photo(folder / domain / f"kind-{kind}" / f"{number}.png", *(noisy // 2 + shift).tolist())
        (folder / "there/kind-0/copy.png").write_bytes((folder / "there/kind-0/0.png").read_bytes())

    origin = tmp_path / "origin"
    origin.write_text("version 1")
    exported = tiny.backbone(tmp_path / "backbone")
    tiny.decode_here(monkeypatch)
    monkeypatch.setattr(backbones, "exported", lambda name, progress: exported)
    monkeypatch.setitem(tasks.WRITERS, "toy", (origin, write))
    monkeypatch.setitem(tasks.TASKS, "toy", tasks.Task("toy", "a toy", "toy", "here", "there"))
    return ["--tasks", "toy", "--cache", str(tmp_path / "cache"), "--results", str(tmp_path / "results")]


@pytest.fixture
def trained(monkeypatch):
    """What was trained since the test began: (variant, bits, seed), in order."""
    seen = []
    one_run = measuring.one_run

    def noted(variant, photos, bits, seed):
        seen.append((str(variant), bits, seed))
        return one_run(variant, photos, bits, seed)

    monkeypatch.setattr(quality, "one_run", noted)
    return seen


def results_of(words: list[str]) -> runs.Results:
    return runs.Results.read(Path(words[-1]) / "toy.json")


def test_the_readme_holds_what_the_committed_results_say():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = report.readme_block(runs.read_all(RESULTS))
    assert report.replaced(readme, block) == readme, "run: python benchmarks/quality.py --table"


def test_the_document_holds_what_the_committed_results_say():
    written = RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    found, *others = (runs.read_all(RESULTS.with_name(name)) for name in ("quality", "tuning", report.APPROXIMATE))
    assert written == report.document(found, *others), "run: python benchmarks/quality.py --table"


def test_committed_results_are_of_tasks_that_exist_and_all_measured_alike():
    found = runs.read_all(RESULTS)
    assert "demo" in found and set(found) <= set(tasks.TASKS)
    for results in found.values():
        for run in results.runs:
            assert set(run.measures) == {"cross-domain", "single-domain"}
            assert {m["n_queries"] for m in run.measures.values()} == {round(0.1 * results.inputs["target"]["photos"])}


@pytest.mark.parametrize("name", variants.GROUPS)
def test_every_variant_of_a_group_is_a_method_with_settings_and_no_line_stands_twice(name):
    chosen = variants.group(name)
    known = [(variant.method, variant.settings()) for variant in chosen]
    assert len(chosen) > 3 and all(known.count(one) == 1 for one in known)
    assert all((variant.method, variant.settings()) in known for variant in variants.GROUPS[name])


def test_photos_and_contours_are_of_different_pictures_of_each_class(tmp_path):
    rng = np.random.default_rng(0)
    images = np.zeros((900, 28, 28), np.uint8)
    for image, corner in zip(images, rng.integers(2, 14, (900, 2)), strict=True):
        image[corner[0] : corner[0] + 10, corner[1] : corner[1] + 10] = 200
    train = rng.permutation(900)[:850]
    np.savez(tmp_path / "f.npz", images=images, labels=np.arange(900) % 2, class_names=["bag", "coat"], train=train)

    tasks.render_contours(tmp_path / "f.npz", tmp_path / "out")

    for number, name in enumerate(("bag", "coat")):
        shown = {d: sorted((tmp_path / "out" / d / name).iterdir()) for d in ("photos", "contours")}
        rows = {d: {int(path.stem) for path in paths} for d, paths in shown.items()}
        assert [len(rows[d]) for d in shown] == [200, 200]
        assert not rows["photos"] & rows["contours"] and rows["photos"] | rows["contours"] <= set(train)
        assert {row % 2 for row in rows["photos"] | rows["contours"]} == {number}
        light = {d: np.asarray(Image.open(paths[0]).convert("L")).mean() for d, paths in shown.items()}
        assert light["photos"] < 128 < light["contours"]


def test_without_a_data_folder_the_demo_alone_can_be_measured(tmp_path):
    assert tasks.available(None) == ["demo"]
    with pytest.raises(UsageError, match=r"emoji\.tar") as error:
        tasks.photo_folder(tasks.TASKS["emoji-google-twitter"], None, tmp_path)
    assert "--data" in error.value.hint


def test_methods_are_spelled_with_their_settings_in_brackets():
    assert variants.parse("itq, couple[alpha=0.3,rho=0.2],lsh") == [
        variants.Variant("itq"),
        variants.Variant("couple", ("alpha=0.3", "rho=0.2")),
        variants.Variant("lsh"),
    ]
    assert [str(v) for v in variants.parse("couple[alpha=0.3,rho=0.2]")] == ["couple[alpha=0.3,rho=0.2]"]
    with pytest.raises(UsageError, match="is not a method"):
        variants.parse("couple[alpha=0.3")


def test_measures_are_those_of_eval_on_the_same_split(toy, tmp_path):
    words = [*toy[:-1], str(tmp_path / "results")]
    method = f"source-only[{FAST}]"
    assert quality.main(["--methods", method, "--bits", "16", "--seeds", "2", *words]) == 0

    photos = tasks.load(tasks.TASKS["toy"], None, tmp_path / "cache", Silent())
    assert len(photos.target) == 40  # the copy is left out
    report = compare_methods(
        Labeled(photos.source.features, photos.source_labels),
        split_trials(photos.target.features, photos.target_labels, 0.1, range(2)),
        [("source-only", FAST.split(","))],
        n_bits=16,
        n_classes=2,
        progress=Silent(),
    )
    measured = results_of(words).of(variants.parse(method)[0], 16)
    for row in report.rows:
        assert measured[row.seed].measures[row.protocol] == pytest.approx(asdict(row.measures), abs=1e-6)


def test_an_interrupted_command_goes_on_and_repeats_nothing(toy, trained, monkeypatch):
    words = ["--methods", f"lsh,source-only[{FAST}]", "--bits", "16", "--seeds", "2", *toy]
    noted = quality.one_run

    def interrupted(*arguments):
        if len(trained) == 3:
            raise KeyboardInterrupt
        return noted(*arguments)

    monkeypatch.setattr(quality, "one_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quality.main(words)
    assert len(results_of(toy).runs) == 3
    monkeypatch.setattr(quality, "one_run", noted)
    assert quality.main(words) == 0
    assert quality.main(words) == 0
    name = f"source-only[{FAST}]"
    assert trained == [("lsh", 16, 0), ("lsh", 16, 1), (name, 16, 0), (name, 16, 1)]


def test_runs_with_other_defaults_are_stale_and_made_anew(toy, trained):
    words = ["--methods", "lsh", "--bits", "16", "--seeds", "2", *toy]
    quality.main(words)
    path = Path(toy[-1]) / "toy.json"
    path.write_text(path.read_text().replace("per_domain", "pooled"))  # as if that had been the default

    assert tables.task_table(results_of(toy), variants.parse("lsh"), [16]) == ""
    quality.main(words)

    assert trained == [("lsh", 16, 0), ("lsh", 16, 1)] * 2
    assert [run.settings["centering"] for run in results_of(toy).runs] == ["per_domain"] * 2


def test_a_method_whose_code_has_changed_since_is_named(toy, trained, monkeypatch, capsys):
    words = ["--methods", "lsh", "--bits", "16", "--seeds", "1", *toy]
    quality.main(words)
    quality.main(words)
    assert "--again" not in capsys.readouterr().err
    monkeypatch.setattr(variants.Variant, "code", lambda self: "another")
    quality.main(words)
    assert "toy: lsh, 16 bits: its code has changed since; --again" in capsys.readouterr().err
    quality.main(["--again", *words])
    quality.main(words)
    assert len(trained) == 2 and "--again" not in capsys.readouterr().err


def test_results_of_other_photos_are_refused_unless_measured_again(toy, trained, capsys):
    words = ["--methods", "lsh", "--bits", "16", *toy]
    assert quality.main(["--seeds", "1", *words]) == 0
    path = Path(toy[-1]) / "toy.json"
    digest = results_of(toy).inputs["target"]["digest"]
    path.write_text(path.read_text().replace(digest, "0" * 32))

    assert quality.main(["--seeds", "2", *words]) == 2
    assert "other photos" in capsys.readouterr().err
    assert quality.main(["--seeds", "2", "--again", *words]) == 0
    assert results_of(toy).inputs["target"]["digest"] == digest
    assert trained == [("lsh", 16, 0), ("lsh", 16, 0), ("lsh", 16, 1)]


def test_the_oracle_is_told_target_labels_but_never_its_queries(toy, tmp_path, monkeypatch):
    given = []
    fit = measuring.fit_method

    def noted(name, words, source, target, **rest):
        given.append((name, words, source, target))
        return fit(name, words, source, target, **rest)

    monkeypatch.setattr(measuring, "fit_method", noted)
    assert quality.main(["--methods", f"oracle[{FAST}]", "--bits", "16", "--seeds", "1", *toy]) == 0

    photos = tasks.load(tasks.TASKS["toy"], None, tmp_path / "cache", Silent())
    held, rest = hold_out(len(photos.target), 0.1, 0)
    ((name, words, source, target),) = given
    assert (name, words[-1], target) == ("source-only", "centering=none", None)
    assert source.labels.tolist() == [*photos.source_labels, *photos.target_labels[rest]]
    means = fit_input_norm(photos.source.features, photos.target.features[rest], "per_domain")
    asked = normalized(photos.target.features[held], means, 1)
    assert np.abs(source.features[:, None] - asked).max(-1).min() > 1e-3


def test_the_demo_task_has_the_photos_of_the_demo(tmp_path, monkeypatch, capsys):
    def drawn(size: int):
        rng = np.random.default_rng(size)
        return rng.integers(0, 256, (60, size, size), dtype=np.uint8), np.repeat(np.arange(10), 6)

    monkeypatch.setattr(demo_data, "mnist", lambda: drawn(28))
    monkeypatch.setattr(demo_data, "optdigits", lambda: drawn(8))
    monkeypatch.setattr(demo_data, "SOURCE_PER_DIGIT", 4)
    monkeypatch.setattr(demo_data, "QUERIES_PER_DIGIT", 2)
    demo_data.main(tmp_path / "demo")
    tasks.write_demo(tmp_path, tmp_path / "task")

    def contents(*folders: str) -> list[bytes]:
        return sorted(file.read_bytes() for folder in folders for file in (tmp_path / folder).rglob("*.png"))

    assert len(contents("task/mnist")) == 40 and contents("task/mnist") == contents("demo/studio")
    assert len(contents("task/optdigits")) == 60
    assert contents("task/optdigits") == contents("demo/phone", "demo/held-out")


def test_matlab_pixels_become_photos_in_folders_by_digit(tmp_path):
    pixels = np.zeros((256, 3))
    pixels[:16, 1] = 1.0  # the second picture's upper edge is white
    labels = np.array([[1], [10], [10]], np.uint8)
    savemat(tmp_path / "pixels.mat", {"X_src": pixels, "Y_src": labels, "X_tar": pixels, "Y_tar": labels})
    tasks.render_mat(tmp_path / "pixels.mat", tmp_path / "photos")
    names = sorted(str(f.relative_to(tmp_path / "photos")) for f in (tmp_path / "photos").rglob("*.png"))
    assert names == [
        f"{domain}/{name}" for domain in ("mnist", "usps") for name in ("0/000.png", "9/000.png", "9/001.png")
    ]
    with Image.open(tmp_path / "photos/usps/9/000.png") as photo:
        rows = np.asarray(photo.convert("L")).mean(1)
    assert rows[0] > 200 and rows[14:].max() == 0


def run(method, words, seed, cross, single=0.3):
    """A run at 64 bits with today's settings."""
    measures = {
        protocol: {"map": value, "precision_at_k": 0.5, "map_radius_2": 0.25, "share_of_empty_balls": 0.125}
        for protocol, value in (("cross-domain", cross), ("single-domain", single))
    }
    known = variants.Variant(method, words).settings()
    return runs.Run(method, list(words), 64, seed, measures, 1.0, known, {})


def measured(name: str, **cross: tuple[float, ...]) -> runs.Results:
    """Results of a task: cross-domain mAP by method, seeds from 0; `uncentered` is source-only without centering."""
    inputs = {"source": {"photos": 1500}, "target": {"photos": 1797}, "classes": 10}
    words = {"uncentered": ("centering=none",)}
    methods = {"uncentered": "source-only", "source_only": "source-only"}
    made = [
        run(methods.get(method, method), words.get(method, ()), seed, value)
        for method, values in cross.items()
        for seed, value in enumerate(values)
    ]
    return runs.Results(name, inputs, made)


def test_tables_give_mean_deviation_and_paired_gain():
    results = measured("demo", source_only=(0.40, 0.50), uncentered=(0.41, 0.42), couple=(0.50, 0.62))
    lines = tables.task_table(results, variants.group("main"), [64]).splitlines()
    assert lines[0] == "| method | bits | cross mAP | single mAP | P@100 | mAP radius 2 | empty balls | gain | seeds |"
    assert len(lines) == 5
    assert lines[4] == (
        "| `couple` | 64 | 56.0 ± 8.5 | 30.0 ± 0.0 | 50.0 ± 0.0 | 25.0 ± 0.0 | 12.5 ± 0.0 | +11.0 ± 1.4 | 2 |"
    )
    document = report.document({"demo": results}, {}, {})
    assert "1,500 → 1,797 photos, 10 classes" in document and lines[4] in document


def test_approximate_neighbors_are_compared_in_the_seeds_that_both_have():
    exact = {"mnist-usps": measured("mnist-usps", couple=(0.50, 0.60, 0.70))}
    near = {"mnist-usps": measured("mnist-usps", couple=(0.49, 0.59))}
    document = report.document(exact, {}, near)
    assert "| MNIST → USPS, cross mAP | 55.0 ± 7.1 | 54.0 ± 7.1 | -1.0 ± 0.0 | 2 |" in document


def test_the_overview_gives_means_over_tasks_gain_over_the_better_source_only_and_its_share_of_the_gap():
    low = {"source_only": (0.40, 0.50), "uncentered": (0.41, 0.42), "couple": (0.50, 0.62), "oracle": (0.80, 0.90)}
    high = {"source_only": (0.60, 0.60), "uncentered": (0.70, 0.70), "couple": (0.72, 0.74), "oracle": (0.90, 0.90)}
    found = {name: measured(name, **(low if name in report.DEVELOPMENT else high)) for name in report.TITLES}
    table = report.readme_block(found).partition("\n\n")[2].splitlines()
    cells = {line.split(" | ")[0].lstrip("| "): line.rstrip(" |").split(" | ") for line in table if "|" in line}
    assert cells["method"][7:] == ["**development**", "**held out**", "**all**", "single, all", "gain", "of the gap"]
    # all tasks: couple (2 x .50 + 4 x .72) / 6 and (2 x .62 + 4 x .74) / 6, the better source-only .60 and .6333
    assert cells["`couple`"][1] == "56.0 ± 8.5"
    assert cells["`couple`"][7:] == ["56.0 ± 8.5", "73.0 ± 1.4", "67.3 ± 3.8", "30.0 ± 0.0", "+5.7 ± 1.4", "21"]
    assert cells["`source-only`"][7:10] == ["45.0 ± 7.1", "60.0 ± 0.0", "55.0 ± 2.4"]
    assert "`itq`" not in cells
    del found["usps-mnist"]
    assert "couple" not in report.readme_block(found).replace("`couple`", "couple")


def test_variants_are_compared_in_the_seeds_they_share_with_the_base():
    found = {
        "mnist-usps": measured("mnist-usps", couple=(0.5, 0.6, 0.9), itq=(0.6, 0.8)),
        "usps-mnist": measured("usps-mnist", couple=(0.3, 0.4, 0.9), itq=(0.4, 0.4)),
    }
    titles = {"mnist-usps": "one", "usps-mnist": "two"}
    table = tables.compared(found, titles, variants.parse("couple,itq,lsh"), variants.Variant("couple"))
    assert table.splitlines() == [
        "|  | one | two | mean | single | against `couple` | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| `couple` | 66.7 ± 20.8 | 53.3 ± 32.1 | 60.0 ± 26.5 | 30.0 ± 0.0 |  | 3 |",
        "| `itq` | 70.0 ± 14.1 | 40.0 ± 0.0 | 55.0 ± 7.1 | 30.0 ± 0.0 | +10.0 ± 0.0 | 2 |",
    ]


def test_means_over_tasks_are_of_the_seeds_that_all_of_them_have():
    one, two = measured("mnist-usps", couple=(0.5, 0.6, 0.9), lsh=(0.1,)), measured("usps-mnist", couple=(0.3, 0.6))
    table = tables.means([one, two], variants.parse("couple,lsh"), [64]).splitlines()
    assert table[2:] == [
        "| `couple` | 50.0 ± 14.1 | 25.0 ± 0.0 | 12.5 ± 0.0 | 30.0 ± 0.0 | 25.0 ± 0.0 | 12.5 ± 0.0 | 2 |"
    ]


def test_seeds_are_a_number_of_them_or_the_first_and_the_last(toy, trained):
    assert quality.main(["--methods", "lsh", "--bits", "16", "--seeds", "3-4", *toy]) == 0
    assert quality.main(["--methods", "lsh", "--bits", "16", "--seeds", "1", *toy]) == 0
    assert trained == [("lsh", 16, 3), ("lsh", 16, 4), ("lsh", 16, 0)]
