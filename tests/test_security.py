"""What others could do to a run, and what a run could give away: docs/security.md, as tests."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import pytest
import torch

from helpers import WINDOW, make_checkpoint, make_tokens, save_llama, write_excerpts
from longrope.baselines import closed_form
from longrope.checks import load_config
from longrope.cli import main
from longrope.errors import UserError, one_line
from longrope.factors import write_factors
from longrope.files import read_json, write_json
from longrope.logs import logging_to
from longrope.models.checkpoint import read_record
from longrope.parallel import sharding
from longrope.parallel.reasons import leave_report
from longrope.secret import hidden
from longrope.tracking.live import LiveRun
from longrope.tracking.records import RunRecord, write_record
from longrope.tracking.sync import sync
from micro import CONFIG, configuration, make_place, snakemake

LIMIT = 900  # seconds, after which something hangs
STARTED = "2026-01-02T03:04:05+00:00"

# --- ports --------------------------------------------------------------------------------------

LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
LISTENING = "0A"  # in /proc/net


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A checkpoint, its tokens and factors."""
    folder = tmp_path_factory.mktemp("place")
    make_checkpoint(folder)
    make_tokens(folder / "data")
    write_factors(
        folder / "yarn.json", closed_form("yarn", read_record(folder / "model").rope, 128)
    )
    return folder


def family_of(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family_of(int(child)))]


def listening(pids: list[int]) -> set[str]:
    """The addresses, as /proc writes them, at which some processes take connections."""
    links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()]
    open_ = {os.readlink(link) for link in links if link.is_symlink()}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING and f"socket:[{inode}]" in open_:
                found.add(local.split(":")[0])
    return found


def test_processes_of_one_machine_listen_on_its_loopback_address_alone(place, tmp_path):
    tuning = {"method": "yarn", "window": 128, "batch": 2, "learning_rate": 0.001, "steps": 1000}
    tuning |= {"mixture": {"text": 1}, "checkpoint_every": 2}
    stage = {"name": "full", "seed": 1, "tuning": tuning}
    command = [sys.executable, "-m", "longrope.cli", "--processes", 2, "--per-sequence", 2]
    command += ["finetune", "--model", place / "model", "--factors", place / "yarn.json"]
    command += ["--tokens", place / "data/train", "--out", tmp_path / "model", "--metrics"]
    command += [tmp_path / "metrics", "--state", tmp_path / "state", "--settings"]
    running = subprocess.Popen([*map(str, command), json.dumps(stage)], stderr=subprocess.PIPE)
    try:
        ended = time.monotonic() + LIMIT
        while not list(tmp_path.glob("state/step-*/.metadata")):
            assert running.poll() is None, running.stderr.read().decode()
            assert time.monotonic() < ended
            time.sleep(0.05)
        pids = family_of(running.pid)
        assert len(pids) == 3
        found = listening(pids)
        assert found and found <= LOOPBACK
        for pid in pids[1:]:  # gloo would take the interface of the machine's name
            assert b"GLOO_SOCKET_IFNAME=lo" in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=LIMIT)


# --- what others wrote is data, never code -------------------------------------------------------


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def marker(tmp_path) -> Path:
    """A file that planted code makes."""
    return tmp_path / "planted-code-ran"


@pytest.fixture
def pickled(tmp_path, marker) -> Path:
    """A checkpoint whose pickled weights make the marker."""
    folder = save_llama(tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Touch(marker)}, folder / "pytorch_model.bin")
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert marker.exists()  # so it does, where it is let
    marker.unlink()
    return folder


def commands(folder: Path, out: Path) -> dict[str, list[str]]:
    """What is done with a checkpoint from elsewhere."""
    source = {"source": {"kind": "folder", "path": str(folder)}, "original_window": WINDOW}
    into = ["import-model", "--name", "m", "--out", str(out / "model"), "--settings"]
    own = [str(folder), "--to", "256", "--text", write_excerpts(out / "texts")]
    asked = ["generate", str(folder), "Once", "--new-tokens", "1", "--other-weights"]
    return {
        "check": ["check", str(folder)],
        "init": ["init", *own, "--out", str(out / "m.yaml")],
        "extend": ["extend", *own, "--out", str(out / "extended"), "--dry-run"],
        "import-model": [*into, json.dumps(source)],
        "import-factors": ["import-factors", "--checkpoint", str(folder), "--out", str(out / "f")],
        "generate": [*asked, "--factors", str(out / "yarn.json")],
    }


COMMANDS = ("check", "init", "extend", "import-model", "import-factors", "generate")
NONE_THERE = "import-factors"  # finds none


@pytest.mark.parametrize("command", COMMANDS)
def test_pickled_weights_run_no_code(pickled, place, marker, tmp_path, command):
    shutil.copy(place / "yarn.json", tmp_path)
    main(commands(pickled, tmp_path)[command])
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["llama", "planted"])
@pytest.mark.parametrize("command", COMMANDS)
def test_code_beside_a_checkpoint_is_not_run_even_if_somebody_says_yes(
    place, marker, tmp_path, monkeypatch, command, kind
):
    folder = save_llama(tmp_path / "planted")
    classes = f"""
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({str(marker)!r}).touch()
class PlantedConfig(LlamaConfig):
    model_type = "planted"
class PlantedModel(LlamaForCausalLM):
    config_class = PlantedConfig
class PlantedTokenizer(PreTrainedTokenizerFast):
    pass
"""
    (folder / "planted.py").write_text(classes)
    code = {"AutoConfig": "planted.PlantedConfig", "AutoModelForCausalLM": "planted.PlantedModel"}
    changes = {"config.json": {"model_type": kind, "auto_map": code}}
    tokenizer = {"AutoTokenizer": ["planted.PlantedTokenizer", "planted.PlantedTokenizer"]}
    changes["tokenizer_config.json"] = {"auto_map": tokenizer}
    if kind == "planted":
        changes["tokenizer_config.json"]["tokenizer_class"] = "PlantedTokenizer"
    for name, change in changes.items():
        write_json(folder / name, read_json(folder / name) | change)
    shutil.copy(place / "yarn.json", tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks
    done = ["check"] if kind == "planted" else [each for each in COMMANDS if each != NONE_THERE]
    assert main(commands(folder, tmp_path)[command]) == (command not in done)
    assert not marker.exists()


def test_a_checkpoint_of_a_training_is_not_opened_where_it_is_not_what_was_saved(marker, tmp_path):
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    sharding.save(tmp_path, 3, model, [optimiser])
    metadata = tmp_path / "step-3/.metadata"
    metadata.write_bytes(pickle.dumps(Touch(marker)))
    assert sharding.load(tmp_path, model, [optimiser]) == 0
    assert not marker.exists()


@pytest.mark.parametrize("command", ["check", "init", "import-model", "generate"])
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", ".."])
def test_an_index_that_names_files_elsewhere_is_refused(
    place, tmp_path, capsys, command, kind, name
):
    folder = save_llama(tmp_path / "checkpoint")
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    if kind == "pytorch_model.bin":
        torch.save({}, folder / kind)
        (folder / "model.safetensors").unlink()
        if command == "check":
            pytest.skip("the audit reads no pickled weights, nor their index")
    write_json(folder / f"{kind}.index.json", {"weight_map": {"lm_head.weight": name}})
    shutil.copy(place / "yarn.json", tmp_path)
    assert main(commands(folder, tmp_path)[command]) == 1
    said = capsys.readouterr()
    assert f"{kind}.index.json" in said.out + said.err and repr(name) in said.out + said.err


def test_an_adapter_beside_a_checkpoint_loads_no_other_model(place, tmp_path, capsys):
    folder = save_llama(tmp_path / "checkpoint")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "somebody/else"})
    shutil.copy(place / "yarn.json", tmp_path)
    asked = commands(folder, tmp_path)
    for command in ("import-model", "generate"):
        assert main(asked[command]) == 1
        assert "merge the adapter" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["init", "extend", "import-model", "generate"])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_config_that_names_a_kernel_of_the_hub_is_refused(place, tmp_path, capsys, command, key):
    folder = save_llama(tmp_path / "checkpoint")
    path = folder / "config.json"
    write_json(path, read_json(path) | {key: "kernels-community/flash-attn2"})
    shutil.copy(place / "yarn.json", tmp_path)
    assert main(commands(folder, tmp_path)[command]) == 1
    assert f"{key} names a kernel of the hub" in capsys.readouterr().err


# --- names become parts of paths ----------------------------------------------------------------

BAD_NAMES = (
    *("../up", "..", "/tmp/x", "a/b", "a\\b", "-rf", ".hidden", ""),
    *("a b", "a\nb", "a\n", "a\x1b[2J", "a\x00", "ä", "a;b", "$(x)", "{model}"),
)


def renamed(place: str, name: str) -> dict:
    """The micro study with one name replaced."""
    config = configuration()
    model = config["models"]["micro"]
    match place:
        case "models":
            config["models"] = {name: model}
        case "corpora":
            config["corpora"][name] = config["corpora"].pop("tempest")
        case "tunings":
            model["tunings"][name] = model["tunings"].pop("yarn-256")
        case "variants":
            model["variants"][f"search-{name}"] = model["variants"].pop("search-dimensions")
        case "evaluation":
            model["evaluation"][name] = model["evaluation"].pop("passkey")
        case "weights":
            model["evaluation"]["tales"]["methods"][name] = ["pi"]
        case "method":
            model["evaluation"]["tales"]["methods"]["base"] = [name]
        case "extension":
            model["extension"]["weights"] = name
        case "hub":
            model["source"] = {"kind": "hub", "name": name}
    return config


PLACES = (
    "models", "corpora", "tunings", "variants", "evaluation", "weights", "method", "extension",
    "hub",
)  # fmt: skip


@pytest.mark.parametrize("place_of_name", PLACES)
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_plain_part_of_a_path_is_refused(place_of_name, name):
    if place_of_name == "hub" and name == "a/b":
        name = "a/b/c"
    if place_of_name == "variants" and name in ("..", "-rf", ".hidden"):
        name = f"/{name}"  # behind `search-` they are plain
    with pytest.raises(UserError, match=r"^configuration:\n  "):
        load_config(renamed(place_of_name, name))


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_on_the_command_line_is_refused(name, tmp_path, capsys):
    for stage in (["import-model"], ["pretrain", "--state", "s"]):
        with pytest.raises(SystemExit) as ended:
            main([*stage, f"--name={name}", "--out", str(tmp_path / "m"), "--settings", "{}"])
        assert ended.value.code == 2 and "argument --name" in capsys.readouterr().err


# --- secrets ------------------------------------------------------------------------------------

USER, PASSWORD = "planted-user", "pl@nted-p4ssword"
SECRETS = {
    "HF_TOKEN": "hf_plantedTokenOfTheHub0123456789",
    "MLFLOW_TRACKING_PASSWORD": "planted-tracking-password",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED0123456",
    "AWS_SECRET_ACCESS_KEY": "planted/Secret+Key",
    "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "planted-s3-secret",
}
DEAD = f"http://{USER}:{PASSWORD}@127.0.0.1:9"  # nobody listens there


@pytest.fixture
def planted(monkeypatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)


def leaks(*texts: bytes) -> set[str]:
    """The secrets that are in some bytes."""
    login = f"{USER}:{PASSWORD}"
    planted = [*SECRETS.values(), PASSWORD, login, b64encode(login.encode()).decode()]
    return {each for each in planted for text in texts if each.encode() in text}


def leaks_below(folder: Path) -> set[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return leaks(*(path.read_bytes() for path in files))


def test_secrets_are_nowhere_in_what_a_study_leaves(planted, tmp_path, monkeypatch):
    make_place(tmp_path)
    monkeypatch.chdir(tmp_path)  # where `longrope sync` is called
    target = "results/micro/base/model"
    command = snakemake(tmp_path, CONFIG, target, "--cores", "1", "--verbose", "--printshellcmds")
    done = subprocess.run(command, capture_output=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr.decode()
    assert b"live tracking ends here" in done.stderr + done.stdout  # the server was asked
    assert sync(tmp_path / "logs", f"sqlite:///{tmp_path}/mlflow.db").added == 1
    assert (tmp_path / "mlruns").exists() and list(tmp_path.glob(".snakemake/log/*"))
    assert leaks(done.stdout, done.stderr) | leaks_below(tmp_path) == set()


@pytest.mark.parametrize("kind", [UserError, KeyError])  # for the user to mend; a bug
def test_secrets_in_an_error_reach_neither_log_nor_record_nor_mlflow(
    planted, tmp_path, monkeypatch, capsys, kind
):
    def fail(*_, **__):
        raise kind(f"{DEAD} says no to {SECRETS}" + 400 * " and no" + SECRETS["HF_TOKEN"])

    monkeypatch.setattr("longrope.models.import_model.import_model", fail)
    monkeypatch.chdir(tmp_path)
    source = {"source": {"kind": "folder", "path": SECRETS["HF_TOKEN"]}, "original_window": 64}
    arguments = ["--name", "m", "--out", "m", "--settings", json.dumps(source)]
    code = main(["--log", "logs/m/import.log", "import-model", *arguments])
    assert code == (1 if kind is UserError else 70)
    assert sync(tmp_path / "logs", f"sqlite:///{tmp_path}/mlflow.db").added == 1
    said = capsys.readouterr()
    assert "says no to" in said.err and "***" in (tmp_path / "logs/m/import.log").read_text()
    assert leaks((said.out + said.err).encode()) | leaks_below(tmp_path) == set()


def test_secrets_in_what_mlflow_says_are_not_repeated(planted, tmp_path, capsys):
    write_record(tmp_path / "x.run.json", RunRecord("search", "x", "failed", STARTED, 1.0))
    assert sync(tmp_path).failed == 1
    with LiveRun("1" * 32, "x") as live:
        live.log({"step": 1, "loss": 1.0})
    said = capsys.readouterr()
    assert "nothing synced" in said.out and "live tracking ends here" in said.out
    assert leaks((said.out + said.err).encode()) | leaks_below(tmp_path) == set()


def test_a_url_with_a_token_as_the_name_of_a_model_is_refused_and_not_repeated(planted):
    for name in (f"https://user:{SECRETS['HF_TOKEN']}@hub.example/m", DEAD):
        with pytest.raises(UserError, match="source") as caught:
            load_config(renamed("hub", name))
        assert leaks(str(caught.value).encode()) == set()


def test_a_rank_that_fails_tells_no_secret(planted, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    try:
        raise KeyError(SECRETS["HF_TOKEN"])
    except KeyError as error:
        leave_report("search", error, None)
    assert "KeyError" in (tmp_path / "error.json").read_text()
    assert leaks_below(tmp_path) == set()


def test_a_secret_at_the_end_of_a_long_error_is_hidden_before_that_is_cut(planted):
    secret = SECRETS["MLFLOW_TRACKING_PASSWORD"]
    said = one_line(ValueError("x" * 280 + f" {secret} and more"))
    assert len(said) <= 300 and secret[:8] not in said


def test_a_secret_that_is_printed_in_parts_is_hidden_in_the_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "not-to-be-told")
    with logging_to(tmp_path / "a.log"):
        print("with not-to", end="", flush=True)
        print("-be-told in it")
        print("a last line of hf_", end="", flush=True)
        print("aBcDeFgH12345", end="")
    assert (tmp_path / "a.log").read_text() == "with *** in it\na last line of ***"
    assert capsys.readouterr().out == "with *** in it\na last line of ***"


@pytest.mark.parametrize(
    ("secret", "shown"),
    [("not-to-be-told", "51 of 100, with "), ("not to be told", "")],  # of which "not " is a part
)
def test_words_of_a_line_that_goes_on_are_shown_as_they_come(
    tmp_path, monkeypatch, capsys, secret, shown
):
    monkeypatch.setenv("HF_TOKEN", secret)
    with logging_to(tmp_path / "a.log"):
        print(f"51 of 100, with {secret[:6]}", end="", flush=True)
        assert (tmp_path / "a.log").read_text() == capsys.readouterr().out == shown
        print(secret[6:], "in it", end="")
    assert (tmp_path / "a.log").read_text() == "51 of 100, with *** in it"


@pytest.mark.parametrize("token", ["hf_aB3dE6gH9jK2", "hf_oauth_aB3dE6gH9jK2"])
def test_a_token_of_the_hub_is_hidden_wherever_it_comes_from(token):
    assert hidden(f"401 for {token}: denied") == "401 for ***: denied"


def test_what_is_no_secret_stays_readable(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-and-long")
    monkeypatch.setenv("SOME_TOKEN", "1k")  # too short to be told from other text
    text = "false-and-long at 1k, http://127.0.0.1:5000/a@b, me@example.org, half_an_hour"
    assert hidden(text) == text
