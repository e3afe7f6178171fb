"""A campaign on Ray whose driver is killed at any moment, as often as you like, is the same search.

`SHOAL_KILLS=100 pytest tests/end_to_end/test_kills.py -m "slow and ray"` kills more often.
"""

from __future__ import annotations

import os
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("in_root")]

NUM = int(os.environ.get("SHOAL_KILLS", "10"))


@pytest.mark.timeout(300 + 60 * NUM)
def test_a_campaign_that_is_killed_again_and_again_ends_as_the_same_search(shoal, tmp_path):
    import kills

    def log(line: str) -> None:
        sys.stdout.write(f"{line}\n")

    assert kills.torment_all(tmp_path, NUM, seed=1, log=log) >= NUM
