"""A small campaign of the example models, run through the command line."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

#: So that campaigns find the evaluator that they name by its address.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def shoal() -> ModuleType:
    """What the stories are told with."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import stories

    return stories


@dataclass(frozen=True)
class Finished:
    folder: Path
    ended: Any

    @property
    def store(self) -> list[str]:
        return ["--store", f"{self.folder}/shoal.db"]


@pytest.fixture(scope="session")
def finished(shoal, tmp_path_factory) -> Finished:
    """The small campaign, run once to its end without a break."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shoal.ROOT)
        return Finished(folder, shoal.call("run", *shoal.settings(folder), "--json"))


@pytest.fixture
def runner(shoal, tmp_path):
    """Makes a function that runs a campaign of some settings, changed as it says."""

    def of(settings):
        def run(name, **changes):
            place = {"name": name, "store": f"{tmp_path}/shoal.db", "output": f"{tmp_path}/{name}"}
            file = tmp_path / f"{name}.yaml"
            file.write_text(yaml.safe_dump({**settings, **place, **changes}))
            return shoal.call("run", file, "--json")

        return run

    return of
