"""A chat template goes with a model from its source to every export, and so do further ones."""

import json
import shutil

import gguf
import pytest
from transformers import AutoTokenizer

from exports import export, tiers_for, write_tiers
from helpers import ROOT
from longrope.config import FolderModel
from longrope.files import read_json
from longrope.models.checkpoint import load_model, load_tokenizer, save_model
from longrope.models.import_model import import_model

CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
TEMPLATES = {"default": CHAT, "tool_use": f"<tools>{CHAT}"}
MESSAGES = [{"role": "user", "content": "Who?"}]


@pytest.fixture(scope="module", params=[CHAT, TEMPLATES], ids=["one", "several"])
def tuned(request, tmp_path_factory):
    """The carried model, made a chat model and tuned: its templates, checkpoint and tiers."""
    place = tmp_path_factory.mktemp("chat")
    shutil.copytree(ROOT / "resources/models/tiny", place / "source")
    tokenizer = load_tokenizer(place / "source")
    tokenizer.chat_template = request.param
    tokenizer.model_max_length = 256
    tokenizer.save_pretrained(place / "source")
    (place / "source/generation_config.json").write_text(json.dumps({"max_length": 256}))
    (place / "source/LICENSE").write_text("as you like")
    source = FolderModel(kind="folder", path=str(place / "source"))
    record = import_model(source, "chat", 256, place / "base")
    tiers = tiers_for(record.rope)
    base = load_tokenizer(place / "base")
    save_model(load_model(place / "base"), base, place / "tuned", record.tuned_as("t"), "float32",
               tiers.longest, place / "base")  # fmt: skip
    return request.param, place / "tuned", write_tiers(place / "tiers", place / "tuned", tiers)


@pytest.mark.parametrize("form", ["native", "full"])
def test_templates_and_licence_are_in_an_export(tuned, form, tmp_path):
    templates, model, tiers = tuned
    export(model, tiers, tmp_path / "out", form)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == templates
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    assert text == "<user>Who?<assistant>"
    assert (tmp_path / "out/LICENSE").read_text() == "as you like"


def test_no_limit_of_tokenizer_or_generation_is_below_the_window_of_an_export(tuned, tmp_path):
    _, model, tiers = tuned
    base = model.parent / "base"
    assert read_json(base / "generation_config.json")["max_length"] == 256
    export(base, tiers, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 1024
    assert read_json(tmp_path / "out/generation_config.json")["max_length"] == 1024
    assert AutoTokenizer.from_pretrained(base).model_max_length == 256  # the study is as it was


def test_templates_are_in_a_gguf_export(tuned, tmp_path):
    templates, model, tiers = tuned
    export(model, tiers, tmp_path / "out", "gguf")
    fields = gguf.GGUFReader(tmp_path / "out/model.gguf").fields
    found = {key: fields[key].contents() for key in fields if "chat_template" in key}
    assert found.pop("tokenizer.chat_template") == CHAT
    if templates == TEMPLATES:
        assert found["tokenizer.chat_template.tool_use"] == TEMPLATES["tool_use"]
    else:
        assert not found
