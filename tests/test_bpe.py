"""CLIP's tokenizer without torch: the tokens of open_clip's own, from a file that may be a stranger's."""

from __future__ import annotations

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashcli.bpe import MAX_MERGES, MAX_WORD, Tokenizer
from hashcli.errors import DamagedError, MachineError, NewerFormatError

TEXTS = [
    "A red mushroom!",
    "",
    " \n\t ",
    "naïve café’s 北京 😀 123 don't I'LL x_y",
    "a <start_of_text> b <END_OF_TEXT>",
    "&amp;amp; &lt;b&gt; \x00 \u200b ﬁ ſ'S ÃƒÂ© Ⅷ ½ ②",
    "a" * MAX_WORD,
    "word " * 100,
    "it's we've'nt '''",
]


@pytest.fixture(scope="module")
def theirs() -> Any:
    package = importlib.util.find_spec("open_clip")
    file = Path(package.origin).with_name("tokenizer.py")  # the package itself takes seconds to import
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


@pytest.fixture(scope="module")
def ours(theirs: Any) -> Tokenizer:
    return Tokenizer(tuple(theirs.bpe_ranks), 77)


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_open_clip(ours: Tokenizer, theirs: Any, text: str) -> None:
    np.testing.assert_array_equal(ours.tokens([text]), theirs([text]).numpy())


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_has_the_tokens_of_open_clip(ours: Tokenizer, theirs: Any, text: str) -> None:
    np.testing.assert_array_equal(ours.tokens([text]), theirs([text]).numpy())


def test_a_text_that_is_too_long_keeps_its_end_token(ours: Tokenizer, theirs: Any) -> None:
    short = Tokenizer(ours.merges, 6)
    np.testing.assert_array_equal(short.tokens(["one two three four five six"]), theirs(["one two three four"], 6))


def test_it_comes_back_from_json_as_it_was(ours: Tokenizer) -> None:
    assert Tokenizer.from_record(json.loads(json.dumps(ours.record())), "vocabulary.json") == ours


def test_an_endless_word_takes_no_endless_time(ours: Tokenizer) -> None:
    assert ours.tokens(["mushroom" * 100_000]).shape == (1, 77)


def test_without_the_packages_that_clean_texts_the_extra_is_named(
    ours: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ftfy":
            raise ImportError(name, name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MachineError, match="needs ftfy") as caught:
        ours.tokens(["a"])
    assert "hashcli[text]" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": True},
        {"merges": "a b"},
        {"merges": ["a b", 7]},
        {"merges": ["ab"]},
        {"merges": ["a b c"]},
        {"merges": ["a "]},
        {"merges": ["a " + "b" * 257]},
        {"merges": ["a b"] * (MAX_MERGES + 1)},
        {"context": 2},
        {"context": 77.0},
        {"context": 1 << 20},
    ],
)
def test_files_that_are_not_a_tokenizer_are_refused(change: dict[str, Any]) -> None:
    record = Tokenizer((("a", "b"),), 77).record()
    with pytest.raises(DamagedError, match=r"^vocabulary\.json "):
        Tokenizer.from_record(record | change, "vocabulary.json")


def test_a_newer_format_is_refused_by_name() -> None:
    with pytest.raises(NewerFormatError, match="format version 2"):
        Tokenizer.from_record(Tokenizer((), 77).record() | {"version": 2}, "vocabulary.json")
