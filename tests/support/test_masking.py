"""No secret of a configuration is written into a run's folder."""

import json
import logging

import pytest
from omegaconf import OmegaConf

from algorithms.common.support.secrets import MASK, LogFilter, Mask, is_secret
from benchmarks.report import collect
from command_line import composed, invoke

SECRET, PASSPHRASE = "hf_Zx81QqLm", "correct horse"


@pytest.mark.parametrize("key", ["key", "api_key", "apiKey", "APIKEY", "token", "hf_token", "HF_TOKEN", "access-token",
                                 "password",
                                 "db.passwd", "client_secret", "credentials", "auth_keys", "Authorization"])
def test_names_of_secrets(key):
    assert is_secret(key)


@pytest.mark.parametrize("key", ["max_new_tokens", "min_new_tokens", "tokens", "tokenizer", "tokenize", "lora", "keep",
                                 "monkey",
                                 "keyboard", "secretary", "name", "value", "algorithm", ""])
def test_names_of_nothing_secret(key):
    assert not is_secret(key)


def test_the_default_config_has_no_secret():
    config = composed()
    mask = Mask(config)
    assert mask.config == OmegaConf.to_container(config, resolve=True) and not mask.values


def test_a_secret_is_masked_by_its_name_by_its_origin_and_wherever_it_is_repeated(monkeypatch):
    monkeypatch.setenv("PLANTED", SECRET)
    config = OmegaConf.create({
        "data": {"token": PASSPHRASE, "max_new_tokens": 5, "url": "https://user:${data.token}@host",
                 "pin": {"secret": 1234}},
        "origin": "${oc.env:PLANTED}", "again": "${origin}", "list": ["a", "${oc.env:PLANTED}/x"],
        "fallback": "${oc.env:NO_SUCH_VARIABLE,default-value}", "gone": "${oc.env:NO_SUCH_VARIABLE}", "open": "???",
        "credentials": {"user": "me", "empty": None}, "limit": float("nan"), "nothing": None,
    })
    assert Mask(config).config == {
        "data": {"token": MASK, "max_new_tokens": 5, "url": f"https://user:{MASK}@host", "pin": {"secret": MASK}},
        "origin": MASK, "again": MASK, "list": ["a", MASK], "fallback": MASK, "gone": MASK, "open": "???",
        "credentials": {"user": MASK, "empty": None}, "limit": "nan", "nothing": None,
    }
    raw = OmegaConf.to_container(config, resolve=False)
    assert raw["origin"] == "${oc.env:PLANTED}", "the config itself is as it was"


@pytest.mark.parametrize("item, masked", [
    ("data.token=abc", "data.token=***"), ("+data.api_key=a,b", "+data.api_key=***"),
    ("algorithm=dpo", "algorithm=dpo"),
    ("data.path=x/hf_Zx81QqLm/y", "data.path=x/***/y"),
    ("eval.sampling.max_new_tokens=8", "eval.sampling.max_new_tokens=8"),
    ("hydra.job.env_set.HF_TOKEN=abc", "hydra.job.env_set.HF_TOKEN=***"),
])
def test_overrides_are_masked(item, masked):
    assert Mask(OmegaConf.create({"token": SECRET})).override(item) == masked


def test_short_values_are_not_hunted_for():
    mask = Mask(OmegaConf.create({"token": "abc"}))
    assert mask.config == {"token": MASK} and mask.text("abcdef") == "abcdef"


def test_log_messages_and_tracebacks_are_masked(caplog):
    log = logging.getLogger("planted")
    caplog.handler.addFilter(LogFilter(Mask(OmegaConf.create({"token": SECRET}))))
    try:
        try:
            raise ValueError(f"bad {SECRET}")
        except ValueError:
            log.error("it was %s", SECRET, exc_info=True)
    finally:
        caplog.handler.filters.clear()
    assert SECRET not in caplog.text and "it was ***" in caplog.text and "ValueError: bad ***" in caplog.text


def files_with(folder, text):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.relative_to(folder).as_posix() for path in files if text.encode() in path.read_bytes()]


def write_pairs(path):
    rows = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Arguments of an inspection whose data lies in a folder named by a secret of the environment."""
    monkeypatch.setenv("PLANTED", SECRET)
    (tmp_path / SECRET).mkdir()
    write_pairs(tmp_path / SECRET / "pairs.jsonl")
    return ["task=inspect", "data=file", f"data.path={tmp_path}/${{oc.env:PLANTED}}/pairs.jsonl",
            f"+hydra.job.env_set.API_TOKEN={PASSPHRASE.replace(' ', '')}", f"stages.folder={tmp_path}/stages"]


def test_an_inspection_leaves_no_secret_behind(tmp_path, planted):
    out = tmp_path / "run"
    ended = invoke(*planted, f"hydra.run.dir={out}")
    assert ended.status == 0 and (out / "data.json").is_file()
    assert not files_with(out, SECRET) and not files_with(out, PASSPHRASE.replace(" ", ""))
    config = OmegaConf.to_container(OmegaConf.load(out / ".hydra/config.yaml"), resolve=False)
    assert config["data"]["path"] == MASK
    assert config["eval"]["sampling"]["max_new_tokens"] == 56, "nothing else is masked"
    hydra = OmegaConf.to_container(OmegaConf.load(out / ".hydra/hydra.yaml"), resolve=False)["hydra"]
    assert hydra["runtime"]["choices"]["task"] == "inspect"
    assert f"stages.folder={tmp_path}/stages" in hydra["overrides"]["task"]
    assert hydra["job"]["env_set"] == {"API_TOKEN": MASK}
    overrides = OmegaConf.load(out / ".hydra/overrides.yaml")
    assert "task=inspect" in overrides and f"data.path={MASK}" in overrides


def test_a_sweep_leaves_no_secret_behind_and_its_failed_jobs_are_still_found(tmp_path, planted):
    out = tmp_path / "sweep"
    ended = invoke("-m", *planted, f"hydra.sweep.dir={out}", "seed=0,x")
    assert ended.status == 1, ended.err
    assert not files_with(out, SECRET) and not files_with(out, PASSPHRASE.replace(" ", ""))
    assert (out / "multirun.yaml").is_file() and (out / "0" / "data.json").is_file()
    (failed,) = collect([out])
    assert failed.status == "failed" and "seed: found 'x'" in failed.error and failed.overrides["task"] == "inspect"


@pytest.mark.slow
def test_a_sweep_that_does_not_compose_leaves_no_secret_behind(tmp_path, planted):
    """Run in a process of its own: the last file is masked when the process ends."""
    from command_line import ROOT, run_python

    out = tmp_path / "sweep"
    ended = run_python(str(ROOT / "run.py"), "-m", *planted, f"hydra.sweep.dir={out}", "algorithm=dpo,dppo")
    assert ended.status == 2 and ended.err.startswith("algorithm: found 'dppo'")
    assert (out / "multirun.yaml").is_file() and not files_with(out, SECRET)
    assert not files_with(out, PASSPHRASE.replace(" ", ""))
