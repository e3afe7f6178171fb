"""YAML with line numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import yaml_file
from orchestrator.yaml_file import YamlError

TEXT = """\
name: x
space:
  sources: [a,
    b]
  bounds:
    weight: [0, 1]
"""


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return yaml_file.load(path)


def test_each_value_has_its_line(document):
    lines = {place: document.where(place).rpartition(":")[2] for place in document.lines}
    assert lines["name",] == "1"
    assert lines["space",] == "2"
    assert lines["space", "sources", 1] == "4"
    assert lines["space", "bounds", "weight"] == "6"


def test_an_unknown_place_is_answered_with_the_nearest_around_it(document):
    assert document.where(("space", "bounds", "density")).endswith("file.yaml:5")
    assert document.where(("nothing",)).endswith("file.yaml:1")


@pytest.mark.parametrize("text", ["a: {b: 1, b: 2}", "a:\n- {b: 1}\n- {c: 1, c: 1}", "1: a\n1: b"])
def test_a_key_given_twice_is_found_at_any_depth(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(YamlError, match="given twice"):
        yaml_file.load(path)


def test_anchors_are_read_and_an_endless_one_is_refused(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("a: &x [1, 2]\nb: *x\n", encoding="utf-8")
    assert yaml_file.load(path).data == {"a": [1, 2], "b": [1, 2]}
    path.write_text("a: &x [1, *x]\n", encoding="utf-8")
    with pytest.raises(YamlError):
        yaml_file.load(path)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(data=PLAIN)
def test_what_is_dumped_is_read_back(data):
    assert yaml_file.parse(yaml_file.dump(data)) == data


def test_equal_lists_are_written_out_each_time():
    shared = [1, 2]
    assert "&" not in yaml_file.dump({"a": shared, "b": shared})
