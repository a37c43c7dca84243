"""The image keeps step with the README, the pinned versions and the files that there are."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "envs/Containerfile").read_text().replace("\\\n", "")
PINS = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "envs/constraints.txt").read_text(), re.M))


def test_the_image_installs_as_the_readme_does_with_more_extras():
    readme = (ROOT / "README.md").read_text()
    (image,) = re.findall(r"pip install .*", TEXT)
    command, ours = re.search(
        r'install (?:--no-cache-dir )?(-c .*) -e "\.\[(.*)\]"', image
    ).groups()
    theirs = re.search(r'pip install (-c .*) -e "\.\[(.*)\]"', readme).groups()
    assert " ".join(command.split()) == theirs[0]
    assert theirs[1] in ours.split(",")
    assert f"torch=={PINS['torch']}" in command


def test_its_extras_exist_and_their_plugins_are_pinned():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    asked = re.search(r'\.\[(.*)\]"', TEXT)[1].split(",")
    assert set(asked) <= set(extras)
    plugins = [each for name in extras for each in extras[name] if "-plugin-" in each]
    assert plugins and all(re.split(r"[>=]", each)[0] in PINS for each in plugins)


def test_it_copies_every_part_of_the_workflow_and_nothing_that_is_not_tracked():
    copied = {name for line in re.findall(r"^COPY (.*)", TEXT, re.M) for name in line.split()[:-1]}
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert copied <= top
    assert {"Snakefile", "config", "envs", "profiles", "resources", "workflow"} <= copied
    assert re.search(r"^FROM \$\{BASE\}$", TEXT, re.M) and "python:3.11" in TEXT
