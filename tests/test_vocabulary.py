"""Captions as numbers: what scikit-learn computes, from a file that may be a stranger's."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from hashcli.errors import DamagedError, MachineError, NewerFormatError, UsageError
from hashcli.vocabulary import MAX_WORDS, Vocabulary

CAPTIONS = [
    "A red mushroom with white spots, red all over",
    "two mushrooms in the wood",
    "",
    "Ein roter Apfel, süß",
    "the red apple in the grass",
    "苹果 red",
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.fit(CAPTIONS)


def by_scikit_learn(texts: list[str]) -> np.ndarray:
    fitted = TfidfVectorizer(sublinear_tf=True).fit([caption for caption in CAPTIONS if caption])
    return fitted.transform(texts).toarray()


def test_features_are_those_of_scikit_learn(vocabulary: Vocabulary) -> None:
    texts = [*CAPTIONS, "red Red RED apple", "nothing known", "süß wood-grass!"]
    np.testing.assert_allclose(vocabulary.features(texts), by_scikit_learn(texts), atol=1e-3)
    assert vocabulary.features(texts).dtype == np.float16


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["red", "Apple", "wood", "x", "spots,", "unheard", "in\nthe", "süß"]), max_size=12))
def test_any_text_has_the_features_of_scikit_learn(words: list[str]) -> None:
    text = " ".join(words)
    np.testing.assert_allclose(Vocabulary.fit(CAPTIONS).features([text]), by_scikit_learn([text]), atol=1e-3)


def test_it_comes_back_from_json_as_it_was(vocabulary: Vocabulary) -> None:
    again = Vocabulary.from_record(json.loads(json.dumps(vocabulary.record())), "vocabulary.json")
    assert again == vocabulary
    np.testing.assert_array_equal(again.features(CAPTIONS), vocabulary.features(CAPTIONS))


def test_a_text_of_no_known_word_is_zeros(vocabulary: Vocabulary) -> None:
    assert not vocabulary.features(["", "a", "!?", "zebra"]).any()
    assert vocabulary.features([]).shape == (0, len(vocabulary))


def test_unknown_words_are_named_with_those_spelled_alike(vocabulary: Vocabulary) -> None:
    assert vocabulary.unknown("Zebra red zebra appel") == ["zebra", "appel"]
    assert vocabulary.nearest("appel")[0] == "apple"
    assert vocabulary.nearest("MUSHROOM")[0] == "mushroom"
    assert vocabulary.nearest("zzzzzz") == []
    assert vocabulary.frequent(1) == ["red"]


def test_only_the_most_frequent_words_are_kept() -> None:
    many = Vocabulary.fit([f"rare{i} usual" for i in range(MAX_WORDS + 50)])
    assert len(many) == MAX_WORDS and "usual" in many.words
    assert many.words == tuple(sorted(many.words))


def test_captions_without_a_word_are_refused() -> None:
    with pytest.raises(UsageError, match="no word in the captions of 3 photos"):
        Vocabulary.fit(["", "!", "a"])


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MachineError, match="scikit-learn") as caught:
        Vocabulary.fit(CAPTIONS)
    assert "hashcli[text]" in caught.value.hint


def test_reading_and_applying_import_neither_scikit_learn_nor_torch(vocabulary: Vocabulary) -> None:
    program = (
        "import json, sys; from hashcli.vocabulary import Vocabulary;"
        "assert Vocabulary.from_record(json.load(sys.stdin), '').features(['red']).any();"
        "print(sorted({'sklearn', 'scipy', 'torch'} & set(sys.modules)))"
    )
    given_record = json.dumps(vocabulary.record())
    done = subprocess.run(
        [sys.executable, "-c", program], input=given_record, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 0},
        {"version": True},
        {"words": []},
        {"words": "red"},
        {"words": ["red", 7, "wood"], "idf": [1.0, 1.0, 1.0]},
        {"words": ["red", "red"], "idf": [1.0, 1.0]},
        {"words": ["wood", "red"], "idf": [1.0, 1.0]},
        {"words": ["x" * 65], "idf": [1.0]},
        {"words": ["red"], "idf": [1.0, 2.0]},
        {"words": ["red"], "idf": [float("nan")]},
        {"words": ["red"], "idf": [float("inf")]},
        {"words": ["red"], "idf": [-1.0]},
        {"words": ["red"], "idf": ["1"]},
        {"words": [f"{i:05d}" for i in range(MAX_WORDS + 1)], "idf": [1.0] * (MAX_WORDS + 1)},
    ],
)
def test_files_that_are_not_a_vocabulary_are_refused(vocabulary: Vocabulary, change: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match=r"^vocabulary\.json "):
        Vocabulary.from_record(vocabulary.record() | change, "vocabulary.json")


def test_a_newer_format_is_refused_by_name(vocabulary: Vocabulary) -> None:
    with pytest.raises(NewerFormatError, match="format version 2"):
        Vocabulary.from_record(vocabulary.record() | {"version": 2}, "vocabulary.json")
