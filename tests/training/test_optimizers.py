"""Optimisers that keep 8-bit state, and where metrics are told beside the run's own file."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch

from algorithms.common.models.model import Lora
from algorithms.common.recipe import Recipe, TrainerConfig
from algorithms.common.support.errors import ConfigError
from algorithms.common.training import checkpoints
from algorithms.common.training.loop import fit
from algorithms.common.training.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors
from algorithms.common.training.trackers import Trackers
from algorithms.sft import SFT
from training_setup import ROOT, environment, examples, lines, make_context, two_roles, weights


def test_paged_adamw_needs_cuda():
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ConfigError, match="paged_adamw_8bit on cpu.*trainer.optimizer=adamw"):
        build_optimizer("paged_adamw_8bit", [{"params": [weight]}], Recipe(lr=1, batch_size=1), torch.device("cpu"))


@pytest.mark.filterwarnings("ignore:Paged optimizers")
def test_eight_bit_state_survives_a_checkpoint(tmp_path):
    """bitsandbytes keeps bytes, scales and plain numbers; here on the CPU, which shows all but the paging."""
    from bitsandbytes.optim import PagedAdamW8bit

    def start() -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        torch.manual_seed(0)
        # one is kept in 8 bits, one is too small for that
        made = [torch.nn.Parameter(torch.randn(shape)) for shape in ((128, 64), (10,))]
        return made, PagedAdamW8bit([{"params": made}], lr=1e-2)

    def train(parameters, optimizer, steps) -> None:
        for step in steps:
            torch.manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()

    whole, optimizer = start()
    train(whole, optimizer, range(6))
    stopped, optimizer = start()
    train(stopped, optimizer, range(3))
    tensors, numbers = optimizer_tensors(optimizer)
    checkpoints.save(tmp_path, 3, {"optimizer": tensors}, {"numbers": numbers})

    resumed, optimizer = start()
    with torch.no_grad():
        for parameter, value in zip(resumed, stopped):
            parameter.copy_(value)
    _, tensors, state = checkpoints.load_latest(tmp_path)
    load_optimizer_tensors(optimizer, tensors["optimizer"], state["numbers"])
    train(resumed, optimizer, range(3, 6))
    assert tensors["optimizer"]["0.state1"].dtype == torch.uint8
    assert all(torch.equal(one, other) for one, other in zip(resumed, whole))


@pytest.mark.gpu
def test_paged_adamw_trains_and_resumes(make_models, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = []
    for stop in (None, 3):
        models = make_models(lora=Lora(r=64, alpha=64))  # bitsandbytes quantises tensors of 4096 elements and more
        models.roles.module.to("cuda")
        models.device = torch.device("cuda")
        models.add_role("policy", trainable=True, seed=0)
        context = make_context(models, tmp_path / str(stop), examples(16), Recipe(lr=1e-3, batch_size=4, epochs=2.0),
                               optimizer="paged_adamw_8bit", checkpoint_every=1)
        if stop:
            algorithm = StopsAt(stop)
            with pytest.raises(Stopped):
                fit(algorithm, context)
        fit(SFT(), context)
        found.append((lines(context.target), weights(models)))
    (whole, whole_weights), (resumed, resumed_weights) = found
    assert whole[-1]["loss/policy"] < whole[0]["loss/policy"]
    for one, other in zip(whole, resumed):
        assert one == pytest.approx(other, rel=1e-4)
    for key, value in whole_weights.items():
        torch.testing.assert_close(resumed_weights[key], value, atol=1e-4, rtol=1e-3)


class Stopped(Exception):
    pass


class StopsAt(SFT):
    def __init__(self, step: int):
        super().__init__()
        self.left = step

    def loss(self, models, batch):
        self.left -= 1
        if self.left < 0:
            raise Stopped
        return super().loss(models, batch)


def test_tensorboard(make_models, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    models = two_roles(make_models())
    context = make_context(models, tmp_path, examples(8), trackers=["tensorboard"], checkpoint_every=1)
    with pytest.raises(Stopped):
        fit(StopsAt(2), context)
    context.run_folder = tmp_path / "second run"
    fit(SFT(), context)
    events = EventAccumulator(str(context.run_folder / context.name))
    events.Reload()
    scalars = events.Scalars("loss/policy")
    written = lines(context.target)
    assert [event.step for event in scalars] == [1, 2, 3, 4], "a resumed run's folder has the whole curve"
    assert [event.value for event in scalars] == pytest.approx([line["loss/policy"] for line in written], rel=1e-6)


def test_a_tracker_that_is_not_installed(tmp_path):
    try:
        import wandb  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="found wandb, which is not installed.*pip install wandb"):
            Trackers(["wandb"], tmp_path, "run")
    else:
        pytest.skip("wandb is installed here")


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_read(monkeypatch):
    monkeypatch.setattr("algorithms.common.recipe.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="found trackio, which is not installed; .* fix: pip install trackio, or"):
        TrainerConfig(trackers=["trackio"])


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_by_accelerates_names(name, make_models, tmp_path, monkeypatch):
    """Packages that are not there, as accelerate calls them."""
    told, ends = [], []
    run = SimpleNamespace(log=lambda values, step=None, **more: told.append((step, values)),
                          finish=lambda: ends.append(1))
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.init = lambda project, **more: (told.append(project), run)[1]
    monkeypatch.setitem(sys.modules, name, module)
    context = make_context(two_roles(make_models()), tmp_path, examples(8), trackers=[name])
    fit(SFT(), context)
    assert told[0] == context.name and ends == [1]
    assert [step for step, _ in told[1:]] == [1, 2, 3, 4]
    assert [values["loss/policy"] for _, values in told[1:]] == [line["loss/policy"] for line in lines(context.target)]


def test_nothing_is_imported_where_no_tracker_is_asked():
    code = ("import sys; from algorithms.common.training.trackers import Trackers; import "
            "algorithms.common.training.loop\n"
            "with Trackers([], None, 'x') as trackers: trackers.log({'a': 1.0}, 1)\n"
            "names = 'tensorboard', 'wandb', 'accelerate.tracking', 'trl', 'bitsandbytes'\n"
            "print([name for name in names if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
