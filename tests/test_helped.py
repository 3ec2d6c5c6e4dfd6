"""Whether learning helped: measures without target labels, what is refused, and that a refusal loses nothing."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hashcli import codes, holding
from hashcli.health import SOURCE, TARGET, Photos, Probe, class_shares, examine, nearest_by_look
from hashcli.helped import Helped, compare

N_BITS = 16


def digests(n: int, first: int = 0) -> list[bytes]:
    return [hashlib.blake2b(str(i).encode(), digest_size=16).digest() for i in range(first, first + n)]


# ---- what is held out


def test_a_tenth_of_each_class_is_held_out_and_nothing_of_small_ones():
    labels = [("mug",)] * 30 + [("shoe",)] * 20 + [("rare",)] * 9 + [()] * 5

    held = holding.held_out(digests(64), labels, 8)

    chosen = Counter(own[0] for digest, own in zip(digests(64), labels, strict=True) if digest in held)
    assert chosen == {"mug": 3, "shoe": 2}


def test_the_choice_is_of_contents_not_of_order_and_hardly_changes_when_photos_come():
    all_, labels = digests(220), [("mug",)] * 220
    held = holding.held_out(all_[:200], labels[:200], 8)

    assert holding.held_out(all_[:200][::-1], labels[:200], 8) == held
    assert len(held & holding.held_out(all_, labels, 8)) >= 17


def test_copies_and_photos_that_training_sees_as_target_are_not_held_out():
    some, labels = digests(40), [("mug",)] * 40
    usual = holding.held_out(some, labels, 8)

    assert holding.held_out([*some, *some], labels * 2, 8) == usual
    assert not holding.held_out(some, labels, 8, taken=usual) & usual


def test_a_photo_of_several_classes_counts_for_the_rarest():
    labels = [("a", "rare")] * 9 + [("a",)] * 31

    held = holding.held_out(digests(40), labels, 8)

    assert len(held) == 3  # a tenth of the 31 that are only "a"
    assert held.isdisjoint(digests(9))


def test_nothing_is_held_out_where_the_rest_would_be_too_few_for_the_bits():
    assert not holding.held_out(digests(70), [("mug",)] * 70, 64)
    assert holding.held_out(digests(72), [("mug",)] * 72, 64)
    assert holding.held_out(digests(40), [("mug",)] * 40, 64)  # too few already


# ---- measures


def photos(bits: np.ndarray, labels: list[int] | None = None, first: int = 0) -> Photos:
    """Photos whose features are their code's bits, so that `encode` below gives any code a test wants."""
    rows = None if labels is None else np.eye(max(labels) + 1, dtype=np.int64)[labels]
    return Photos(bits.astype(np.float16), digests(len(bits), first), rows)


def encode(some: Photos, domain: int) -> np.ndarray:
    return codes.pack((some.features > 0.5).astype(np.uint8))


def test_guessed_classes_weigh_each_class_by_the_distances_of_its_photos(rng):
    own, source = rng.integers(0, 256, (5, 2), np.uint8), rng.integers(0, 256, (7, 2), np.uint8)
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]])

    shares = class_shares(own, source, labels)

    for i in range(5):
        weights = []
        for c in range(3):
            members = [j for j in range(7) if labels[j, c]]
            far = [sum(bin(a ^ b).count("1") for a, b in zip(own[i], source[j], strict=True)) for j in members]
            weights.append(sum(np.exp(-d) for d in far) / len(members))  # 16 / n_bits = 1
        assert shares[i] == pytest.approx(np.array(weights) / sum(weights), rel=1e-5)


def test_nearest_by_look_are_those_with_the_largest_cosine_and_never_the_photo_itself(rng):
    features = rng.normal(size=(30, 6)).astype(np.float16)
    centered = features.astype(np.float32) - features.astype(np.float32).mean(0)

    nearest = nearest_by_look(features)

    for i in range(30):
        cosine = {
            j: centered[i] @ centered[j] / np.linalg.norm(centered[i]) / np.linalg.norm(centered[j])
            for j in range(30)
            if j != i
        }
        assert set(nearest[i]) == set(sorted(cosine, key=lambda j: -cosine[j])[:10])


def test_sound_codes_of_two_like_domains_look_sound(rng):
    centers = np.array([[0, 1] * 8, [1, 0] * 8, [0, 0, 1, 1] * 4, [1, 1, 0, 0] * 4])
    source_labels, own_labels = list(range(4)) * 10, list(range(4)) * 6
    noisy = [
        np.where(rng.random((len(rows), N_BITS)) < 0.03, 1 - centers[rows], centers[rows])
        for rows in (source_labels, own_labels)
    ]
    probe = Probe(
        photos(noisy[1], None, 500), TARGET, photos(noisy[0], source_labels), photos(centers, [0, 1, 2, 3], 900)
    )

    health = examine(probe, encode)

    assert health.held_out_map > 0.95
    assert health.neighbor_agreement > 0.4  # 5 others of the class among 10 neighbors
    assert health.stability > 0.9
    assert health.entropy < 0.1
    assert health.domain_distance < 0.1
    assert health.constant_bits == 0
    assert health.bit_balance > 0.9
    assert health.look_alikes_found is None


def test_measures_of_shares_are_counted_by_hand():
    bits = np.array([[0] * 16, [0] * 16, [0] * 15 + [1], [1] * 8 + [0] * 8])

    health = examine(Probe(photos(bits), TARGET), encode)

    assert health.distinct_codes == 3 / 4
    assert health.commonest_code == 2 / 4
    assert health.constant_bits == 7 / 16
    assert health.bit_balance == pytest.approx(9 / 16 * 2 / 4)
    assert health.held_out_map is health.entropy is health.stability is health.domain_distance is None


def test_look_alikes_found_is_the_expectation_over_random_order_of_ties(rng):
    bits = rng.integers(0, 2, (14, N_BITS))
    bits[:, 4:] = 0  # few codes: many ties
    features = rng.normal(size=(14, 5)).astype(np.float16)
    own = Photos(features, digests(14))
    packed = codes.pack(bits.astype(np.uint8))

    found = examine(Probe(own, TARGET), lambda some, _: packed[[own.digests.index(d) for d in some.digests]])

    draws = []
    near = nearest_by_look(features)
    for _ in range(1500):
        i = int(rng.integers(14))
        others = [j for j in rng.permutation(14) if j != i]
        others.sort(key=lambda j: int((bits[i] != bits[j]).sum()))
        draws.append(len(set(others[:10]) & set(near[i])) / 10)
    assert found.look_alikes_found == pytest.approx(np.mean(draws), abs=0.02)


# ---- verdicts


@pytest.fixture
def probe(rng) -> Probe:
    """Four classes of source photos, a tenth of them held out, and a target; features are clean codes."""
    centers = np.array([[0, 1] * 8, [1, 0] * 8, [0, 0, 1, 1] * 4, [1, 1, 0, 0] * 4])
    labels = list(range(4)) * 10
    noise = rng.random((24, N_BITS)) < 0.1
    own = photos(np.where(noise, 1 - centers[list(range(4)) * 6], centers[list(range(4)) * 6]), None, 500)
    return Probe(own, TARGET, photos(centers[labels], labels), photos(centers, [0, 1, 2, 3], 900))


def judged(probe: Probe, new, old=encode, **options) -> Helped:
    return compare(probe, new, old, **{"n_classes": 4, "same_length": True, "seen": frozenset()} | options)


def scrambled(some: Photos, domain: int) -> np.ndarray:
    """Codes that say nothing: a hash of the content."""
    return np.stack([np.frombuffer(hashlib.blake2b(d, digest_size=2).digest(), np.uint8) for d in some.digests])


def test_equal_hashers_are_about_the_same_and_nothing_is_said(probe):
    helped = judged(probe, encode)

    assert helped.collapsed == helped.warnings == []
    assert all(line.endswith("about the same") for line in helped.lines()[1:])


def test_a_fall_of_the_held_out_map_beyond_five_points_is_refused(probe):
    (reason,) = judged(probe, scrambled).collapsed
    assert "far less well" in reason
    assert judged(probe, encode, scrambled).collapsed == []


def test_codes_of_another_length_are_shown_and_not_refused_for_it(probe):
    helped = judged(probe, scrambled, same_length=False)
    assert helped.collapsed == []
    assert "held-out source photos find their own class less well" in helped.warnings


def test_held_out_photos_that_the_old_hasher_learned_from_are_left_out_of_both(probe):
    some = judged(probe, scrambled, seen=frozenset(probe.held.digests[:3]))
    assert some.before.held_out_map is not None
    assert some.collapsed

    helped = judged(probe, scrambled, seen=frozenset(probe.held.digests))
    assert helped.before.held_out_map is None
    assert helped.after.held_out_map is not None
    assert helped.collapsed == []
    assert "learned from the held-out photos" in helped.warnings[0]


def constant(share: float):
    """A hasher as `encode` of which this share of the bits is stuck."""

    def stuck(some: Photos, domain: int) -> np.ndarray:
        bits = codes.unpack(encode(some, domain), N_BITS)
        bits[:, : round(share * N_BITS)] = 1
        return codes.pack(bits)

    return stuck


def test_more_than_a_quarter_of_constant_bits_is_refused_and_a_quarter_is_not(probe):
    assert judged(probe, constant(4 / 16), None).collapsed == []
    (reason,) = judged(probe, constant(5 / 16), None).collapsed
    assert "31% of the bits" in reason


@pytest.mark.parametrize(("n_classes", "allowed", "refused"), [(2, 12, 13), (3, 8, 9)])
def test_two_and_three_classes_may_share_the_bits_that_their_best_codes_share(probe, n_classes, allowed, refused):
    for n_stuck, is_refused in ((allowed, False), (refused, True)):
        reasons = judged(probe, constant(n_stuck / 16), None, n_classes=n_classes).collapsed
        assert any("bits are the same" in reason for reason in reasons) is is_refused


@pytest.mark.parametrize(("n_classes", "n_alike", "is_refused"), [(4, 12, False), (4, 13, True), (2, 13, False)])
def test_one_code_for_more_than_half_of_the_target_is_refused(probe, n_classes, n_alike, is_refused):
    alike = set(probe.own.digests[:n_alike])

    def lazy(some: Photos, domain: int) -> np.ndarray:
        packed = scrambled(some, domain)
        packed[[digest in alike for digest in some.digests]] = 7
        return packed

    assert bool(judged(probe, lazy, None, n_classes=n_classes).collapsed) is is_refused


@pytest.mark.parametrize("n_photos", [1, 3])
def test_one_code_for_a_few_photos_says_nothing_unless_the_source_has_it_too(probe, n_photos):
    few = replace(probe, own=probe.own.take([0] * n_photos))

    assert judged(few, encode, None).collapsed == []
    assert judged(few, constant(1.0), None).collapsed != []


def test_the_table_names_what_got_better_and_worse(probe):
    lines = judged(probe, scrambled, constant(4 / 16)).lines()
    verdicts = Counter(line.split()[-1] for line in lines[1:])
    assert verdicts["worse"] >= 3
    assert "did it help?" in lines[0]
    assert all(len(line) < 100 for line in lines)


def test_a_first_hasher_has_nothing_to_be_compared_with(probe):
    helped = judged(probe, encode, None)
    assert helped.before is None
    assert helped.record()["after"]["held_out_map"] == 1
    assert all("is better)" in line for line in helped.lines()[1:])


def test_samples_are_the_same_for_the_same_photos_in_any_order(rng):
    bits = rng.integers(0, 2, (50, N_BITS))
    some = photos(bits, rng.integers(0, 3, 50).tolist())
    order = rng.permutation(50).tolist()

    one, other = some.sample(20), some.take(order).sample(20)

    assert one.digests == other.digests
    assert (one.features == other.features).all()
    assert (one.labels == other.labels).all()
    assert all(a < b for a, b in itertools.pairwise(one.digests))
    assert {SOURCE, TARGET} == {0, 1}
