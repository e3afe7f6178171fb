"""Plug-in points: names, outside addresses, and answers to what is neither."""

from __future__ import annotations

import pytest

from evaluators.kinds import EVALUATORS
from evaluators.lm_harness import LmHarness
from evaluators.registry import Registry, UnknownNameError, nearest

ROADS = Registry("road", {"path": "pathlib:Path", "pure": "pathlib:PurePath"})


def test_a_registered_name_gives_its_class_and_back():
    assert EVALUATORS.load("lm_harness") is LmHarness
    assert EVALUATORS.name_of(LmHarness) == "lm_harness"


def test_an_address_from_outside_is_taken_in_place_of_a_name():
    from collections import OrderedDict

    assert ROADS.load("collections:OrderedDict") is OrderedDict
    assert ROADS.name_of(OrderedDict) == "collections:OrderedDict"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pth", "unknown road 'pth'; did you mean 'path'"),
        ("zzz", "unknown road 'zzz'; known: path, pure"),
        ("nowhere:Thing", "road 'nowhere:Thing' cannot be imported"),
        ("pathlib:Nothing", "road 'pathlib:Nothing' cannot be imported"),
        ("os:getcwd", "road 'os:getcwd' is not a class"),
        ("pathlib:", "road 'pathlib:' cannot be imported"),
        (":Path", "road ':Path' cannot be imported"),
    ],
)
def test_an_unknown_name_is_answered_with_what_is_known(name, expected):
    with pytest.raises(UnknownNameError, match=expected):
        ROADS.load(name)


def test_where_nothing_is_known_the_answer_says_so():
    assert nearest("x", []) == "none is known"
