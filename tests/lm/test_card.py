"""Model cards, and what they promise: the folder of a run is an ordinary model, and the code on its card runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from rhtool.checkpoints import content_hash
from rhtool.config import compose
from rhtool.identity import fingerprint
from rhtool.models import SAVED, Lora, Model

pytest.importorskip("trl")
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rhtool.lm import card, loading, text

pytestmark = pytest.mark.lm
TOY = [f"data.{name}=32" for name in ("n_prompts", "n_demonstrations", "n_preferences", "n_validation")]
LINES = {
    "sft": ["task=sft", "model.width=32", "model.heads=2", "task.passes=1"],
    "rm": ["task=rm_train", "model.path=outputs/sft", "task.passes=1"],
    "ppo": [
        "task=rlhf_ppo",
        "model.path=outputs/sft",
        "reward=rm",
        "reward.model=outputs/rm",
        "divergence=kl",
        "coeff=0.1",
    ],
}
LINES["ppo"] += ["task.rollouts=8", "task.minibatch=8", "task.max_new_tokens=4", "task.max_prompt=64", "model.lora.r=2"]
LINES["ppo"] += ["task.iterations=1", "task.eval_prompts=8", "model.lora.targets=[query_key_value]"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory below which there are runs of the three tasks, each from the ones before."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, line in LINES.items():
            words = [word if "outputs/rm" not in word else f"reward.model={root}/outputs/rm" for word in line]
            compose("data=toy", *TOY, *words, f"dir=outputs/{name}", "seed=7").execute()
    return root


def of(made: Path, name: str) -> tuple[dict, str]:
    return card.parsed((made / "outputs" / name / SAVED / card.CARD).read_text())


@pytest.mark.parametrize("name", LINES)
def test_a_card_says_what_the_run_says(made, name):
    keys, body = of(made, name)
    assert keys["library_name"] == "transformers" and {"rhtool", LINES[name][0].removeprefix("task=")} <= {
        *keys["tags"]
    }
    assert re.search(r"\| seed +\| 7 ", body) and re.search(r"\| data +\| toy ", body)
    result = json.loads((made / "outputs" / name / "result.json").read_text())["metrics"]
    cells = dict(re.findall(r"^\| `([\w/]+)` +\| +(\S+)", body, re.MULTILINE))
    assert {*cells} == {key for key in result if not key.startswith("base/")}
    for key, shown in cells.items():
        assert (shown == "-") if result[key] is None else float(shown) == pytest.approx(result[key], rel=1e-3)
    if name == "ppo":
        assert (
            re.search(r"\| divergence +\| kl, coeff 0.1 ", body)
            and "- `adapter/`" in body
            and "- `value_head/`" in body
        )
    assert f"dir=outputs/{name}" in body and str(made) not in body and str(Path.home()) not in body


def test_its_code_runs_and_scores_as_the_run_did(made, monkeypatch, capsys):
    for name in LINES:
        _, body = of(made, name)
        code = re.search(r"```python\n(.*?)```", body, re.DOTALL)[1]
        monkeypatch.chdir(made)
        capsys.readouterr()
        exec(compile(code.replace(card.NAME, f"outputs/{name}/{SAVED}"), "card", "exec"), scope := {})
        if name == "rm":
            said = float(re.search(r"tensor\((-?[\d.e-]+)", capsys.readouterr().out)[1])
            scores = compose("data=toy", "reward=rm", "reward.model=outputs/rm").reward.load()
            ours = scores([{"prompt": [{"role": "user", "content": "..."}]}], ["..."], [True])
            assert said == pytest.approx(float(ours), abs=1e-4)
        assert isinstance(scope["model"], torch.nn.Module)


def test_a_folder_loads_whole_and_the_value_head_confuses_nobody(made):
    for name, auto in (
        ("ppo", AutoModelForCausalLM),
        ("sft", AutoModelForCausalLM),
        ("rm", AutoModelForSequenceClassification),
    ):
        folder = made / "outputs" / name / SAVED
        plain, info = auto.from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert [file.name for file in folder.glob("*.safetensors")] == ["model.safetensors"]
        assert plain.config.use_cache and AutoTokenizer.from_pretrained(folder).chat_template
    assert (made / "outputs" / "ppo" / SAVED / "value_head" / "model.safetensors").is_file()


def test_adapters_of_a_policy_load_in_plain_peft_and_give_the_merged_model(made):
    from peft import PeftModel

    folder = made / "outputs" / "ppo" / SAVED
    base = AutoModelForCausalLM.from_pretrained(made / "outputs" / "sft" / SAVED)
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        before = base(ids).logits.clone()
        adapted = PeftModel.from_pretrained(base, folder / "adapter")(ids).logits
        torch.testing.assert_close(
            AutoModelForCausalLM.from_pretrained(folder)(ids).logits, adapted, atol=1e-5, rtol=1e-4
        )
    assert not torch.equal(adapted, before)
    assert not (folder / "adapter" / card.CARD).exists() and not (made / "outputs" / "sft" / SAVED / "adapter").exists()


def test_adapters_of_a_reward_model_bring_their_score_head(made, tmp_path):
    from peft import PeftModel

    source = str(made / "outputs" / "sft" / SAVED)
    tokenizer = text.tokenizer_at(source)
    model = loading.reward_model(Model(path=source, lora=Lora(r=2)), tokenizer, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    loading.save(model, tokenizer, tmp_path)
    base = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
    ids = torch.arange(5, 20).unsqueeze(0)
    with torch.no_grad():
        expected = AutoModelForSequenceClassification.from_pretrained(tmp_path)(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")(ids).logits
    torch.testing.assert_close(adapted, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("template", [file.stem for file in sorted(text.TEMPLATES.glob("*.jinja"))])
def test_the_text_that_the_card_scores_is_the_one_that_was_trained_on(made, template):
    tokenizer = text.tokenizer_at(str(made / "outputs" / "rm" / SAVED), template)
    talk, form = [{"role": "user", "content": "say cat"}], text.Format(tokenizer, 64)
    assert form.answer(talk, "cat") == "cat" + tokenizer.eos_token


def test_a_card_is_no_part_of_what_the_model_is(made, monkeypatch):
    monkeypatch.chdir(made)
    folder = made / "outputs" / "sft" / SAVED
    before, run = content_hash(folder), compose("data=toy", *TOY, *LINES["rm"], "dir=outputs/rm", "seed=7")
    identity = fingerprint(run)
    file = folder / card.CARD
    whole = file.read_text()
    file.write_text(whole + "\nMore.\n")
    assert content_hash(folder) == before and fingerprint(run) == identity
    (folder / "more.json").write_text("{}")
    assert content_hash(folder) != before
    (folder / "more.json").unlink()
    file.write_text(whole)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("model.path=/home/alice/outputs/sft/seed=0", "model.path=outputs/sft/seed=0"),
        ("reward.models=[/a/b/c,outputs/x]", "reward.models=[…/c,outputs/x]"),
        ("data.path=~/mine/d", "data.path=…/d"),
        ("reward.options={api_key: abc}", "reward.options={api_key:…"),
        ("reward.options.token=abc", "reward.options.token=…"),
        ("task.max_new_tokens=24", "task.max_new_tokens=24"),
        ("model.path=tlc4418/pythia_70m_sft", "model.path=tlc4418/pythia_70m_sft"),
    ],
)
def test_what_others_should_not_see(word, shown):
    assert card.public(word) == shown


def test_the_hub_model_that_a_chain_of_runs_comes_from(tmp_path):
    assert card.ancestor("EleutherAI/pythia-70m") == "EleutherAI/pythia-70m" and card.ancestor("") is None
    (tmp_path / SAVED).mkdir()
    assert card.ancestor(str(tmp_path)) is None
    (tmp_path / SAVED / card.CARD).write_text(card.front({"base_model": "EleutherAI/pythia-70m"}) + "# it\n")
    assert card.ancestor(str(tmp_path)) == "EleutherAI/pythia-70m"
    assert card.parsed("no front matter") == ({}, "no front matter")
    assert yaml.safe_load(card.front({"a": 1, "b": None}).strip("-\n")) == {"a": 1}
