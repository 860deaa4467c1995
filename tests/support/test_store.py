"""The stage store: every stage built once, nothing half-written visible, every damage seen, every kill survived."""

import errno
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from algorithms.common.support import store as store_module
from algorithms.common.support.digests import content_hash, file_digest, folder_digest
from algorithms.common.support.errors import ConfigError, UserError
from algorithms.common.support.store import Store

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = {"algorithm": "sft", "lr": 5e-4, "inputs": ["a", "b"], "seed": 0}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "stages")


def write(target, work):
    """A builder of two files."""
    (target / "adapter.bin").write_bytes(b"weights")
    (target / "heads").mkdir()
    (target / "heads" / "value.bin").write_bytes(b"head")


def refuse(target, work):
    raise AssertionError("built although it was there")


def start(folder, body):
    """A process that runs `body`, which has a store and a description; it prints a line to say that it is ready."""
    code = f"""
import os, sys, time
from pathlib import Path
from algorithms.common.support.store import Store
assert "torch" not in sys.modules
store, description = Store({str(folder)!r}), {DESCRIPTION!r}
""" + textwrap.dedent(body)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def rest(store):
    """Names in the store's temporary rooms."""
    return [path.name for room in (".building", ".work") for path in (store.folder / room).iterdir()]


# Hashes and keys


def test_content_hash_is_sha256_of_canonical_json():
    assert content_hash({"b": [1, 2.5, None, True], "a": "é"}) == hashlib.sha256(
        b'{"a":"\\u00e9","b":[1,2.5,null,true]}').hexdigest()
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": "1"}) != content_hash({"a": True})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, Path("x"), b"x", object(), 1j, errno])
def test_what_is_no_json_has_no_key(store, value):
    with pytest.raises((TypeError, ValueError), match=r"\$\.description\.deep\[1\]"):
        store.key("sft", {"deep": [0, value]})


def test_keys_that_are_no_strings_are_refused(store):
    with pytest.raises(TypeError, match="key 1 is a int"):  # json.dumps would make it "1", the key of another dict
        store.key("sft", {"a": {1: "x"}})
    with pytest.raises(TypeError, match="expected a dict"):
        store.key("sft", [1])
    with pytest.raises(ValueError, match="kind"):
        store.key("../sft", {})


def test_key_depends_on_kind_description_and_version(store, monkeypatch):
    key = store.key("sft", DESCRIPTION)
    assert len(key) == 32 and set(key) <= set("0123456789abcdef")
    assert key == store.key("sft", dict(reversed(DESCRIPTION.items())))
    others = {store.key("dpo", DESCRIPTION), store.key("sft", {**DESCRIPTION, "seed": 1}),
              store.key("sft", {**DESCRIPTION, "kind": "dpo"}), store.key("sft", {**DESCRIPTION, "version": 2})}
    monkeypatch.setattr(store_module, "VERSION", 2)
    assert len(others | {key, store.key("sft", DESCRIPTION)}) == 6


def test_digests_of_files_and_folders(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "sub").mkdir(parents=True)
        (folder / "a").write_bytes(b"A")
        (folder / "sub" / "b").write_bytes(b"B")
    assert file_digest(one / "a") == hashlib.sha256(b"A").hexdigest()
    assert folder_digest(one) == folder_digest(two)
    os.utime(two / "a", (0, 0))
    (two / "a").unlink()
    (two / "a").symlink_to(one / "a")  # model caches are links into a folder of blobs
    assert folder_digest(one) == folder_digest(two)
    (two / "sub" / "b").rename(two / "b")
    assert folder_digest(one) != folder_digest(two)
    with pytest.raises(FileNotFoundError):
        folder_digest(tmp_path / "none")
    (one / "loop").symlink_to(one)
    with pytest.raises(ValueError, match="link to a folder"):
        folder_digest(one)


# An entry's life


def test_build_once_then_read(store):
    assert not store.has("sft", DESCRIPTION)
    entry = store.get("sft", DESCRIPTION, write)
    assert entry == store.folder / f"sft-{store.key('sft', DESCRIPTION)[:16]}"
    assert (entry / "heads" / "value.bin").read_bytes() == b"head"
    assert store.has("sft", DESCRIPTION) and rest(store) == []
    assert store.get("sft", DESCRIPTION, refuse) == entry
    assert Store(store.folder).get("sft", DESCRIPTION, refuse) == entry
    assert not store.has("sft", {**DESCRIPTION, "seed": 1})


def test_manifest_says_what_the_entry_is(store):
    manifest = json.loads((store.get("sft", DESCRIPTION, write) / "manifest.json").read_text())
    assert manifest["kind"] == "sft" and manifest["description"] == DESCRIPTION and manifest["version"] == 1
    assert manifest["files"] == {
        "adapter.bin": {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()},
        "heads/value.bin": {"size": 4, "sha256": hashlib.sha256(b"head").hexdigest()},
    }


def edit_manifest(entry, change):
    manifest = json.loads((entry / "manifest.json").read_text())
    change(manifest)
    (entry / "manifest.json").write_text(json.dumps(manifest))


def foreign(entry):
    other = Store(entry.parent).get("sft", {"other": 1}, write)
    (entry / "manifest.json").write_bytes((other / "manifest.json").read_bytes())


DAMAGES = {
    "truncated": (lambda entry: (entry / "adapter.bin").write_bytes(b"wei"), "3 bytes, its manifest says 7"),
    "edited": (lambda entry: (entry / "adapter.bin").write_bytes(b"Weights"), "another content"),
    "missing": (lambda entry: (entry / "heads" / "value.bin").unlink(), "heads/value.bin is missing"),
    "extra": (lambda entry: (entry / "heads" / "b").write_text(""), "heads/b is not in the manifest"),
    "linked": (lambda entry: (entry / "b").symlink_to("adapter.bin"), "a link"),
    "no manifest": (lambda entry: (entry / "manifest.json").unlink(), "manifest.json"),
    "cut manifest": (lambda entry: os.truncate(entry / "manifest.json", 50), "JSONDecodeError"),
    "empty manifest": (lambda entry: (entry / "manifest.json").write_text("[]"), "TypeError"),
    "binary manifest": (lambda entry: (entry / "manifest.json").write_bytes(b"\xff\x00"), "UnicodeDecodeError"),
    "other description": (lambda entry: edit_manifest(entry, lambda m: m["description"].update(seed=9)), "was edited"),
    "other file list": (lambda entry: edit_manifest(entry, lambda m: m["files"].clear()), "was edited"),
    "another's manifest": (foreign, "was edited"),
    "a file": (lambda entry: (entry.rename(entry.parent / "x"), entry.write_text("")), "Not a directory"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_seen_reported_and_mended(store, caplog, damage):
    entry = store.get("sft", DESCRIPTION, write)
    harm, message = DAMAGES[damage]
    harm(entry)
    assert not store.has("sft", DESCRIPTION)
    with caplog.at_level(logging.WARNING):
        assert store.get("sft", DESCRIPTION, write) == entry
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert message in caplog.text and entry.name in caplog.text and "built again" in caplog.text
    assert (entry / "adapter.bin").read_bytes() == b"weights" and rest(store) == []
    assert store.get("sft", DESCRIPTION, refuse) == entry


def test_a_passing_failure_to_read_does_not_throw_the_entry_away(store, monkeypatch):
    entry = store.get("sft", DESCRIPTION, write)

    def exhausted(path):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "file_digest", exhausted)
        with pytest.raises(OSError, match="Too many open files"):
            store.get("sft", DESCRIPTION, write)
    assert store.get("sft", DESCRIPTION, refuse) == entry


def test_a_failed_build_leaves_no_entry_and_keeps_its_work(store):
    def stop_half_way(target, work):
        (target / "adapter.bin").write_bytes(b"half")
        (work / "checkpoint").write_text("step 5")
        raise RuntimeError("loss is NaN")

    with pytest.raises(RuntimeError, match="loss is NaN"):
        store.get("sft", DESCRIPTION, stop_half_way)
    assert not store.has("sft", DESCRIPTION)
    assert list((store.folder / ".building").iterdir()) == []
    assert sorted(path.name for path in store.folder.iterdir()) == [".building", ".locks", ".work"]

    def go_on(target, work):
        assert list(target.iterdir()) == [] and (work / "checkpoint").read_text() == "step 5"
        write(target, work)

    store.get("sft", DESCRIPTION, go_on)
    assert rest(store) == []


def test_everything_is_on_the_disk_before_it_is_visible(store, monkeypatch):
    events, fsync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("rename"), rename(*paths))[1])
    store.get("sft", DESCRIPTION, write)
    assert events == ["sync"] * 5 + ["rename", "sync"]  # two files, the manifest, two folders; then the store's folder


def test_work_left_by_a_kill_after_completion_is_removed(store):
    entry = store.get("sft", DESCRIPTION, write)
    (store.folder / ".work" / entry.name).mkdir()
    assert store.get("sft", DESCRIPTION, refuse) == entry and rest(store) == []


@pytest.mark.parametrize("build, message", [
    (lambda target, work: (target / "manifest.json").write_text("{}"), "store's own"),
    (lambda target, work: (target / "link").symlink_to(ROOT / "run.py"), "a link"),
    (lambda target, work: os.mkfifo(target / "pipe"), "not a regular file"),
])
def test_builders_write_plain_files(store, build, message):
    with pytest.raises(ValueError, match=message):
        store.get("sft", DESCRIPTION, build)
    assert not store.has("sft", DESCRIPTION)


def test_stages_are_built_inside_stages(store):
    def outer(target, work):
        base = store.get("sft", {"seed": 0}, write)
        (target / "from").write_bytes((base / "adapter.bin").read_bytes())

    assert (store.get("dpo", {"seed": 0}, outer) / "from").read_bytes() == b"weights"


def test_where_locks_do_not_hold_the_first_entry_stays(store):
    def overtaken(target, work):
        write(target, work)
        os.rename(Store(store.folder.parent / "else").get("sft", DESCRIPTION, write),
                  store.folder / f"sft-{store.key('sft', DESCRIPTION)[:16]}")

    store.get("sft", DESCRIPTION, overtaken)
    assert store.has("sft", DESCRIPTION) and rest(store) == []


def test_a_store_emptied_while_open_fills_again(store, tmp_path):
    entry = store.get("sft", DESCRIPTION, write)
    store.folder.rename(tmp_path / "gone")
    assert store.get("sft", DESCRIPTION, write) == entry and store.has("sft", DESCRIPTION)


# The user's disk


def fill_up(target, work):
    (work / "checkpoint").write_text("step 5")
    with open("/dev/full", "wb", buffering=0) as device:
        device.write(b"x")


def fill_up_wrapped(target, work):
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("build", [fill_up, fill_up_wrapped])
def test_a_full_disk_is_the_users_to_mend(store, build):
    if build is fill_up and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    kept = store.get("sft", {"seed": 1}, write)
    with pytest.raises(UserError, match="(?s)disk full while building sft-.*intact.*stages.folder") as caught:
        store.get("sft", DESCRIPTION, build)
    assert str(store.folder) in str(caught.value)
    assert list((store.folder / ".building").iterdir()) == []
    assert store.get("sft", {"seed": 1}, refuse) == kept
    assert store.get("sft", DESCRIPTION, write).is_dir()


def test_a_full_disk_while_sealing(store, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk full"):
        store.get("sft", DESCRIPTION, write)
    assert not store.has("sft", DESCRIPTION)


def test_an_unusable_folder_names_its_key(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="stages.folder"):
            Store(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_names_its_key(tmp_path):
    store = Store(tmp_path / "stages")
    for path in (tmp_path / "stages" / ".building", tmp_path / "stages" / ".locks", tmp_path / "stages"):
        path.chmod(0o500)
    with pytest.raises(ConfigError, match="stages.folder"):
        Store(tmp_path / "stages")
    with pytest.raises(ConfigError, match="stages.folder"):
        store.get("sft", DESCRIPTION, write)


def test_denied_by_the_store_or_by_something_else(store):
    def denied(target, work):
        raise PermissionError(errno.EACCES, "Permission denied", str(target / "x"))

    def denied_elsewhere(target, work):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/x")

    with pytest.raises(ConfigError, match="stages.folder"):
        store.get("sft", DESCRIPTION, denied)
    with pytest.raises(PermissionError, match="/data/x"):
        store.get("sft", DESCRIPTION, denied_elsewhere)


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Store(None).folder == tmp_path / "cache" / "preference-zoo" / "stages"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert Store().folder == tmp_path / ".cache" / "preference-zoo" / "stages"
    assert Store("~/x").folder == tmp_path / "x"


# Several processes


def test_eight_processes_build_one_entry_once(tmp_path):
    builds = tmp_path / "builds"
    builds.mkdir()
    processes = [start(tmp_path / "stages", f"""
        def build(target, work):
            (Path({str(builds)!r}) / str(os.getpid())).touch()
            for part in range(3):
                (target / str(part)).write_text("x")
                time.sleep(0.1)
        while not Path({str(tmp_path / "go")!r}).exists():
            if store.has("sft", description):
                sys.exit("seen before it was built")
            time.sleep(0.002)
        entry = store.get("sft", description, build)
        assert sorted(path.name for path in entry.iterdir()) == ["0", "1", "2", "manifest.json"]
        assert store.has("sft", description)
        print(entry)
        """) for _ in range(8)]
    time.sleep(0.5)
    (tmp_path / "go").touch()
    said = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 8
    assert len(list(builds.iterdir())) == 1 and len(said) == 1


def test_a_killed_builder_blocks_nobody_and_leaves_its_checkpoints(tmp_path):
    holder = start(tmp_path / "stages", """
        def build(target, work):
            (target / "half").write_text("x")
            (work / "checkpoint").write_text("step 5")
            print("holding", flush=True)
            time.sleep(60)
        store.get("sft", description, build)
        """)
    assert holder.stdout.readline() == "holding\n"
    store = Store(tmp_path / "stages")
    assert not store.has("sft", DESCRIPTION) and len(rest(store)) == 2
    waiter = start(tmp_path / "stages", """
        def build(target, work):
            assert list(target.iterdir()) == []
            (target / "whole").write_text((work / "checkpoint").read_text())
        print("waiting", flush=True)
        print((store.get("sft", description, build) / "whole").read_text())
        """)
    assert waiter.stdout.readline() == "waiting\n"
    with pytest.raises(subprocess.TimeoutExpired):  # the lock does hold while its holder lives
        waiter.wait(timeout=0.5)
    holder.send_signal(signal.SIGKILL)
    assert holder.wait(timeout=10) == -signal.SIGKILL
    assert waiter.communicate(timeout=10)[0].strip() == "step 5" and waiter.returncode == 0
    assert rest(store) == [] and store.has("sft", DESCRIPTION)
    holder.stdout.close()


def test_nobody_sees_a_torn_entry(tmp_path):
    """Another process builds entry after entry, each of them in many small writes; whatever is visible is whole."""
    builder = start(tmp_path / "stages", """
        def build(target, work):
            for part in range(20):
                (target / str(part)).write_text("x" * 100)
        for seed in range(60):
            store.get("sft", {"seed": seed}, build)
        """)
    whole, visible, looks = {*map(str, range(20)), "manifest.json"}, set(), 0
    while builder.poll() is None and not (tmp_path / "stages").exists():
        time.sleep(0.01)
    while builder.poll() is None:
        for entry in (tmp_path / "stages").glob("sft-*"):
            if entry not in visible:
                assert {path.name for path in entry.iterdir()} == whole
                assert all(path.stat().st_size for path in entry.iterdir())
                visible.add(entry)
        looks += 1
    assert builder.returncode == 0 and looks > len(visible) > 10
    builder.stdout.close()


# What the log says of kept entries


SETTINGS = {"algorithm": {"class": "SFT"}, "recipe": {"lr": 0.001, "steps": 3}, "data": "0123456789abcdef" * 2,
            "seed": 0, "code": {"zoo.loop": "a", "zoo.method": "b"},
            "needs": {"reference": {"code": {"zoo.loop": "a"}, "seed": 0}}}


def changed(**parts):
    return {**SETTINGS, **parts}


def said(store, caplog, description, name="training"):
    caplog.clear()
    with caplog.at_level(logging.INFO):
        store.get("trained", description, write, name, ("algorithm.class",))
    return [record.getMessage() for record in caplog.records]


def test_the_log_says_once_that_a_kept_entry_is_used(store, caplog, monkeypatch):
    monkeypatch.setattr(store_module, "commit", lambda: "0123456789abcdef+changes")
    assert said(store, caplog, SETTINGS) == [] == said(store, caplog, SETTINGS), "made in this process"
    later = Store(store.folder)
    assert said(later, caplog, SETTINGS, name="") == []
    (line,) = said(later, caplog, SETTINGS)
    manifest = json.loads((later.get("trained", SETTINGS, refuse) / "manifest.json").read_text())
    at = manifest["made"].replace("T", " ").replace("+00:00", " UTC")
    assert manifest["commit"] == "0123456789abcdef+changes" and at.endswith("UTC")
    name = later._entry("trained", SETTINGS)[0].name
    assert line == f"training: kept stage {name} is used, made {at} at commit 0123456789+changes"
    assert said(later, caplog, SETTINGS) == []


@pytest.mark.parametrize("wanted, parts", [
    (changed(recipe={"lr": 0.0005, "steps": 3}), "recipe.lr 0.001 → 0.0005"),
    (changed(code={"zoo.loop": "c", "zoo.method": "b"}, needs={"reference": {"code": {"zoo.loop": "c"}, "seed": 0}}),
     "code of zoo.loop"),
    (changed(data="f" * 32), "data"),
    (changed(recipe={"lr": 0.001, "steps": 4, "warmup": 0.1}, seed=1, code={"zoo.other": "c"}),
     "recipe.steps 3 → 4, recipe.warmup nothing → 0.1, seed 0 → 1 and 3 more"),
    (changed(needs={"reference": None}),
     'needs.reference nothing → null, needs.reference.seed 0 → nothing, code of zoo.loop')],
    ids=["setting", "code", "data", "many", "need"])
def test_the_log_says_what_differs(store, caplog, wanted, parts):
    said(store, caplog, SETTINGS)
    (line,) = said(store, caplog, wanted)
    assert "is made anew; what differs from the kept one made " in line and line.endswith(f": {parts}")


def test_the_nearest_kept_entry_is_compared(store, caplog):
    for description in (changed(seed=1, data="f" * 32), changed(seed=2), changed(seed=3),
                        changed(algorithm={"class": "DPO"})):
        said(store, caplog, description)
    assert re.search(r": seed [23] → 4$", said(store, caplog, changed(seed=4))[0])
    assert said(store, caplog, changed(algorithm={"class": "IPO"})) == [], "none is of its class"
    (store.folder / "trained-torn").mkdir()
    (store.folder / "trained-torn/manifest.json").write_text("{")
    assert len(said(store, caplog, changed(seed=6))) == 1
