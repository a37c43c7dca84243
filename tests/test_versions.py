"""The oldest versions that are tested are those that the package says it works with."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLD_ENOUGH = {"torch"}  # envs/README.md: an older one cannot be had for a CPU


def test_the_lower_bounds_are_the_versions_of_the_oldest_environment():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needs = [*project["dependencies"], *extras["report"], *extras["workflow"], *extras["lora"]]
    bounds = dict(found.groups() for each in needs if (found := re.match(r"(\S+)>=(\S+)", each)))
    lines = (ROOT / "envs/oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if "==" in line)
    for name in bounds.keys() - OLD_ENOUGH:
        tested, bound = (re.sub(r"(\.0)+$", "", each) for each in (oldest[name], bounds[name]))
        assert tested == bound, name
