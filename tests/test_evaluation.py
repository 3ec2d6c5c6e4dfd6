"""Protocols: what is held out stays out, what was seen is said, and figures are those of the codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hashcli import evaluation
from hashcli.codes import pack, unpack
from hashcli.errors import UsageError
from hashcli.evaluation import (
    Coded,
    EvalReport,
    EvalRow,
    Trial,
    compare_methods,
    evaluate_current,
    hold_out,
    split_trials,
    unique_rows,
)
from hashcli.fitting import SOURCE, TARGET, Labeled, Unlabeled
from hashcli.metrics import Levels, measure
from hashcli.progress import Silent
from hashcli.word_rankings import text_codes, word_rankings

DIM, N_BITS, N_CLASSES = 24, 16, 3


def clusters(n: int, seed: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.resize(np.arange(N_CLASSES), n)
    centers = np.random.default_rng(1).standard_normal((N_CLASSES, DIM))
    return (centers[labels] + shift + 0.3 * rng.standard_normal((n, DIM))).astype(np.float16), labels


def compare(methods: Sequence[tuple[str, Sequence[str]]], trials: Sequence[Trial], **options: Any) -> Any:
    return compare_methods(
        Labeled(*clusters(45, 2, 0)),
        trials,
        methods,
        **{"n_bits": N_BITS, "n_classes": N_CLASSES, "progress": Silent(), "k": 5, **options},
    )


def some_trials(seeds: Sequence[int] = (0, 1)) -> list[Trial]:
    return split_trials(*clusters(60, 3, 0.5), 0.2, seeds)


def test_held_out_rows_are_a_seeded_share_and_all_rows_are_in_one_part() -> None:
    held, rest = hold_out(50, 0.1, seed=4)
    assert len(held) == 5
    np.testing.assert_array_equal(np.sort(np.concatenate([held, rest])), np.arange(50))
    np.testing.assert_array_equal(hold_out(50, 0.1, seed=4)[0], held)
    assert (hold_out(50, 0.1, seed=5)[0] != held).any()


@pytest.mark.parametrize(("n", "share"), [(4, 0.1), (0, 0.1), (3, 0.9), (50, 0.0)])
def test_a_split_that_leaves_nothing_on_one_side_is_refused(n: int, share: float) -> None:
    with pytest.raises(UsageError, match=f"of {n} photos holds out"):
        hold_out(n, share, seed=0)


def test_no_method_sees_a_query_photo_or_a_target_label(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Labeled, Unlabeled, int]] = []

    def spy(name: str, words: Sequence[str], source: Labeled, target: Unlabeled, **options: Any) -> Any:
        given.append((source, target, options["seed"]))
        return fit(name, words, source, target, **options)

    fit = evaluation.fit_method
    monkeypatch.setattr(evaluation, "fit_method", spy)
    features, labels = clusters(60, 3, 0.5)
    compare([("lsh", ())], split_trials(features, labels, 0.2, [0, 1]))
    for source, target, seed in given:
        assert type(target) is Unlabeled and set(vars(target)) == {"features", "images"}
        np.testing.assert_array_equal(target.features, features[hold_out(60, 0.2, seed)[1]])
        queries = {row.tobytes() for row in features[hold_out(60, 0.2, seed)[0]]}
        assert queries.isdisjoint(row.tobytes() for row in np.concatenate([source.features, target.features]))


class Spelled:
    """A hasher that reads a photo's code off its features, source and target alike."""

    def codes(self, features: np.ndarray, domain: int) -> np.ndarray:
        assert domain in (SOURCE, TARGET)
        return pack((features > 0).astype(np.uint8))


def test_measures_are_those_of_target_queries_in_each_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "fit_method", lambda *_, **__: Spelled())
    code = np.zeros((3, N_BITS), np.float16)
    code[1, :2], code[2, :5] = 1, 1
    source = Labeled(code[[0, 0, 1]], np.array([0, 1, 1]))
    trial = Trial(0, code[[0, 2]], np.array([1, 0]), code[[0]], np.array([0]))
    report = compare_methods(source, [trial], [("any", ())], n_bits=N_BITS, n_classes=2, progress=Silent(), k=1)
    cross, single = report.rows
    # distances 0, 0, 2 with one relevant in the tie; then 0, 5 with the far one relevant
    at = np.arange(N_BITS + 1)
    near = Levels(2 * (at == 0)[None] + (at == 2)[None], (at == 0)[None].astype(int))
    far = Levels(((at == 0) | (at == 5))[None].astype(int), (at == 5)[None].astype(int))
    assert cross == EvalRow("any", 0, N_BITS, "cross-domain", measure(near, 1))
    assert single == EvalRow("any", 0, N_BITS, "single-domain", measure(far, 1))
    assert cross.measures.map == pytest.approx((1 + 1 / 2) / 2)
    unscored = replace(trial, target_labels=None)
    report = compare_methods(source, [unscored], [("any", ())], n_bits=N_BITS, n_classes=2, progress=Silent())
    assert [row.protocol for row in report.rows] == ["cross-domain"]


def test_a_comparison_can_be_repeated_and_has_a_row_per_method_seed_and_protocol() -> None:
    methods = [("lsh", ()), ("itq", ("iterations=3",))]
    report = compare(methods, some_trials())
    assert [(row.method, row.seed, row.protocol) for row in report.rows] == [
        (name, seed, protocol)
        for seed in (0, 1)
        for name in ("lsh", "itq")
        for protocol in ("cross-domain", "single-domain")
    ]
    assert compare(methods, some_trials()) == report
    assert all(row.measures.n_queries == 12 and row.measures.map > 1 / N_CLASSES for row in report.rows)


def test_a_method_that_cannot_learn_is_an_error_or_a_note_but_never_a_row() -> None:
    methods = [("itq", ()), ("lsh", ())]
    with pytest.raises(UsageError, match="ITQ cannot make 64 bits"):
        compare(methods, some_trials(), n_bits=64)
    report = compare(methods, some_trials(), n_bits=64, skip_refused=True)
    assert {row.method for row in report.rows} == {"lsh"}
    assert len(report.notes) == 1 and report.notes[0].startswith("itq is left out: ITQ cannot make 64 bits")
    with pytest.raises(UsageError, match="no method can learn") as caught:
        compare(methods[:1], some_trials(), n_bits=64, skip_refused=True)
    assert "itq is left out" in (caught.value.hint or "")


def test_queries_that_share_no_label_with_a_gallery_are_refused_before_any_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "fit_method", None)
    trial = some_trials([0])[0]
    with pytest.raises(UsageError, match="cross-domain gallery"):
        compare([("lsh", ())], [replace(trial, query_labels=trial.query_labels - 9)])
    with pytest.raises(UsageError, match="single-domain gallery"):
        compare([("lsh", ())], [replace(trial, target_labels=trial.target_labels + 9)])


def test_summaries_give_mean_and_sample_deviation_over_the_seeds() -> None:
    report = compare([("lsh", ())], some_trials([0, 1, 2]))
    cross, single = report.summary()
    assert (cross.method, cross.protocol, cross.n_seeds) == ("lsh", "cross-domain", 3)
    values = [row.measures.map for row in report.rows if row.protocol == "cross-domain"]
    mean = sum(values) / 3
    assert cross.mean["map"] == pytest.approx(mean)
    assert cross.deviation is not None
    assert cross.deviation["map"] == pytest.approx((sum((v - mean) ** 2 for v in values) / 2) ** 0.5)
    assert single.protocol == "single-domain"
    assert EvalReport(report.rows[:1]).summary()[0].deviation is None


def photos(*items: tuple[int, int, bytes]) -> Coded:
    """Photos given by the number of ones in their code, their label, their digest."""
    bits = np.array([[i < ones for i in range(N_BITS)] for ones, _, _ in items], np.uint8)
    return Coded(pack(bits), np.array([label for _, label, _ in items]), [digest for _, _, digest in items])


GALLERY = photos((0, 0, b"a"), (1, 1, b"b"), (9, 0, b"c"))


def test_query_photos_that_took_part_in_training_are_left_out_and_counted() -> None:
    queries = photos((0, 0, b"x"), (0, 1, b"seen"), (2, 1, b"y"))
    report = evaluate_current("lsh", 3, queries, GALLERY, {b"seen", b"a"})
    (row,) = report.rows
    assert (row.method, row.seed, row.n_bits, row.protocol, row.measures.n_queries) == ("lsh", 3, N_BITS, "given", 2)
    assert report.notes == ["1 of 3 query photos took part in training and are left out"]
    kept = evaluate_current("lsh", 3, queries, GALLERY, {b"seen", b"a"}, allow_seen=True)
    assert kept.rows[0].measures.n_queries == 3
    assert "1 of 3 query photos took part in training and are counted all the same" in kept.notes[0]
    assert evaluate_current("lsh", 3, queries, GALLERY, {b"a"}).notes == []
    with pytest.raises(UsageError, match="all query photos took part in training"):
        evaluate_current("lsh", 3, queries, GALLERY, set(queries.digests))


def test_a_query_never_meets_itself_and_copies_count_once() -> None:
    queries = photos((0, 0, b"a"), (0, 0, b"a"), (8, 0, b"new"))
    gallery = photos((0, 0, b"a"), (1, 1, b"b"), (9, 0, b"c"), (9, 0, b"c"))
    report = evaluate_current("lsh", 0, queries, gallery, ())
    assert report.notes == [
        "1 query photos are copies of others and count once",
        "1 gallery photos are copies of others and count once",
    ]
    # a: b at 1, c at 9 -> 1/2; new: c at 1, b at 7, a at 8 -> (1 + 2/3) / 2
    assert report.rows[0].measures.map == pytest.approx((1 / 2 + (1 + 2 / 3) / 2) / 2)


def test_paper_counting_takes_unanswerable_queries_as_zero() -> None:
    queries = photos((0, 0, b"x"), (0, 7, b"y"))
    usual = evaluate_current("lsh", 0, queries, GALLERY, ()).rows[0].measures
    papers = evaluate_current("lsh", 0, queries, GALLERY, (), paper_counting=True).rows[0].measures
    assert usual.n_excluded == papers.n_excluded == 1
    assert papers.map == pytest.approx(usual.map / 2)


def test_given_photos_without_a_common_label_are_refused() -> None:
    with pytest.raises(UsageError, match="none of the 1 query photos has a photo with its label in the given gallery"):
        evaluate_current("lsh", 0, photos((0, 5, b"x")), GALLERY, ())
    with pytest.raises(UsageError, match="none of the 1"):
        evaluate_current("lsh", 0, photos((0, -1, b"x")), photos((0, -1, b"y")), ())


def test_unique_rows_are_the_first_of_each_photo_and_none_of_the_others() -> None:
    np.testing.assert_array_equal(unique_rows([b"a", b"b", b"a", b"c", b"b"]), [0, 1, 3])
    np.testing.assert_array_equal(unique_rows([b"a", b"b", b"a", b"c"], others=[b"a"]), [1, 3])
    assert unique_rows([]).shape == (0,)


def test_codes_labels_and_digests_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="1 digests do not fit"):
        Coded(GALLERY.codes, GALLERY.labels, [b"a"])


def test_methods_that_learn_words_are_measured_both_ways_between_photos_and_captions() -> None:
    (features, labels), (asking, wanted) = clusters(60, 0, 0), clusters(12, 1, 0)
    said = [f"thing{label} here" for label in labels]
    said[7] = ""
    asked = ["unheard of", *(f"a thing{label}" for label in wanted[1:])]
    trial = Trial(0, features[:5], None, asking, wanted, asked)
    source = Labeled(features, labels, captions=said)
    kept: list[Any] = []
    report = compare_methods(
        source,
        [trial],
        [("dcgh", []), ("lsh", [])],
        n_bits=N_BITS,
        n_classes=N_CLASSES,
        progress=Silent(),
        observe=lambda name, _, hasher: kept.append(hasher),
    )
    rows = {(row.method, row.protocol): row.measures for row in report.rows}
    assert set(rows) == {
        ("dcgh", "cross-domain"), ("dcgh", "image-to-text"), ("dcgh", "text-to-image"), ("lsh", "cross-domain")
    }  # fmt: skip
    assert rows["dcgh", "image-to-text"].n_queries == 12 and rows["dcgh", "text-to-image"].n_queries == 11
    assert min(rows["dcgh", way].map for way in ("image-to-text", "text-to-image")) > 0.9
    packed, places = text_codes(kept[0], said)
    assert places.tolist() == [i for i in range(60) if i != 7]
    levels = dict(word_rankings(kept[0], source, asking, wanted, asked))
    for i, code in enumerate(unpack(kept[0].codes(asking, TARGET), N_BITS)):
        distances = [int((code != other).sum()) for other in unpack(packed, N_BITS)]
        same = [d for d, place in zip(distances, places, strict=True) if labels[place] == wanted[i]]
        assert levels["image-to-text"].total[i].tolist() == np.bincount(distances, minlength=N_BITS + 1).tolist()
        assert levels["image-to-text"].relevant[i].tolist() == np.bincount(same, minlength=N_BITS + 1).tolist()
