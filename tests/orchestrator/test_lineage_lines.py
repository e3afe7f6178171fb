"""What `shoal show` prints of a lineage: its last merges, each with what it is made of."""

from __future__ import annotations

from orchestrator.command_line.views import recipe_lines
from workers.lineage import Cross, Cut, LineageRecipe, Mix, child_of


def founder(name: str) -> LineageRecipe:
    return LineageRecipe(sources=(name,), base="base", dtype="float32")


def test_a_model_as_it_is_is_said_to_be_so():
    assert recipe_lines(founder("m").as_dict()) == ["recipe      m as it is"]


def test_each_merge_names_its_parents_and_how_they_were_joined():
    cuts = (Cut(filters=("attn",), split=0.25, weight=0.5), Cut(split=0.75, weight=1.0))
    crossed = child_of(
        [founder("m"), founder("n")], lambda at: Cross(parents=at, cuts=cuts, sigma=0.01)
    )
    mixed = child_of(
        [crossed, founder("n")],
        lambda at: Mix(parents=at, weights=(1.25, 0.75), factors=(0.7, 1.3), seed=4),
    )
    first, second, third = recipe_lines(mixed.as_dict())
    assert first == "recipe      2 merges of m, n over base"
    cut = "attn weight 0.5000 split 0.2500  weight 1.0000 split 0.7500"
    assert second == f"  #1        m and n  {cut}  noise 0.01"
    assert third == (
        "  #2        #1 and n  weights 1.2500, 0.7500  singular values times 0.7 to 1.3"
    )


def test_of_a_long_lineage_the_last_merges_are_shown():
    last, other = founder("m"), founder("n")
    for number in range(30):
        weights = (1.0, float(number))
        last = child_of([last, other], lambda at, w=weights: Mix(parents=at, weights=w))
    lines = recipe_lines(last.as_dict())
    assert lines[0] == "recipe      30 merges of m, n over base, the last 12"
    assert len(lines) == 13
    assert lines[-1].startswith("  #30       #29 and n  weights 1.0000, 29.0000")
