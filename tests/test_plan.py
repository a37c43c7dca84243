"""What a study will cost: counts against closed forms and torch's own, jobs against Snakemake's."""

import inspect
import json
import re
import subprocess
import sys
import time
import weakref
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import ROOT
from longrope import portions
from longrope.checks import load_config
from longrope.cli import main
from longrope.config.training import Lora
from longrope.errors import UserError
from longrope.evaluate.perplexity import slide
from longrope.evaluate.questions import SOURCES
from longrope.losses import token_losses
from longrope.models.checkpoint import load_tokenizer
from longrope.passkey import PasskeyWriter
from longrope.pieces import prepare
from longrope.plan import cost, questions
from longrope.plan.architecture import (
    Architecture,
    architecture_of,
    known_architectures,
    of_config,
)
from longrope.plan.estimate import PROCESS, estimate_study
from longrope.plan.jobs import job_that_makes, jobs_of
from longrope.plan.machine import GIB, find_machine, measured_flops
from longrope.plan.paper import beside_paper, disagreements
from longrope.plan.report import check_fits, check_study, plan
from longrope.training.finetune import recompute
from longrope.training.lora import add_lora, hold_in_bfloat16
from test_architectures import FAMILIES

LLAMA2 = known_architectures()["meta-llama/Llama-2-7b-hf"]
MISTRAL = known_architectures()["mistralai/Mistral-7B-v0.1"]
SMALL = Architecture(
    layers=2,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_size=16,
    intermediate=176,
    vocabulary=32,
    tied=False,
)
TOKENS = 2048


def configured(name: str):
    return load_config(yaml.safe_load((ROOT / "config" / name).read_text()))


def llama(shape: Architecture, attention: str = "sdpa", layers: int | None = None):
    """That shape as transformers builds it."""
    config = LlamaConfig(
        num_hidden_layers=layers or shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=2 * TOKENS,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def gpu():
    return find_machine("a100-80gb")


@pytest.fixture(scope="module")
def default():
    return configured("config.yaml")


@pytest.fixture(scope="module")
def paper():
    return configured("paper.yaml")


# --- how large models are -------------------------------------------------------------------


def test_the_weights_of_published_models_are_counted():
    assert LLAMA2.parameters == 6_738_415_616
    assert MISTRAL.parameters == 7_241_732_096
    assert known_architectures()["HuggingFaceTB/SmolLM2-135M"].parameters == 134_515_008
    assert known_architectures()["meta-llama/Llama-3.2-1B"].parameters == 1_235_814_400


@pytest.mark.parametrize("name", known_architectures())
def test_a_known_shape_has_the_weights_that_transformers_builds(name):
    shape = known_architectures()[name]
    with torch.device("meta"):
        model = llama(shape)
    assert sum(each.numel() for each in model.parameters()) == shape.parameters
    assert of_config(model.config.to_dict(), name) == shape


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_weights_of_every_supported_architecture_are_counted_but_for_biases(family):
    """Heads, groups and MLPs as wide as real ones are, against their vectors."""
    with torch.device("meta"):
        model = family.build(vocab_size=500, hidden_size=256, intermediate_size=700)
    matrices = sum(each.numel() for each in model.parameters() if each.ndim == 2)
    shape = of_config(model.config.to_dict(), family.name)
    assert shape.parameters - shape.norms == matrices


def test_a_published_gemma_s_head_is_its_embedding_though_its_config_does_not_say():
    from transformers import GemmaConfig

    config = GemmaConfig().to_dict()
    expected = of_config(config, "as transformers reads it")
    del config["tie_word_embeddings"]
    assert of_config(config, "as the hub has it") == expected and expected.tied


def test_a_text_config_that_is_no_object_is_named():
    with pytest.raises(UserError, match=r"mine: text_config = \[\]: must be an object"):
        of_config({"model_type": "llava", "text_config": []}, "mine")


def write_gguf(path: Path, intermediate: int | None) -> Path:
    """The header of a small Llama, and its embedding and head."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(SMALL.layers)
    writer.add_embedding_length(SMALL.hidden)
    writer.add_head_count(SMALL.heads)
    writer.add_head_count_kv(SMALL.kv_heads)
    if intermediate:
        writer.add_feed_forward_length(intermediate)
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor(name, np.zeros((SMALL.vocabulary, SMALL.hidden), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def of_gguf(path: Path) -> Architecture:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    raw["models"]["tiny"]["source"] = {"kind": "gguf", "path": str(path)}
    return architecture_of("tiny", load_config(raw).models["tiny"])


def test_the_shape_of_a_gguf_is_in_its_header(tmp_path):
    assert of_gguf(write_gguf(tmp_path / "small.gguf", SMALL.intermediate)) == SMALL


def test_a_gguf_that_lacks_a_part_of_its_shape_is_refused_with_the_key(tmp_path):
    with pytest.raises(UserError, match=r"models\.tiny: .* has no key llama\.feed_forward_length"):
        of_gguf(write_gguf(tmp_path / "small.gguf", None))
    (tmp_path / "text.gguf").write_text("no model, but a text that is longer than a header")
    with pytest.raises(UserError, match=r"text\.gguf: not a readable GGUF file"):
        of_gguf(tmp_path / "text.gguf")


# --- FLOPs ----------------------------------------------------------------------------------


def test_a_pass_takes_the_flops_that_torch_counts():
    """Torch counts all pairs of tokens, a causal kernel computes half of them."""
    model, tokens = llama(SMALL, "eager"), torch.zeros(1, TOKENS, dtype=torch.long)
    whole = 2 * cost.attention(SMALL, TOKENS)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        token_losses(model, tokens)
    ours = cost.forward(SMALL, TOKENS).total - cost.attention(SMALL, TOKENS) + whole
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.002)
    with FlopCounterMode(display=False) as counter:
        token_losses(model, tokens).sum().backward()
    training = cost.training(SMALL, TOKENS, recompute=False).total
    ours = training - 3.5 * cost.attention(SMALL, TOKENS) + 3 * whole
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.002)


def test_activation_checkpointing_is_one_forward_pass_of_the_body_more():
    again = cost.training(LLAMA2, 4096, recompute=True)
    once = cost.training(LLAMA2, 4096, recompute=False)
    assert again == once + cost.read_off(LLAMA2, 4096)


# --- memory ---------------------------------------------------------------------------------


def test_a_cache_of_256k_tokens_has_the_published_size():
    assert cost.kv_cache(LLAMA2, 1 << 18, 2) == 128 * GIB
    assert cost.kv_cache(MISTRAL, 1 << 18, 2) == 32 * GIB


LORA = Lora(rank=4)
KINDS = [(None, False), (LORA, True), (LORA, False)]  # whether frozen matrices are in bfloat16


def to_train(shape: Architecture, layers: int, lora: Lora | None, half: bool, recomputed: bool):
    """A model as the stage tunes it."""
    model = llama(shape, layers=layers)
    if lora:
        pytest.importorskip("peft")
        add_lora(model, lora, seed=1)
    if half:
        hold_in_bfloat16(model)
    if recomputed:
        recompute(model)
    prepare(model)
    return model.train()


@pytest.fixture(params=["whole", "in pieces"])
def pieces(request, monkeypatch):
    """Sequences as they are, and as if so few tokens went through norms, MLPs and head at a time as
    of a very long one."""
    if request.param == "in pieces":
        for module in ("longrope.pieces", "longrope.plan.cost"):
            monkeypatch.setattr(f"{module}.rows_of", lambda *_: 256)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("lora", "half"), KINDS)
@pytest.mark.parametrize("recomputed", [False, True])
def test_a_layer_keeps_what_torch_keeps_of_it(autocast, lora, half, recomputed, pieces):
    if half and not autocast:
        pytest.skip("held in bfloat16 only where it runs in it")

    def kept(layers: int) -> int:
        model, sizes = to_train(SMALL, layers, lora, half, recomputed), {}
        own = {each.untyped_storage()._cdata for each in model.parameters()}

        def note(tensor):
            storage = tensor.untyped_storage()
            weight = (
                max(tensor.shape, default=0) < 255
            )  # lowered by autocast, counted with the weights
            if storage._cdata not in own and not weight:
                sizes[storage._cdata] = storage.nbytes(), tensor  # held, so that none is twice
            return tensor

        lowered = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
        with lowered, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            token_losses(model, torch.zeros(1, TOKENS, dtype=torch.long)).sum()
        return sum(size for size, _ in sizes.values())

    width = 2 if autocast else 4
    whole = cost.kept(SMALL, TOKENS, width, recompute=recomputed, lora=lora)
    assert kept(3) - kept(2) == pytest.approx(whole / SMALL.layers, rel=0.01)


class Alive(TorchDispatchMode):
    """The most bytes that tensors had at a time, apart from views of weights."""

    def __init__(self, model) -> None:
        super().__init__()
        self.own = {each.untyped_storage()._cdata for each in model.parameters()}
        self.sizes, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **options or {})
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor):
                self._note(each.untyped_storage())
        return out

    def _note(self, storage) -> None:
        place = storage._cdata
        if place not in self.own and place not in self.sizes:
            self.sizes[place] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, place)

    def _gone(self, place) -> None:
        self.now -= self.sizes.pop(place)


@pytest.mark.parametrize("intermediate", [16, 176, 512])
def test_a_pass_without_gradients_holds_what_is_planned(intermediate):
    shape = Architecture(2, 64, 4, 4, 16, intermediate, 32, False)
    model, tokens = llama(shape), torch.zeros(1, TOKENS, dtype=torch.long)
    prepare(model)
    with torch.no_grad():
        token_losses(model, tokens)  # what is made once
        with Alive(model) as alive:
            token_losses(model, tokens)
    assert alive.peak == pytest.approx(cost.passing(shape, TOKENS, 4), rel=0.05)


GROUPED = Architecture(3, 64, 8, 2, 16, 96, 32, False)
WIDE = Architecture(3, 64, 4, 4, 16, 176, 32, False)


@pytest.mark.parametrize(
    ("shape", "recomputed", "pieces"),
    [
        (WIDE, False, "whole"),
        (WIDE, True, "in pieces"),
        (GROUPED, True, "whole"),
        (GROUPED, False, "in pieces"),
    ],
    indirect=["pieces"],
)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("lora", "half"), KINDS)
def test_a_training_step_holds_what_is_planned(shape, autocast, lora, half, recomputed, pieces):
    """Two sequences, one at a time: gradients are there when the second runs."""
    if half and not autocast:
        pytest.skip("held in bfloat16 only where it runs in it")
    model = to_train(shape, shape.layers, lora, half, recomputed)
    tokens = torch.zeros(1, TOKENS, dtype=torch.long)

    def step() -> None:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = token_losses(model, tokens).sum()
            loss.backward()

    step()  # what is made once
    model.zero_grad()
    with Alive(model) as alive:
        step()
    options = {"recompute": recomputed, "lora": lora}
    width = 2 if autocast else 4
    weights = sum(each.nbytes for each in model.parameters())
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    planned = cost.training_memory(shape, TOKENS, width, **options, stored=2 if half else 4)
    moments = 8 * trained  # AdamW's, which no optimiser has made here
    assert weights + moments + alive.peak == pytest.approx(planned, rel=0.08)


@pytest.mark.parametrize("train", [[], ["norms"], ["norms", "embeddings"]])
def test_with_lora_the_weights_that_train_are_those_of_peft(train):
    pytest.importorskip("peft")
    model, lora = llama(SMALL), Lora(rank=4, train=train)
    add_lora(model, lora, seed=1)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert sum(cost.lora_weights(SMALL, lora)) == trained


# --- the paper ------------------------------------------------------------------------------


def test_one_perplexity_at_2048k_takes_about_the_paper_s_fifty_minutes():
    flops = cost.forward(LLAMA2, 1 << 21)
    assert flops.total / 400e12 / 60 == pytest.approx(50, rel=0.05)  # at the rate of one H100


def test_the_plan_names_what_the_paper_cannot_mean(paper, gpu):
    estimates = estimate_study(paper, gpu)
    found = beside_paper(paper, estimates, gpu)
    implied = {(each.stated.says, each.model, each.weights): each.utilisation for each in found}
    assert len(implied) == 10 and len(found) == 12  # one statement is of 128k and of 256k
    problems = "\n".join(disagreements(found))
    assert "search at 256k: 1.4e+20 FLOPs in 3 days on 1 A100 are 178% of their peak" in problems
    assert "576 perplexities of 50 minutes are 20.0 days" in problems
    assert "within 5 days, which holds 144 of them" in problems


def test_other_tunings_of_the_study_are_not_held_against_the_paper_s_times(paper, gpu):
    estimates = estimate_study(paper, gpu, "study")
    tuned = [each for each in beside_paper(paper, estimates, gpu) if "steps" in each.stated.says]
    assert [(each.model, each.weights) for each in tuned] == [
        ("llama2-7b", "longrope-128k"),
        ("llama2-7b", "longrope-256k"),
        ("mistral-7b", "longrope-128k"),
        ("mistral-7b", "longrope-256k"),
    ]


def test_a_study_without_the_paper_s_models_says_nothing_of_it(default):
    text, _ = plan(default, find_machine("h200"))
    assert "the paper" not in text and "In all 99 jobs" in text


# --- jobs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["all", "study"])
def test_every_job_of_the_workflow_is_planned_once(default, target, tmp_path):
    for name in ("resources", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(tmp_path), "--summary", target]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    header = next(line for line in lines if line[0] == "output_file")
    made = {line[0]: line[header.index("rule")] for line in lines if len(line) == len(header)}
    del made["output_file"]
    jobs = jobs_of(default, target)
    assert {job.output: job.rule for job in jobs}.items() <= made.items()
    assert len({job.output for job in jobs}) == len(jobs)
    # What is left are the other outputs of the same jobs.
    others = {job_that_makes(default, path).output for path in made}
    assert others == {job.output for job in jobs}


@pytest.mark.parametrize(
    "golden", sorted((ROOT / "tests/data/dags").glob("*.txt")), ids=lambda path: path.stem
)
def test_as_many_jobs_are_planned_as_a_dry_run_of_every_configuration_has(golden):
    jobs = jobs_of(configured(f"{golden.stem}.yaml"), "study")
    assert len(jobs) == len(golden.read_text().splitlines())


def test_a_job_comes_after_those_that_it_needs(default):
    done = set()
    for job in jobs_of(default, "study"):
        assert {job_that_makes(default, each).output for each in job.inputs} <= done
        done.add(job.output)


def test_a_search_is_counted_as_it_is_scored(default):
    """25 evaluations of 5 documents, each with 8 needles, 2,048 tokens."""
    machine = find_machine("cpu", flops=1e11)
    found = {each.job.output: each.work for each in estimate_study(default, machine)}
    work = found["results/tiny/base/factors/search/2k/factors.json"]
    assert work.tokens == 25 * 5 * 9 * 2048
    tuned = found["results/tiny/longrope-2k/model"]
    assert tuned.tokens == 40 * 2 * 2048


def test_windows_are_counted_as_they_slide(default):
    machine = find_machine("cpu", flops=1e11)
    found = {each.job.output: each.work for each in estimate_study(default, machine)}
    work = found["results/tiny/base/evaluation/novels/none.json"]  # one document, stride 256
    windows = {256: 20, 1024: 10, 2048: 5, 4096: 2}
    passes = {size: len(slide(10**6, size, count, 256)) for size, count in windows.items()}
    assert work.tokens == sum(size * count for size, count in passes.items())


# --- machines and errors --------------------------------------------------------------------


def test_a_core_is_timed_where_its_rate_is_not_given():
    machine = find_machine("cpu")
    assert machine.flops > 1e9 and machine.memory > GIB
    assert find_machine("cpu", memory=2, flops=1e9).memory == 2 * GIB


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a100"}, "unknown GPU 'a100': known are a100-40gb, a100-80gb, cpu,"),
        ({"name": "h200", "utilisation": 1.4}, "utilisation 1.4: it is a share"),
        ({"name": "h200", "gpus": 0}, "gpus 0: a job has at least 1"),
        ({"name": "h200", "memory": -1.0}, "memory (GiB) and flops (a second) are numbers above 0"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(options, message):
    with pytest.raises(UserError) as error:
        find_machine(**options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "hub", "name": "nobody/nothing"}, "`hf download nobody/nothing config.json`"),
        ({"kind": "folder", "path": "nowhere"}, "models.tiny: nowhere/config.json is not there"),
        ({"kind": "gguf", "path": "no.gguf"}, "models.tiny: no.gguf is not there"),
    ],
)
def test_a_model_of_unknown_size_is_refused(source, message, gpu):
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    raw["models"]["tiny"]["source"] = source
    with pytest.raises(UserError) as error:
        estimate_study(load_config(raw), gpu)
    assert message in str(error.value)


def test_a_plan_that_does_not_fit_says_which_jobs_and_what_helps(paper, gpu):
    estimates = estimate_study(paper, gpu)
    with pytest.raises(UserError) as error:
        check_fits(estimates, gpu)
    text = str(error.value)
    assert "a100-80gb has 80.0 GiB, of which 72.0 can be used, and a job may have 1" in text
    assert "search at 2048k, 192 x 3 takes" in text and "jobs more" in text
    check_fits(estimates, find_machine("a100-80gb", gpus=5))
    with pytest.raises(UserError, match="gpus = 'many'"):
        check_study(paper, "a100-80gb", "many")


def test_a_tuning_is_judged_as_it_is_configured_and_told_what_makes_it_fit():
    raw = yaml.safe_load((ROOT / "config/one-gpu.yaml").read_text())
    tuning = raw["models"]["qwen3-1.7b"]["tunings"]["longrope-128k"]
    card = find_machine("h100-80gb")
    check_fits(estimate_study(load_config(raw), card), card)
    tuning["checkpointing"] = False
    with pytest.raises(UserError) as error:
        check_fits(estimate_study(load_config(raw), card), card)
    key = "models.qwen3-1.7b.tunings.longrope-128k"
    assert f"these fit with `checkpointing: true`: {key}\n" in str(error.value)


def test_searches_hold_the_weights_whole_on_every_gpu(paper, gpu):
    (each,) = [
        each
        for each in estimate_study(paper, gpu)
        if (each.job.rule, each.job.model, each.job.window)
        == ("search_factors", "llama2-7b", 1 << 21)
    ]
    weights = 2 * LLAMA2.parameters
    rest = each.work.memory - weights
    assert weights + rest / each.gpus < gpu.usable < weights + rest / (each.gpus - 1)
    small = find_machine("a100-80gb", memory=weights / GIB)
    with pytest.raises(UserError, match="so no number of them holds it"):
        check_fits(estimate_study(paper, small), small)


def test_a_passkey_has_a_cache_up_to_256k_in_one_process_alone(default):
    raw = default.model_dump(mode="json")
    machine = find_machine("cpu", flops=1e11)

    def work(length: int):
        asked = raw["models"]["tiny"]["evaluation"]["passkey"]
        asked["prompts"], asked["methods"] = {str(length): 1}, {"base": {"yarn": length}}
        found = estimate_study(load_config(raw), machine)
        return next(each.work for each in found if each.job.evaluation == "passkey")

    shape = architecture_of("tiny", default.models["tiny"])
    cached, longer = work(1 << 18), work(1 << 19)
    assert cached.memory - cached.over.on(1) == cost.kv_cache(shape, 1 << 18, 4)
    assert longer.memory == longer.over.on(1)
    assert longer.computed == cost.read_off(shape, 1 << 19)


def test_attention_has_a_rate_of_its_own_but_where_one_is_given():
    flops = cost.Flops(1e15, 2e15)
    h100 = find_machine("h100-80gb")
    assert h100.seconds(flops, 2) == pytest.approx((1 / 0.4 + 2 / 0.3) / 2 / 0.989)
    given = find_machine("h100-80gb", utilisation=0.25)
    assert given.seconds(flops) == pytest.approx(3 / 0.25 / 0.989)


# --- commands -------------------------------------------------------------------------------


def test_the_command_prints_writes_and_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "plan.txt"
    plain = ["plan", "--config", "config/config.yaml", "--gpu", "a100-80gb", "--out", str(out)]
    assert main(plain) == 0
    assert capsys.readouterr().out == out.read_text()
    assert main([*plain, "--check"]) == 0
    assert main([*plain, "--check", "--memory", "0.1"]) == 1
    assert "longrope plan: the plan does not fit" in capsys.readouterr().err
    assert main(["plan", "--config", "nowhere.yaml", "--gpu", "cpu"]) == 1
    assert "nowhere.yaml: no such file" in capsys.readouterr().err


def test_where_there_is_no_gpu_a_plan_counts_cores(default):
    text, _ = plan(default, find_machine("cpu", flops=1e11))
    assert "core-hours" in text and " 1 core at a time" in text and "GPU" not in text


def test_a_plan_says_what_the_cores_at_hand_take_and_at_which_rate(default, monkeypatch):
    monkeypatch.setattr("longrope.plan.report.own_cores", lambda: 2)
    text, estimates = plan(default, find_machine("cpu", flops=1e11))
    alone = sum(each.hours for each in estimates)
    (said,) = re.findall(r"On 2 cores, .*: ([\d.]+) min\. One .*\n100 GFLOP/s", text)
    assert alone / 2 * 0.99 < float(said) / 60 < alone * 0.75


def test_a_workflow_that_does_not_fit_the_stated_gpu_does_not_start(tmp_path):
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    config = ROOT / "config/config.yaml"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n"]
    command += ["--directory", str(tmp_path), "--configfile", str(config), "--config"]

    def run(*stated: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *stated], capture_output=True, text=True, cwd=ROOT)

    assert run("gpu=rtx-4090").returncode == 0
    refused = run("gpu=rtx-4090", "gpu_memory=0.1")
    assert refused.returncode == 1 and "the plan does not fit" in refused.stdout
    assert "unknown GPU 'abacus'" in run("gpu=abacus").stdout


def test_a_plan_is_made_without_loading_torch():
    code = """
import sys
from longrope.cli import main
main(["plan", "--config", "config/paper.yaml", "--gpu", "h200"])
sys.exit(" ".join({"torch", "transformers", "datasets"} & set(sys.modules)) or 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")


def test_settings_as_json_give_the_same_plan(default, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    text, _ = plan(default, find_machine("h200"))
    main(["plan", "--settings", json.dumps(default.model_dump(mode="json")), "--gpu", "h200"])
    assert capsys.readouterr().out == text


def test_a_core_is_as_fast_as_its_best_product_whatever_interrupts_the_others():
    took = iter([0.0, 9.0, 9.0, 9.5, 20.0, 27.0])  # three products of 9, 0.5 and 7 s
    assert measured_flops(8, 3, clock=lambda: next(took)) == 2 * 8**3 / 0.5


def test_the_clock_of_the_measurement_stands_still_while_others_have_the_core():
    clock = inspect.signature(measured_flops).parameters["clock"].default
    before = clock()
    time.sleep(0.2)
    assert clock() - before < 0.1


def test_as_many_prompts_are_counted_together_as_run(default, monkeypatch):
    """Of an evaluation whose batches of short prompts are as large as they may be."""
    machine = find_machine("cpu", flops=1e11)
    shape = architecture_of("tiny", default.models["tiny"])
    for together in (1 << 14, 1 << 15):
        monkeypatch.setitem(portions.BATCH_TOKENS, "passkey", together)
        found = {each.job.output: each.work for each in estimate_study(default, machine)}
        work = found["results/tiny/base/evaluation/passkey/none.json"]
        assert work.memory == cost.inference_memory(shape, together, 4, together) + PROCESS


def test_a_passkey_has_about_the_tokens_that_are_counted_for_it():
    tokenizer = load_tokenizer(ROOT / "resources/models/tiny")
    written = PasskeyWriter(tokenizer).write(256, "12345", np.random.default_rng(1))
    assert abs(len(written.answer) - portions.ANSWER_TOKENS["passkey"]) <= 1


def test_as_many_questions_are_counted_as_are_published():
    published = {name: asked.whole for name, asked in questions.ASKED.items()}
    assert published == {name: each.whole for name, each in SOURCES.items()}
