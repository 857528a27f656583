"""Steps that are not finite: left out bit for bit, counted, and reported where there are too many."""

import json
import logging
import math
import multiprocessing
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn

from bestiary.engine.nonfinite import NonFiniteHook, pictures_of, watch
from bestiary.engine.optimizers import AdaptiveClipOptimWrapper, AmpAdaptiveClipOptimWrapper
from bestiary.engine.runner import build_runner, hook_of
from bestiary.errors import InputError
from bestiary.heads import ImageClassifier
from bestiary.inputs.class_sample import ClassSample
from bestiary.registry import MODELS

KINDS = {
    "plain": (OptimWrapper, {}),
    "clipped by norm": (OptimWrapper, dict(clip_grad=dict(max_norm=0.1))),
    "clipped by its largest": (OptimWrapper, dict(clip_grad=dict(max_norm=0.1, norm_type="inf"))),
    "clipped by value": (OptimWrapper, dict(clip_grad=dict(type="value", clip_value=0.01))),
    "adaptive": (AdaptiveClipOptimWrapper, {}),
    "bfloat16": (AmpOptimWrapper, dict(clip_grad=dict(max_norm=0.1))),
    "adaptive in bfloat16": (AmpAdaptiveClipOptimWrapper, {}),
    "scaled": (AmpOptimWrapper, dict(clip_grad=dict(max_norm=0.1))),
    "adaptive and scaled": (AmpAdaptiveClipOptimWrapper, {}),
}
by_kind = pytest.mark.parametrize("kind", KINDS)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 2))


def wrapped(kind, model, watched=True, **kwargs):
    cls, settings = KINDS[kind]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    wrapper = cls(optimizer=optimizer, **deepcopy(settings), **kwargs)
    if "scaled" in kind:  # as on a GPU
        wrapper.loss_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    if watched:
        watch(wrapper, model)
    return wrapper


def state_of(model, wrapper):
    return deepcopy([model.state_dict(), wrapper.optimizer.state_dict()])


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def train_step(model, wrapper, x, factor=1.0):
    with wrapper.optim_context(model):
        loss = model(x).float().square().mean() * factor
    wrapper.update_params(loss)


@by_kind
def test_finite_steps_are_the_wrappers_own(kind):
    """Watched or not, the weights are equal bit for bit."""
    results = []
    for watched in (False, True):
        model = network()
        wrapper = wrapped(kind, model, watched)
        for number in range(4):
            train_step(model, wrapper, torch.randn(5, 3, generator=torch.Generator().manual_seed(number)), 30.0)
        results.append(state_of(model, wrapper))
    assert same(*results)
    assert (wrapper.taken, wrapper.skips) == (4, 0)


@by_kind
@pytest.mark.parametrize("how", ["picture", "loss", "gradient"])
def test_a_step_left_out_changes_nothing(kind, how):
    model = network()
    wrapper = wrapped(kind, model)
    x = torch.randn(5, 3)
    train_step(model, wrapper, x)
    before = state_of(model, wrapper)
    if how == "picture":
        train_step(model, wrapper, x.index_fill(0, torch.tensor([1]), math.nan))
    elif how == "loss":  # its derivative is finite
        with wrapper.optim_context(model):
            loss = model(x).float().square().mean() + math.inf
        wrapper.update_params(loss)
    else:  # of a root at 0
        with wrapper.optim_context(model):
            loss = (model(x).float() * 0).sum().sqrt()
        wrapper.update_params(loss)
    assert same(before, state_of(model, wrapper))
    assert (wrapper.taken, wrapper.skips) == (1, 1)
    assert wrapper.last_skip.loss_finite is (how == "gradient")
    assert set(wrapper.last_skip.gradients) <= {name for name, _ in model.named_parameters()}
    assert wrapper.last_skip.gradients
    assert all(p.grad is None for p in model.parameters())
    train_step(model, wrapper, x)
    assert not same(before, state_of(model, wrapper)) and wrapper.taken == 2
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_only_the_parameters_that_it_concerns_are_named():
    model = network()
    wrapper = wrapped("clipped by norm", model)
    model[3].bias.register_hook(lambda grad: grad / 0)
    train_step(model, wrapper, torch.randn(5, 3))
    assert wrapper.last_skip.gradients == ["3.bias"] and wrapper.last_skip.loss_finite


def test_a_model_that_goes_backward_itself():
    model = network()
    wrapper = wrapped("clipped by norm", model)
    before = state_of(model, wrapper)
    model[3].bias.register_hook(lambda grad: grad * math.nan)
    model(torch.randn(5, 3)).sum().backward()
    wrapper.step()
    assert same(before, state_of(model, wrapper)) and wrapper.last_skip.gradients == ["3.bias"]


@pytest.mark.parametrize("bad", range(3))
def test_the_whole_window_is_left_out(bad):
    """Of three accumulated batches, whichever has the NaN."""
    model = network()
    wrapper = wrapped("clipped by norm", model, accumulative_counts=3)
    before = state_of(model, wrapper)
    for number in range(3):
        train_step(model, wrapper, torch.randn(5, 3), math.nan if number == bad else 1.0)
        assert wrapper.skips == (number == 2) and wrapper.taken == 0
    assert same(before, state_of(model, wrapper))
    for _ in range(3):
        train_step(model, wrapper, torch.randn(5, 3))
    assert wrapper.taken == 1 and not same(before, state_of(model, wrapper))


def test_a_scaler_finds_its_scale():
    """Gradients beyond float16 halve the scale, and that is no mistake of the model until the scale is below 1."""
    model = network()
    wrapper = wrapped("scaled", model)
    model[3].weight.register_hook(lambda grad: grad * math.inf)
    for scale in (1024.0, 512.0, 256.0):
        train_step(model, wrapper, torch.randn(5, 3))
        assert wrapper.last_skip.scale == scale and wrapper.last_skip.by_scaler
    wrapper.loss_scaler.update(0.5)
    train_step(model, wrapper, torch.randn(5, 3))
    assert wrapper.last_skip.scale == 0.5 and not wrapper.last_skip.by_scaler
    wrapper.loss_scaler.update(1024.0)
    train_step(model, wrapper, torch.randn(5, 3), math.nan)
    assert not wrapper.last_skip.by_scaler


@pytest.mark.parametrize("clip", [None, dict(max_norm=0.1)])
def test_one_wait_a_step(monkeypatch, clip):
    """Reading a number off a device is what makes a GPU wait: once in each step."""
    model = network()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters()), clip_grad=clip)
    watch(wrapper, model)
    reads = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, o=original, n=name: (reads.append(n), o(self))[1])
    loss = model(torch.randn(5, 3)).square().mean()
    reads.clear()
    loss_scaled = wrapper.scale_loss(loss)
    wrapper.backward(loss_scaled)
    before_optimizer = []
    wrapper.optimizer.register_step_pre_hook(lambda *_: before_optimizer.extend(reads))
    wrapper.step()
    assert before_optimizer == ["__float__"]


def test_watched_twice_is_watched_once():
    model = network()
    wrapper = wrapped("plain", model)
    kind = type(wrapper)
    watch(wrapper, model)
    assert type(wrapper) is kind and isinstance(wrapper, OptimWrapper) and "Type: OptimWrapper" in repr(wrapper)


def test_paths_of_pictures():
    samples = [ClassSample(metainfo=dict(img_path=f"{name}.jpg")) for name in "abc"]
    batch = dict(inputs=torch.zeros(3, 3, 4, 4), data_samples=[samples[:1], tuple(samples[1:])])
    assert list(pictures_of(batch)) == ["a.jpg", "b.jpg", "c.jpg"]
    assert list(pictures_of([dict(img_path="d.jpg", img=torch.zeros(2))])) == ["d.jpg"]
    assert list(pictures_of(dict(x=torch.zeros(2)))) == list(pictures_of(None)) == []


# --- in a run ---------------------------------------------------------------------------------------------------------


@MODELS.register_module()
class SometimesNaNClassifier(ImageClassifier):
    """Its loss is NaN in the iterations of `bad`, counted from 0."""

    def __init__(self, *args, bad=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.bad, self.count = tuple(bad), 0

    def loss(self, inputs, data_samples):
        losses = super().loss(inputs, data_samples)
        if self.count in self.bad:
            losses["loss"] = losses["loss"] * math.nan
        self.count += 1
        return losses


@pytest.fixture
def run(classifier):
    """A run of `epochs` x 2 iterations, of which those of `bad` are NaN."""

    def runner_of(bad, epochs=3, **changes):
        cfg = deepcopy(classifier)
        cfg.model.update(type="SometimesNaNClassifier", bad=bad)
        cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
        cfg.default_hooks = dict(logger=dict(type="LoggerHook", interval=1))
        for key, value in changes.items():
            cfg[key] = value
        return build_runner(cfg)

    return runner_of


def test_a_run_counts_says_and_goes_on(run, tmp_path):
    runner = run(bad=(1, 3, 4))
    runner.train()
    hook = hook_of(runner, "NonFiniteHook")
    assert hook.state_dict() == dict(skipped=3, in_a_row=0, scaler_skips=0)
    log = "\n".join(path.read_text() for path in (tmp_path / "work").rglob("*.log"))
    assert "iteration 2: the loss is not finite; the step is left out" in log
    assert "(1 in a row, 1 in all; the run ends at 10 in a row)" in log
    assert "(2 in a row, 3 in all; the run ends at 10 in a row)" in log
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    other = NonFiniteHook()
    other.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    assert other.state_dict() == hook.state_dict()


def test_the_average_of_the_weights_stays_as_it_was(run):
    """The hook of mmengine in a config becomes ours."""
    runner = run(bad=(3,), custom_hooks=[dict(type="EMAHook", momentum=0.3)])
    states = []

    def note(*_, **__):
        ema = hook_of(runner, "EMAHook").ema_model
        states.append(deepcopy([ema.state_dict(), runner.model.state_dict(), runner.optim_wrapper.state_dict()]))

    original = runner.call_hook
    runner.call_hook = lambda name, **kwargs: (original(name, **kwargs), name == "after_train_iter" and note())[0]
    runner.train()
    assert same(states[2][0], states[3][0])
    assert same(states[2][1], states[3][1])
    assert not same(states[3][0], states[4][0]) and not same(states[1][0], states[2][0])
    moved = [state[0]["steps"].item() for state in states]
    assert moved == [1, 2, 3, 3, 4, 5]


def test_too_many_in_a_row_end_the_run_with_a_report(run, tmp_path, class_folders):
    runner = run(bad=(1, 3, 4), nonfinite=dict(max_in_a_row=2))
    with pytest.raises(InputError) as caught:
        runner.train()
    message = str(caught.value)
    assert message.startswith("iteration 5: 2 steps in a row were not finite, and the run ends: the loss is not finite")
    assert "losses: loss nan" in message and f"{class_folders}/a/0.jpg" in message
    report = json.loads((tmp_path / "work" / "nonfinite_report.json").read_text())
    assert (report["iteration"], report["epoch"], report["in_a_row"], report["skipped"]) == (5, 3, 2, 3)
    assert report["loss_finite"] is False and report["gradient_norm"] == "nan"
    names = [name for name, p in runner.model.named_parameters() if p.requires_grad]
    assert sorted(report["gradients_not_finite"]) == sorted(names)
    assert report["parameters_not_finite"] == report["buffers_not_finite"] == []
    assert report["ranks"] == [
        dict(
            batches=[dict(pictures=[f"{class_folders}/a/{n}.jpg" for n in range(3)], losses=dict(loss="nan"))],
            inputs_not_finite=[],
        )
    ]


def test_a_report_has_the_batches_of_the_whole_window(run, tmp_path, class_folders):
    wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01), accumulative_counts=2)
    with pytest.raises(InputError, match="iteration 4: 1 steps in a row"):
        run(bad=(2,), nonfinite=dict(max_in_a_row=1), optim_wrapper=wrapper).train()
    (rank,) = json.loads((tmp_path / "work" / "nonfinite_report.json").read_text())["ranks"]
    assert [batch["pictures"][0] for batch in rank["batches"]] == [f"{class_folders}/{name}/0.jpg" for name in "ab"]
    assert rank["batches"][0]["losses"]["loss"] == "nan" and math.isfinite(rank["batches"][1]["losses"]["loss"])


def test_pictures_and_weights_that_are_not_finite_are_named(tmp_path):
    hook = NonFiniteHook(max_in_a_row=1)
    batch = dict(
        inputs=[torch.zeros(3, 4, 4), torch.full((3, 4, 4), math.nan)],
        data_samples=[ClassSample(metainfo=dict(img_path=name)) for name in ("good.jpg", "bad.jpg")],
    )
    model = network()
    model[1].running_mean[0] = math.inf
    with torch.no_grad():
        model[3].bias[0] = math.nan
    wrapper, logger = wrapped("plain", model), logging.getLogger("run")
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, work_dir=tmp_path, iter=7, epoch=1, logger=logger)
    hook.before_train(runner)
    train_step(model, wrapper, torch.randn(5, 3))
    with pytest.raises(InputError) as caught:
        hook.after_train_iter(runner, 0, batch, dict(loss=torch.tensor(math.nan)))
    assert "1 pictures that come to the model with values that are not finite (bad.jpg)" in str(caught.value)
    assert "1 weights that are not finite themselves (3.bias)" in str(caught.value)
    assert "1 buffers that are not finite (1.running_mean)" in str(caught.value)


def test_it_can_be_switched_off_and_settings_are_checked(run):
    assert not any(isinstance(hook, NonFiniteHook) for hook in run(bad=(), nonfinite=None).hooks)
    with pytest.raises(InputError, match="nonfinite: 5; set nonfinite=dict"):
        run(bad=(), nonfinite=5)
    with pytest.raises(InputError, match="nonfinite.max_in_a_row: 0; set it to 1 or more, or nonfinite=None"):
        run(bad=(), nonfinite=dict(max_in_a_row=0))


# --- in two processes -------------------------------------------------------------------------------------------------


class OneLayer(BaseModel):
    """A linear layer's mean square."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return dict(loss=self.layer(inputs).square().mean())


def process(rank, folder):
    """Three steps; in the second the picture of the second process is NaN, and patience is 1."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = MMDistributedDataParallel(OneLayer())
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    logger = logging.getLogger("process")
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, work_dir=folder, iter=0, epoch=0, logger=logger)
    hook, seen = NonFiniteHook(max_in_a_row=2), []
    hook.before_train(runner)
    for step in range(4):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * step + rank))
        sample = ClassSample(metainfo=dict(img_path=f"{step}-{rank}.jpg"))
        batch = dict(inputs=x * (math.nan if rank == 1 and step in (1, 2, 3) else 1), data_samples=[sample])
        outputs = model.train_step(batch, wrapper)
        seen.append((wrapper.taken, wrapper.skips, model.module.layer.weight.tolist()))
        try:
            hook.after_train_iter(runner, step, batch, outputs)
        except InputError as error:
            seen.append(str(error))
            break
        runner.iter += 1
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


def test_two_processes_decide_alike(tmp_path):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=process, args=(rank, str(tmp_path))) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one == other and [step[:2] for step in one[:3]] == [[1, 0], [1, 1], [1, 2]]
    assert one[0][2] == one[1][2] == one[2][2]  # the weights
    assert one[3].startswith("iteration 3: 2 steps in a row were not finite") and "2-0.jpg, 2-1.jpg" in one[3]
    report = json.loads((tmp_path / "nonfinite_report.json").read_text())
    assert [rank["batches"][0]["pictures"] for rank in report["ranks"]] == [["2-0.jpg"], ["2-1.jpg"]]
    assert math.isfinite(report["ranks"][0]["batches"][0]["losses"]["loss"])
    assert report["ranks"][1]["batches"][0]["losses"]["loss"] == "nan"
    assert report["loss_finite"] is False and report["gradients_not_finite"] == ["layer.weight", "layer.bias"]
