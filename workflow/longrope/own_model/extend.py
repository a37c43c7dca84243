"""
From a checkpoint to an exported model in one go: the configuration, the workflow, the export.

The workflow is the project's own, run by Snakemake as a process of its own in a folder of its own,
so a killed run goes on where it was. The workflow is that of a checkout, or what the wheel has put
down of it (`project.py`).
"""

import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from longrope.config import Config
from longrope.config.base import BASE
from longrope.config.export import ExportSettings
from longrope.errors import UserError
from longrope.export import FORMS
from longrope.files import read_json
from longrope.own_model.checkpoint import Found
from longrope.own_model.watched import run_watched
from longrope.project import MARKS, home, is_project
from longrope.reading import read_yaml
from longrope.study import factors_path
from longrope.windows import window_label

SUMMARY = "results/tables/summary.json"
NO_TEMPLATE = (
    "instructions: it has no chat template, so it was perhaps never taught to answer: that it"
    " answers few says nothing of damage, the log-probabilities little"
)
LOG = "workflow.log"  # in the folder of an extension: all that Snakemake and the jobs said


@dataclass(frozen=True, slots=True)
class Places:
    """Where the results of a study are."""

    folder: Path  # the working directory of the workflow
    model: str
    weights: str  # that are taken home
    target: int

    @property
    def base(self) -> Path:
        """The checkpoint as it came."""
        return self.folder / f"results/{self.model}/base/model"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that is taken home."""
        return self.folder / f"results/{self.model}/{self.weights}/model"

    @property
    def factors(self) -> Path:
        """Its factors: those of all windows, or of an untuned model those of the target."""
        if self.weights == BASE:
            return self.folder / factors_path(self.model, BASE, "search", self.target)
        return self.folder / f"results/{self.model}/{self.weights}/extended/extended.json"

    @property
    def call(self) -> str:
        """How Python loads it: only tuned weights have their factors where `load` finds them."""
        if self.weights == BASE:
            return f"longrope.load({str(self.checkpoint)!r}, {str(self.factors)!r})"
        return f"longrope.load({str(self.checkpoint.parent)!r})"


def find_project(given: Path | None) -> Path:
    """The project: as given, the current folder, or that of this package; UserError if none is."""
    own = home()
    for folder in [given] if given else [Path.cwd(), own]:
        if is_project(folder):
            return folder.resolve()
    raise UserError(
        f"{given or own}: the project's workflow is not there (no {MARKS[0]}): clone the"
        " repository, and name it: --project FOLDER"
    )


def run_workflow(
    project: Path, folder: Path, config: Path, cores: str, *more: str
) -> None:  # fmt: skip
    """Run the project's workflow in `folder`; UserError if a job failed, or if one runs there.

    A dry run shows all that Snakemake says, another one what is worth following.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(project / "Snakefile"),
        "--directory", str(folder), "--configfile", str(config.resolve()), "--cores", cores,
        "--workflow-profile", str(project / "profiles/default"), *more,
    ]  # fmt: skip
    # Rules call `longrope`: that of this very Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"}
    log = folder / LOG
    with _alone(folder) as lock:
        if any((folder / ".snakemake/locks").glob("*")):  # of one that was killed: none lives
            subprocess.run([*command, "--unlock"], env=environment, capture_output=True)
        if more:
            ended = subprocess.run(command, env=environment, pass_fds=[lock]).returncode
        else:
            print(f"The workflow begins; {log} has all that it says", flush=True)
            ended = run_watched(command, log, env=environment, pass_fds=[lock])
    if ended:
        raise UserError(
            f"the workflow ended with {ended}; what failed is above, in {log} and in"
            f" {folder}/logs. The same command goes on from there"
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold the folder for one workflow; UserError if another one has it. The file that is given is
    to be handed on to it: if this process is killed, the workflow may live on, and holds it."""
    with (folder / "extend.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: a workflow is at work there, perhaps that of an earlier start that was"
                f" killed alone: wait until it is done, or end what `fuser {file.name}` names"
                " (kill -INT PID)"
            ) from None
        yield file.fileno()


def export(places: Places, settings: ExportSettings, forms: Sequence[str]) -> list[str]:
    """Export what is taken home in some forms, by `longrope export`, as the configuration says;
    lines that say where each is, and how to make those that were not asked for."""
    made, others = [], []
    for form in FORMS:
        out = places.folder / ("export" if form == "native" else f"export-{form}")
        arguments = [
            "export", "--form", form, *settings.flags(form), "--model", places.checkpoint,
            "--factors", places.factors, "--out", out,
        ]  # fmt: skip
        if form not in forms:
            others.append(f"  longrope {shlex.join(map(str, arguments))}")
        elif ended := _longrope(*arguments):
            raise UserError(
                f"the export as {form} ended with {ended}, as it says above; the extended model"
                f" itself is done: {places.call}"
            )
        else:
            made.append(f"the model for {FORMS[form]}: {out}")
    return [*made, *(["other exports:"] if others else []), *others]


def _longrope(*arguments) -> int:
    """Run a sub-command as a process of its own, on one thread as rules do; its exit code."""
    command = [sys.executable, "-m", "longrope.cli", *map(str, arguments)]
    return subprocess.run(command, env={"OMP_NUM_THREADS": "1"} | os.environ).returncode


def begun(path: Path, found: Found, target: int, say: Callable[[str], None] = print) -> Config:
    """The configuration of an earlier start, which goes on; UserError if that was another one.

    A new one would be of other budgets, as the machine is measured anew, and would leave what is
    done behind.
    """
    from longrope.checks import load_config

    anew = "name another folder with --out, or delete that file to begin anew"
    try:
        config = load_config(read_yaml(path))
    except UserError as error:
        raise UserError(
            f"{path}: not the configuration of an extension ({error}); {anew}"
        ) from None
    if len(config.models) != 1:
        raise UserError(f"{path}: has {len(config.models)} models, an extension one; {anew}")
    ((name, model),) = config.models.items()
    source = getattr(model.source, "path", model.source.kind)
    if (name, source) != (found.name, str(found.path)):
        raise UserError(
            f"{path} is of another checkpoint, {name} ({source}), this is {found.name}"
            f" ({found.path}): {anew}"
        )
    windows = [*model.search, *(each.window for each in model.tunings.values())]
    windows += model.extension.search if model.extension else []
    if (before := max(windows, default=0)) != target:
        raise UserError(
            f"{path} is of an extension to {window_label(before)}, this is to"
            f" {window_label(target)}: {anew}"
        )
    say(
        f"{path}, of an earlier start, is used as it is, whatever --text, --hours, --gpu and"
        " --trial say now; delete it to begin with others"
    )
    return config


def places_of(config: Config, folder: Path, target: int) -> Places:
    """Where the study of a configuration leaves its results."""
    ((name, model),) = config.models.items()
    return Places(folder, name, model.extension.weights if model.extension else BASE, target)


def came_of_it(config: Config, folder: Path) -> list[str]:
    """What was measured at the longest length, a line a measure."""
    from longrope.report.outcome import outcome_lines

    ((name, model),) = config.models.items()
    return outcome_lines(model, read_json(folder / SUMMARY)["models"][name])


def check_instructions(places: Places) -> str:
    """Ask the carried questions before and after; two lines that compare the answers."""
    out = places.folder / "results" / places.model / "instructions"
    after = ["--factors", places.factors]
    asked = {
        "before": (places.base, []),
        "after": (places.checkpoint, after),
        "after, one table": (places.checkpoint, [*after, "--at", places.target]),
    }
    if places.weights == BASE:  # short questions keep the original RoPE: only the table counts
        del asked["after"]
    lines, untaught = [], False
    for name, (model, more) in asked.items():
        path = out / f"{name.replace(', ', '-').replace(' ', '-')}.json"
        if _longrope("evaluate-instructions", "--model", model, "--out", path, *more):
            lines.append(f"instructions, {name}: failed, as it says above")
            continue
        record = read_json(path)
        found = record["results"]
        untaught = untaught or not record["template"]
        lines.append(
            f"instructions, {name}: {found['matched']} of {found['questions']} answered, mean"
            f" log-probability of the references {found['log_prob']:.3f} ({path})"
        )
    return "\n".join([*lines, *([NO_TEMPLATE] if untaught else [])])
