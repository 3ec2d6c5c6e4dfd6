"""The report of `eval`: what its numbers count, what its sentences claim, and a page that holds together."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hashcli import cli_eval, codes, figures, findings
from hashcli.errors import MachineError, UsageError
from hashcli.eval_report import EvalReport, EvalRow
from hashcli.evidence import DENSE, Evidence, Side, Times
from hashcli.metrics import measure
from hashcli.progress import Silent
from hashcli.report_page import Report, report_page

N_BITS, DIM, CLASSES = 16, 6, ["cat <b>", "dog", "$emu_"]


def side(rng: np.random.Generator, n: int, first: int, folder: str = "/nowhere") -> Side:
    labels = np.arange(n) % len(CLASSES)
    features = rng.normal(size=(n, DIM)) + 2 * np.eye(len(CLASSES), DIM)[labels]
    names = range(first, first + n)
    paths = [f"{folder}/{i}.png".encode() for i in names]
    return Side(paths, [i.to_bytes(16, "big") for i in names], features.astype(np.float16), labels)


def noisy(rng: np.random.Generator, labels: np.ndarray, share: float) -> np.ndarray:
    """Codes of the classes with this share of the bits flipped."""
    centers = np.random.default_rng(5).integers(0, 2, (len(CLASSES), N_BITS))
    bits = np.where(rng.random((len(labels), N_BITS)) < share, 1 - centers[labels], centers[labels])
    return codes.pack(bits.astype(np.uint8))


@pytest.fixture
def evidence(rng) -> Evidence:
    """Two methods, one better, on 12 queries and 40 photos; the last query is also among the photos."""
    queries, gallery = side(rng, 12, 0), side(rng, 40, 11)
    found = Evidence(queries, gallery, CLASSES)
    for name, share in (("good", 0.05), ("source-only", 0.4)):
        asked, given = noisy(rng, queries.labels, share), noisy(rng, gallery.labels, share)
        given[0] = asked[11]
        found.add(name, asked, given)
    return found


def summaries(evidence: Evidence) -> list:
    rows = [EvalRow(name, 0, N_BITS, "cross-domain", measure(evidence.levels(name))) for name in evidence.codes]
    return EvalReport(rows).summary()


# ---- evidence


def test_a_dense_curve_counts_right_photos_among_the_first_by_cosine(evidence):
    curve = evidence.curve(DENSE)

    asked, given = evidence.queries, evidence.gallery
    precision = np.zeros(len(curve.cuts))
    recall = np.zeros(len(curve.cuts))
    for i in range(12):
        x = asked.features[i].astype(np.float32)
        others = [j for j in range(40) if given.digests[j] != asked.digests[i]]
        y = given.features.astype(np.float32)
        others.sort(key=lambda j: -(x @ y[j]) / np.linalg.norm(x) / np.linalg.norm(y[j]))
        right = [given.labels[j] == asked.labels[i] for j in others]
        for place, cut in enumerate(curve.cuts):
            precision[place] += sum(right[:cut]) / cut / 12
            recall[place] += sum(right[:cut]) / sum(right) / 12
    assert curve.precision == pytest.approx(precision)
    assert curve.recall == pytest.approx(recall)


def test_a_curve_of_codes_ends_where_everything_is_found(evidence):
    curve = evidence.curve("good")
    assert curve.cuts[[0, -1]].tolist() == [1, 40]
    assert 10 in curve.cuts
    assert curve.recall[-1] == pytest.approx(1)
    assert (np.diff(curve.recall) >= 0).all()
    assert curve.precision[0] > evidence.curve("source-only").precision[0]


def test_examples_go_from_best_to_worst_in_the_order_of_a_query(evidence):
    examples = evidence.examples("source-only", 5)

    assert len(examples) == 5
    counts = [example.right.sum() for example in examples]
    assert counts == sorted(counts, reverse=True)
    asked, given = evidence.codes["source-only"]
    for example in examples:
        far = codes.distances(asked[[example.query]], given)[0].astype(int)
        itself = [j for j in range(40) if evidence.gallery.digests[j] == evidence.queries.digests[example.query]]
        assert not set(itself) & set(example.found.tolist())
        assert example.distances.tolist() == sorted(np.delete(far, itself).tolist())[:10]
        same = evidence.gallery.labels[example.found] == evidence.queries.labels[example.query]
        assert (same == example.right).all()


def test_nearer_is_the_share_of_pairs_that_are_in_the_right_order(evidence):
    matching, others = evidence.pair_shares("source-only")

    asked, given = evidence.codes["source-only"]
    far = codes.distances(asked, given).astype(int)
    same = evidence.queries.labels[:, None] == evidence.gallery.labels
    other_photo = np.array([[a != b for b in evidence.gallery.digests] for a in evidence.queries.digests])
    near, wide = far[same & other_photo], far[~same & other_photo]
    wins = sum(1.0 if a < b else 0.5 if a == b else 0.0 for a in near for b in wide)
    assert findings.nearer(matching, others) == pytest.approx(wins / len(near) / len(wide))


def test_bits_correlate_as_numpy_says_and_constant_ones_have_no_correlation(evidence):
    asked, given = (part.copy() for part in evidence.codes["good"])
    for part in (asked, given):
        part[:, 0] |= 1
    evidence.add("good", asked, given)

    correlation = evidence.bit_correlation("good")

    bits = codes.unpack(np.concatenate([asked, given]), N_BITS).astype(float)
    assert np.isnan(correlation[0]).all()
    assert correlation[1:, 1:] == pytest.approx(np.corrcoef(bits[:, 1:].T))


def test_shares_by_class_are_means_over_the_queries_of_the_class(evidence):
    shares = evidence.right_of_first("good")
    by_class = evidence.by_class("good")
    assert list(by_class) == CLASSES
    assert by_class["dog"] == pytest.approx(shares[evidence.queries.labels == 1].mean())


# ---- findings

TIMES = Times(20_000, 1e-4, 5e-3, 2, 24)


def told(evidence, *, lengths=None, folders=("studio", "my phone")) -> findings.Told:
    curves = {name: evidence.curve(name) for name in [*evidence.codes, DENSE]}
    return findings.tell(summaries(evidence), evidence, curves, lengths or {}, TIMES, folders)


def test_the_best_method_is_named_and_what_to_type_for_it(evidence):
    said = told(evidence)
    assert said.findings[0].startswith("good finds best: the first 10 photos hold ")
    assert said.commands == ["hashcli adapt --src studio --tgt 'my phone' --method good --bits 16"]
    assert any("seed" in sentence for sentence in said.advice)


@pytest.mark.parametrize(
    ("maps", "sentence"),
    [
        ({"a": 0.6, "source-only": 0.5}, "worth 10.0 points of mAP (a against source-only)"),
        ({"a": 0.4, "source-only": 0.5}, "does not pay here: source-only is 10.0 points"),
        ({"a": 0.51, "source-only": 0.5}, "about as good"),
    ],
)
def test_whether_adapting_pays_is_said_as_it_is(maps, sentence):
    assert sentence in findings._worth_adapting("a", maps)


def test_the_shortest_code_that_is_good_enough_is_recommended(evidence):
    said = told(evidence, lengths={"good": {16: 0.6, 32: 0.75, 64: 0.755}})
    assert any(sentence.startswith("32 bits are enough") for sentence in said.findings)
    assert said.commands[0].endswith("--bits 32")


# ---- figures and the page


def test_figures_take_the_ink_of_the_page_and_class_names_stay_text(evidence, recwarn):
    svg = figures.code_map(
        codes.unpack(evidence.codes["good"][0], N_BITS),
        codes.unpack(evidence.codes["good"][1], N_BITS),
        [CLASSES[i] for i in evidence.queries.labels],
        [CLASSES[i] for i in evidence.gallery.labels],
    )
    assert svg.startswith("<svg")
    assert figures.INK not in svg
    assert "currentColor" in svg
    assert "cat &lt;b&gt;" in svg
    assert "$emu_" in svg
    assert not recwarn.list


def test_the_page_has_every_figure_and_marks_what_is_right_and_wrong(evidence):
    rows = [EvalRow("good", 0, n, "cross-domain", measure(evidence.levels("good"))) for n in (16, 32)]
    report = Report(summaries(evidence), evidence, rows, ["2 photos are <copies>"], ("studio", "phone"), 1)

    page = report_page(report, Silent())

    assert page.count("<figure") == 7
    assert len(re.findall(r"<svg role=\"img\"", page)) == 7
    titles = ["Precision and recall", "Precision of the first N", "Recall of the first N", "mAP by code length"]
    assert all(f"<b>{title}</b>" in page for title in titles)
    assert page.count("✓ is of the same class") == 1
    assert page.count('<span class="mark">✗</span>') == page.count('class="wrong"')
    assert page.count('class="asked-for"') == 8
    assert "2 photos are &lt;copies&gt;" in page
    assert "no such file" in page  # the photos are nowhere: reasons stand in their places
    ids = re.findall(r'<(?:clipPath|path|g) id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


# ---- the option


def test_the_ending_of_a_report_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, failed = Path("a.HTML"), Path("failed.jsonl")
    assert cli_eval._reports([failed, page]) == (page, failed)
    assert cli_eval._reports([]) == (None, None)
    with pytest.raises(UsageError, match="one page and one list"):
        cli_eval._reports([page, Path("b.htm")])


def test_a_page_without_what_draws_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MachineError, match="matplotlib, sklearn") as refused:
        cli_eval._reports([tmp_path / "a.html"])
    assert refused.value.hint == "pip install 'hashcli[report]'"
