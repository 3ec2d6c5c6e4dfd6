from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashcli import settings
from hashcli.errors import UsageError
from hashcli.settings import Param


@dataclass(frozen=True)
class Toy:
    share: Annotated[float, Param("share of the target", ge=0, le=1)] = 0.5
    steps: Annotated[int, Param("steps", ge=1)] = 10
    soft: Annotated[bool, Param("soft labels")] = True
    selector: Annotated[str, Param("who selects", choices=("flow", "margin"))] = "flow"


def test_names_left_out_keep_their_defaults():
    assert settings.parse(Toy, ["steps=3"], "toy") == Toy(steps=3)


@pytest.mark.parametrize("word, value", [("true", True), ("no", False), ("ON", True), ("0", False)])
def test_booleans_take_the_usual_words(word, value):
    assert settings.parse(Toy, [f"soft={word}"], "toy").soft is value


@pytest.mark.parametrize(
    "word, says",
    [
        ("share", "no value"),
        ("share=2", "from 0 to 1"),
        ("share=nan", "share='nan'"),
        ("share=many", "a number"),
        ("steps=2.5", "a whole number"),
        ("steps=0", "of at least 1"),
        ("soft=perhaps", "true or false"),
        ("selector=fow", "one of flow | margin"),
        ("stepz=1", "no setting 'stepz'"),
    ],
)
def test_a_wrong_word_is_refused_by_name_with_what_is_allowed(word, says):
    with pytest.raises(UsageError) as caught:
        settings.parse(Toy, [word], "toy")
    assert says in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("word, hint", [("stepz=1", "did you mean steps?"), ("selector=fow", "did you mean flow?")])
def test_near_names_are_suggested(word, hint):
    with pytest.raises(UsageError) as caught:
        settings.parse(Toy, [word], "toy")
    assert caught.value.hint == hint


@given(
    st.builds(
        Toy,
        share=st.floats(0, 1),
        steps=st.integers(1, 10**9),
        soft=st.booleans(),
        selector=st.sampled_from(["flow", "margin"]),
    )
)
def test_what_is_recorded_is_read_back_equal(toy):
    assert settings.from_record(Toy, settings.record(toy), "toy") == toy


def test_a_field_without_a_declaration_is_the_plugin_authors_mistake():
    @dataclass(frozen=True)
    class Bare:
        share: float = 0.5

    with pytest.raises(TypeError, match=r"Bare\.share must be Annotated"):
        settings.declared(Bare)
