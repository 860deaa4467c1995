"""A sweep whose launcher raises, loses jobs or is stopped: which jobs are launched again, which become rows, and that
the table and the exit status come. Quick ones have a launcher made here; real launchers are slow."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import pytest
from omegaconf import OmegaConf

from algorithms.common.runs import jobs, launching, tasks
from algorithms.common.runs.launching import AT_ONCE, THREADS, Guarded, check_sweeper
from algorithms.common.support.errors import ConfigError
from benchmarks.report import collect
from command_line import MICRO, MICRO_DPO, ROOT, invoke


def job(folder, number, status=None):
    """A job's folder: begun, and with a status also ended."""
    folder = folder / str(number)
    folder.mkdir(exist_ok=True)
    (folder / jobs.MARK).write_text(json.dumps({"num": number, "pid": 0, "host": "", "began": 0, "stage": None}))
    if status:
        (folder / jobs.RESULT).write_text(json.dumps({"status": status}))


class Fake:
    """A launcher that is given what to do at each launch: a function of the jobs' numbers."""

    def __init__(self, *turns):
        self.turns, self.launched = list(turns), []

    def launch(self, job_overrides, initial_job_idx):
        numbers = list(range(initial_job_idx, initial_job_idx + len(job_overrides)))
        self.launched.append(numbers)
        return self.turns.pop(0)(numbers)


def guarded(folder, fake, launcher="joblib", **options):
    config = OmegaConf.create({"seed": 0, "hydra": {
        "sweep": {"dir": str(folder)}, "launcher": {"n_jobs": 2, **options}, "sweeper": {},
        "runtime": {"choices": {"hydra/launcher": launcher, "task": "run", "algorithm": "dpo"}}}})
    return Guarded(fake, config)


def breaking(folder, **states):
    """A launch that raises when jobs are in these states (n0="complete", n1=None for begun and lost)."""
    def turn(numbers):
        for name, status in states.items():
            job(folder, int(name[1:]), status)
        raise RuntimeError("a worker was killed")
    return turn


def finishing(folder):
    def turn(numbers):
        for number in numbers:
            job(folder, number, "complete")
        return [f"return of {number}" for number in numbers]
    return turn


def test_jobs_that_a_broken_launch_lost_or_never_began_are_launched_again(tmp_path):
    fake = Fake(breaking(tmp_path, n0="complete", n1="failed", n2=None), finishing(tmp_path))
    returned = guarded(tmp_path, fake).launch([[f"seed={n}"] for n in range(5)], 0)
    assert fake.launched == [[0, 1, 2, 3, 4], [2, 3, 4]]
    assert returned[2:] == ["return of 2", "return of 3", "return of 4"]
    assert [one.return_value for one in returned[:2]] == [None, None]  # a sweeper gets no error of them
    asked = json.loads((tmp_path / launching.SWEEP).read_text())["jobs"]
    assert [(one["num"], one["algorithm"], one["seed"]) for one in asked] == [(n, "dpo", str(n)) for n in range(5)]


def test_jobs_are_launched_again_under_their_own_numbers(tmp_path):
    fake = Fake(breaking(tmp_path, n0=None, n1="complete", n2=None), finishing(tmp_path), finishing(tmp_path))
    guarded(tmp_path, fake).launch([["a=1"]] * 4, 0)
    assert fake.launched == [[0, 1, 2, 3], [0], [2, 3]]


def test_a_job_that_is_lost_again_is_given_up_and_the_others_end(tmp_path):
    fake = Fake(breaking(tmp_path, n0=None), breaking(tmp_path, n0=None), finishing(tmp_path))
    returned = guarded(tmp_path, fake).launch([["a=1"], ["a=2"]], 0)
    assert fake.launched == [[0, 1], [0, 1], [1]] and returned[1] == "return of 1"


def test_a_launcher_that_begins_nothing_is_told_as_it_is(tmp_path):
    fake = Fake(breaking(tmp_path))
    with pytest.raises(RuntimeError, match="a worker was killed"):
        guarded(tmp_path, fake).launch([["a=1"]], 0)
    assert {one.error for one in collect([tmp_path])} == {"not started: the sweep did not come to it"}


def test_jobs_that_no_launcher_came_to_are_rows(tmp_path):
    def stopped(numbers):
        job(tmp_path, 0)
        (tmp_path / "0" / jobs.RESULT).unlink(missing_ok=True)
        (tmp_path / "0" / ".hydra").mkdir()
        (tmp_path / "0" / ".hydra" / "hydra.yaml").write_text(
            "hydra: {job: {num: 0}, runtime: {choices: {algorithm: dpo}}, overrides: {task: [seed=4]}}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(tmp_path, Fake(stopped)).launch([["seed=4"], ["seed=5", "algorithm=ppo"]], 0)
    lost, never = collect([tmp_path])
    assert (lost.seed, lost.algorithm, "killed" in lost.error) == (4, "dpo", True)
    assert (never.seed, never.algorithm, never.status) == (5, "ppo", "failed") and "not started" in never.error


def test_batches_of_one_sweep_are_one_list(tmp_path):
    launcher = guarded(tmp_path, Fake(finishing(tmp_path), finishing(tmp_path), finishing(tmp_path)))
    numbers = []
    for start in (0, 2, 0):  # the third begins the sweep anew
        launcher.launch([["a=1"], ["a=2"]], start)
        numbers.append([one["num"] for one in json.loads((tmp_path / launching.SWEEP).read_text())["jobs"]])
    assert numbers == [[0, 1], [0, 1, 2, 3], [0, 1]]


def test_a_folder_is_of_one_sweep_at_a_time(tmp_path):
    (tmp_path / jobs.STOPPING).touch()
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path\n"
            "from algorithms.common.runs import launching\n"
            f"launching.take_turn(Path({str(tmp_path)!r})); print('mine', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"mine\n"
        fake = Fake(finishing(tmp_path), finishing(tmp_path))
        with pytest.raises(ConfigError, match="hydra.sweep.dir: found another sweep running in .*fix: .*sweep.dir="):
            guarded(tmp_path, fake).launch([["a=1"]], 0)
        assert fake.launched == [] and (tmp_path / jobs.STOPPING).exists(), "nothing of the other's is touched"
        other.kill()
    guarded(tmp_path, fake).launch([["a=1"]], 0)
    guarded(tmp_path, fake).launch([["a=1"]], 1)  # the next batch
    assert fake.launched == [[0], [1]]


def test_secrets_are_in_no_list_of_jobs(tmp_path):
    guarded(tmp_path, Fake(finishing(tmp_path))).launch([["judge.api_key=hunter22"]], 0)
    assert "hunter22" not in (tmp_path / launching.SWEEP).read_text()


class Cluster:
    """A job of a cluster's queue, as submitit has them."""

    __module__ = "submitit.slurm.slurm"
    job_id = "7"

    def __init__(self, outcome):
        self.outcome, self.cancelled, self.waited, self.known = outcome, 0, 0, True

    def done(self):
        return self.known

    def results(self):
        self.waited += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return [self.outcome]

    def cancel(self, check):
        self.cancelled += 1


@pytest.fixture
def queue(monkeypatch):
    """Jobs of submitit, the second of which has no output; a launcher of its plugin that waits for them as it does."""
    class UncompletedJobError(RuntimeError):
        pass

    class AutoExecutor:
        def map_array(self, function, *arguments):
            return queued

    class SlurmLauncher:
        __module__ = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"

        def launch(self, job_overrides, initial_job_idx):
            waiting = AutoExecutor().map_array(self)
            self.meanwhile()
            return [one.results()[0] for one in waiting]

        def meanwhile(self):
            pass

    queued = [Cluster("first"), Cluster(UncompletedJobError("no output")), Cluster("third")]
    errors = types.SimpleNamespace(FailedJobError=RuntimeError, UncompletedJobError=UncompletedJobError)
    core = types.SimpleNamespace(utils=errors)
    for name, module in {"submitit": types.SimpleNamespace(AutoExecutor=AutoExecutor, core=core), "submitit.core": core,
                         "submitit.core.utils": errors}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return queued, SlurmLauncher()


def test_all_jobs_of_a_queue_are_waited_for(tmp_path, queue):
    queued, launcher = queue
    first, lost, third = guarded(tmp_path, launcher, "submitit_slurm").launch([["a=1"]] * 3, 0)
    assert (first, lost.return_value, third) == ("first", None, "third") and [one.waited for one in queued] == [1, 1, 1]


def test_ctrl_c_takes_jobs_from_a_queue(tmp_path, queue):
    """And waits for none of them: without accounts of ended jobs a cluster never says that one is done."""
    queued, launcher = queue
    for job in queued:
        job.known = False
    launcher.meanwhile = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        guarded(tmp_path, launcher, "submitit_slurm").launch([["a=1"]] * 3, 0)
    assert [(one.cancelled, one.waited) for one in queued] == [(1, 0)] * 3


# Cores


@pytest.mark.parametrize("launcher, options, cores, jobs_at_once", [
    ("joblib", {"n_jobs": 3}, 8, 3), ("joblib", {"n_jobs": -1}, 8, 8), ("joblib", {"n_jobs": -2}, 8, 7),
    ("submitit_local", {"cpus_per_task": None}, 8, 8), ("submitit_local", {"cpus_per_task": 3}, 8, 2),
    ("basic", {}, 8, 1)])
def test_jobs_at_once(monkeypatch, launcher, options, cores, jobs_at_once):
    monkeypatch.setattr(launching, "_cores", lambda: cores)
    assert AT_ONCE[launcher](OmegaConf.create(options)) == jobs_at_once


def test_jobs_share_the_cores_unless_somebody_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "_cores", lambda: 8)
    seen = []

    def turn(numbers):
        seen.append(os.environ.get(THREADS))
        return finishing(tmp_path)(numbers)

    for given in (None, "5"):
        monkeypatch.delenv(THREADS, raising=False)
        if given:
            monkeypatch.setenv(THREADS, given)
        guarded(tmp_path, Fake(turn)).launch([["a=1"], ["a=2"]], 0)
        assert os.environ.get(THREADS) == given
    assert seen == ["4", "5"]  # two jobs on eight cores


def test_a_launcher_that_starts_all_its_jobs_is_given_as_many_as_there_are_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "_cores", lambda: 2)
    fake = Fake(*[finishing(tmp_path)] * 3)
    guarded(tmp_path, fake, "submitit_local", cpus_per_task=None).launch([["a=1"]] * 5, 0)
    assert fake.launched == [[0, 1], [2, 3], [4]]


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_lets_jobs_end_and_begins_no_other(tmp_path, monkeypatch, number):
    monkeypatch.setattr(launching, "_cores", lambda: 1)

    def interrupted(numbers):
        os.kill(os.getpid(), number)
        assert (tmp_path / jobs.STOPPING).exists()  # what a worker looks for before it begins a job
        return finishing(tmp_path)(numbers)

    fake = Fake(interrupted)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        guarded(tmp_path, fake, "submitit_local", cpus_per_task=None).launch([["a=1"], ["a=2"]], 0)
    assert fake.launched == [[0]] and signal.getsignal(number) is before


def test_a_kill_is_a_ctrl_c_to_jobs_of_this_process(tmp_path):
    """So that the table of what is there is written whichever of the two ends a sweep."""
    def killed(numbers):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        guarded(tmp_path, Fake(killed), "basic").launch([["a=1"], ["a=2"]], 0)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ctrl_c_twice_leaves_nothing_running(tmp_path):
    started = []

    def interrupted_twice(numbers):
        (tmp_path / "0").mkdir()
        code = (f"import signal, sys, time; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path\n"
                "from algorithms.common.runs import jobs\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                f"with jobs.running(Path({str(tmp_path / '0')!r}), 0):\n time.sleep(60)")
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        while not jobs.marks(tmp_path):
            time.sleep(0.02)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second interrupts")

    with pytest.raises(KeyboardInterrupt):
        guarded(tmp_path, Fake(interrupted_twice)).launch([["a=1"]], 0)
    assert started[0].wait(10) == -signal.SIGKILL
    assert not jobs.alive(tmp_path / "0")


def kinds(folder):
    """What each row of a sweep failed of."""
    return [one.error.partition(":")[0] for one in collect([folder])]


@pytest.mark.parametrize("at", [0, 1])
def test_ctrl_c_in_a_job_leaves_a_table(tmp_path, monkeypatch, at):
    def run(config, name, folder, overrides):
        if config.seed == at:
            raise KeyboardInterrupt("stopped at step 3 of 9")
        raise ConfigError("x: found y; expected z")

    monkeypatch.setattr(tasks, "run", run)
    ended = invoke("-m", "algorithm=sft", "seed=0,1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    assert ended.status == 130
    assert kinds(tmp_path / "sweep") == ["ConfigError"] * at + ["Stopped"] + ["not started"] * (2 - at)
    assert "stopped at step 3 of 9" in collect([tmp_path / "sweep"])[at].error
    told = ended.out + ended.err
    assert "sft: stopped at step 3 of 9" in told and ("sft failed" in told) == (at == 1)
    assert (tmp_path / "sweep" / "report.html").exists() and "sft" in ended.out


def test_whatever_a_launcher_raises_there_is_a_table_and_an_exit_status(tmp_path, monkeypatch):
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    plain, launches = BasicLauncher.launch, []

    def launch(self, job_overrides, initial_job_idx):
        launches.append(initial_job_idx)
        if len(launches) == 1:
            plain(self, job_overrides[:1], initial_job_idx)
        raise MemoryError("no workers")

    monkeypatch.setattr(BasicLauncher, "launch", launch)
    ended = invoke("-m", *MICRO_DPO, "algorithm.beta=-1,-2,-3", f"hydra.sweep.dir={tmp_path}/sweep",
                   f"stages.folder={tmp_path}/stages")
    assert ended.status == 1 and launches == [0, 1]
    assert kinds(tmp_path / "sweep") == ["ConfigError"] + ["not started"] * 2
    assert "dpo (beta=-3)" in ended.out


# A job apart from its worker


def test_a_job_apart_ends_and_tells_how_it_was_killed(tmp_path):
    assert jobs.apart(lambda: (tmp_path / "a").touch()) is None and (tmp_path / "a").exists()
    assert jobs.apart(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "its process was killed by SIGKILL"


@pytest.mark.parametrize("blocked", [(), (signal.SIGINT, signal.SIGTERM)])  # in the worker, as Ray's are
def test_a_job_that_is_asked_to_stop_is_interrupted_once(tmp_path, blocked):
    def asked_twice():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)  # as when its worker dies too
            (tmp_path / "stopped").touch()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        assert jobs.apart(asked_twice) is None and (tmp_path / "stopped").exists()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_no_job_outlives_its_worker(tmp_path):
    def waits():
        try:
            (tmp_path / "begun").touch()
            time.sleep(30)
        except KeyboardInterrupt:
            (tmp_path / "stopped").touch()

    worker = os.fork()
    if not worker:
        jobs.apart(waits)
        os._exit(0)
    for name, then in (("begun", lambda: os.kill(worker, signal.SIGKILL)), ("stopped", lambda: None)):
        until = time.monotonic() + 10
        while not (tmp_path / name).exists():
            assert time.monotonic() < until, name
            time.sleep(0.02)
        then()
    os.waitpid(worker, 0)


def test_a_job_begun_again_does_not_stand_by_its_old_result(tmp_path):
    (tmp_path / jobs.RESULT).write_text("{}")
    with jobs.running(tmp_path, 3):
        assert not jobs.ended(tmp_path) and jobs.marks(tmp_path)[3][1]["pid"] == os.getpid()


# What a sweeper is told


def test_the_objective_is_the_mean_of_a_figure(tmp_path):
    figures = {"score/auditor": {"mean": 0.25}, "reward/gold": {"mean": 1.5}}
    (tmp_path / jobs.RESULT).write_text(json.dumps({"status": "complete", "evaluation": figures}))
    assert jobs.objective(tmp_path, None) == 1.5 and jobs.objective(tmp_path, "score/auditor") == 0.25
    assert jobs.objective(tmp_path, "win_rate/sft") is None
    del figures["reward/gold"]
    (tmp_path / jobs.RESULT).write_text(json.dumps({"status": "complete", "evaluation": figures}))
    assert jobs.objective(tmp_path, None) == 0.25  # where there is no gold
    (tmp_path / jobs.RESULT).write_text(json.dumps({"status": "failed", "error": {}}))
    assert jobs.objective(tmp_path, None) is None and jobs.objective(tmp_path / "nothing", None) is None


def test_a_sweeper_that_tries_every_value_asks_for_no_objective(tmp_path, monkeypatch):
    ran, asked = [], []
    monkeypatch.setattr("algorithms.common.runs.tasks.run", lambda config, *given: ran.append(config.seed))
    monkeypatch.setattr(jobs, "objective", lambda *given: asked.append(given))
    invoke("-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert ran == [0, 1] and asked == []


@pytest.mark.parametrize("name, gold, audited, proxy, fix", [
    ("reward/gold", False, True, True, "data=reviews"), ("win_rate/auditor", True, False, True, "data.audit=0.2"),
    ("reward/proxy", True, True, False, "eval.proxy=true")])
def test_an_objective_that_a_run_cannot_have_is_refused(name, gold, audited, proxy, fix):
    with pytest.raises(ConfigError, match=f"objective: found {name}.*fix: .*{fix}"):
        jobs.check_objective(name, gold, audited, proxy)
    jobs.check_objective(name, True, True, True)
    jobs.check_objective(None, False, False, False)


@pytest.mark.parametrize("name, others", [
    ("kl/exact", False), ("reward/gold_minus_sft", False), ("reward/gold/reviews", False), ("reward/gold@4", False),
    ("kl/bound@4", True), ("accuracy/cold", True), ("refusal/answerable", True)])
def test_the_names_of_figures_are_taken(name, others):
    jobs.check_figure(name, others)


@pytest.mark.parametrize("name, others", [("reward/glod", True), ("kl/exct", False), ("refusal/answerable", False)])
def test_the_name_of_no_figure_is_refused_with_one_that_is(name, others):
    with pytest.raises(ConfigError, match=f"^objective: found {name}, which is no figure") as refused:
        jobs.check_figure(name, others)
    jobs.check_figure(str(refused.value).rpartition("fix: objective=")[2], False)


def test_an_objective_is_checked_before_anything_is_trained(tmp_path):
    ended = invoke("algorithm=sft", *MICRO, "objective=reward/proxy", f"stages.folder={tmp_path}/stages",
                   f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 2 and "objective: found reward/proxy" in ended.err
    assert not list((tmp_path / "stages").glob("trained-*"))


def chosen_by(sweeper, split="evaluation", tuning=0.0, task="run"):
    return OmegaConf.create({"eval": {"split": split}, "data": {"tuning": tuning}, "hydra": {
        "runtime": {"choices": {"hydra/sweeper": sweeper, "task": task}}}})


def test_a_sweeper_is_refused_the_prompts_that_are_reported():
    with pytest.raises(ConfigError) as refused:
        check_sweeper(chosen_by("optuna"))
    assert str(refused.value).endswith("; fix: eval.split=tuning data.tuning=0.1")
    check_sweeper(chosen_by("optuna", "tuning", 0.1))
    check_sweeper(chosen_by("basic"))
    check_sweeper(chosen_by("optuna", task="inspect"))
    with pytest.raises(ConfigError, match="fix: eval.split=tuning$"):
        check_sweeper(chosen_by("optuna", tuning=256))


# Real launchers


def sweeping(folder, *arguments, kill=None):
    """A sweep in a process of its own, a process of which is killed while a job trains: worker or job."""
    command = [sys.executable, "run.py", "-m", *MICRO_DPO, "recipe.steps=40", "trainer.checkpoint_every=5",
               f"stages.folder={folder}/stages", f"hydra.sweep.dir={folder}/sweep", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    killed = None
    while kill and killed is None and process.poll() is None:
        for number, (_, told) in jobs.marks(folder / "sweep").items():
            if "ended" not in told and told["stage"] == "dpo" and told["step"] and killed is None:
                (parent,) = [line.split()[1] for line in open(f"/proc/{told['pid']}/status") if line.startswith("PPid")]
                os.kill(told["pid"] if kill == "job" else int(parent), signal.SIGKILL)
                killed = number
        time.sleep(0.01)
    out, _ = process.communicate(timeout=540)
    return process.returncode, out, killed


LAUNCHERS = {"joblib": ["hydra.launcher.n_jobs=2"], "submitit_local": []}


def figures_of(folder):
    return {(run.algorithm, run.seed, run.overrides["algorithm.beta"]):
            {name: figure.estimate for name, figure in run.evaluation.items()} for run in collect([folder])}


@pytest.mark.slow
@pytest.mark.skipif(not jobs.FORKS, reason="jobs run apart from their workers on Linux only")
@pytest.mark.parametrize("kill", ["job", "worker"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_job_is_a_row_the_rest_finish_and_the_same_command_goes_on(tmp_path, launcher, kill):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher", reason="extra launchers")
    arguments = ["seed=0,1", "algorithm.beta=0.2,0.3", f"hydra/launcher={launcher}", *LAUNCHERS[launcher]]
    status, out, killed = sweeping(tmp_path, *arguments, kill=kill)
    assert status == 1 and killed is not None, out
    states = {int(run.folder.name): run.status for run in collect([tmp_path / "sweep"])}
    assert states == {number: "failed" if number == killed else "complete" for number in range(4)}, out
    assert "4 runs" not in out and (tmp_path / "sweep" / "report.html").exists()
    assert not [one for one, _ in jobs.marks(tmp_path / "sweep").values() if jobs.alive(one)]
    status, out, _ = sweeping(tmp_path, *arguments)
    assert status == 0, out
    again = figures_of(tmp_path / "sweep")
    plain = tmp_path / "plain"
    status, out, _ = sweeping(plain, "seed=0,1", "algorithm.beta=0.2,0.3")
    assert status == 0 and figures_of(plain / "sweep") == again, out
