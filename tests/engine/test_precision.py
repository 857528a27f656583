"""Mixed precision, accumulated gradients, memory order, compiled parts and averaged weights by one key each."""

import math
from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from networks import same_weights

from bestiary.backbones.metaformer import PoolFormer
from bestiary.engine.precision import compile_part, ema_hook, part_to_compile, to_channels_last, use_amp
from bestiary.engine.runner import build_runner, hook_of
from bestiary.errors import InputError
from bestiary.heads import ImageClassifier, LinearHead
from bestiary.inputs.class_sample import ClassSample
from bestiary.registry import OPTIM_WRAPPERS

ARCH = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), layer_scale_init=1.0)


def small_classifier(seed=0):
    torch.manual_seed(seed)
    return ImageClassifier(PoolFormer(ARCH, out_indices=(3,)), LinearHead(8, 3))


def labelled(count, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 32, 32, generator=generator, dtype=dtype)
    samples = [ClassSample() for _ in range(count)]
    for number, sample in enumerate(samples):
        sample.set_gt_label(number % 3)
    return x, samples


# --- mixed precision --------------------------------------------------------------------------------------------------


def amp_config(**wrapper):
    return Config(dict(optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1), **wrapper)))


def test_amp_without_a_value():
    cfg = amp_config(type="OptimWrapper")
    assert "bfloat16 on the CPU" in use_amp(cfg, on_gpu=False)
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ("AmpOptimWrapper", "bfloat16")
    cfg = amp_config(type="OptimWrapper")
    assert use_amp(cfg, on_gpu=True).endswith("float16") and "dtype" not in cfg.optim_wrapper
    cfg = amp_config(dtype="bfloat16")
    assert use_amp(cfg, on_gpu=True).endswith("bfloat16")
    with pytest.raises(InputError, match="the config has 'ApexOptimWrapper'"):
        use_amp(amp_config(type="ApexOptimWrapper"), on_gpu=True)


@pytest.mark.parametrize("scope", ["", "bestiary."])
@pytest.mark.parametrize("clip", ["", "AdaptiveClip"])
def test_amp_by_its_kind(scope, clip):
    for kind, dtype, scale in (("bf16", "bfloat16", dict(enabled=False)), ("fp16", "float16", "dynamic")):
        cfg = amp_config(type=f"{scope}{clip}OptimWrapper")
        for _ in range(2):  # the second time changes nothing
            assert dtype in use_amp(cfg, True, kind)
            wrapper = cfg.optim_wrapper
            assert (wrapper.type, wrapper.dtype) == (f"{scope}Amp{clip}OptimWrapper", dtype)
            assert wrapper.loss_scale == scale
    with pytest.raises(InputError, match="float16 does not train on a CPU: take bf16"):
        use_amp(amp_config(), False, "fp16")
    with pytest.raises(InputError, match="amp: 'fp8' is none of bf16, fp16"):
        use_amp(amp_config(), True, "fp8")


def test_adaptive_clipping_in_mixed_precision_is_that_of_the_unscaled_gradients():
    """With a loss scale and without, on float32 values, the step is the plain wrapper's."""
    results = []
    for kind in ("AdaptiveClipOptimWrapper", "AmpAdaptiveClipOptimWrapper"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        wrapper = OPTIM_WRAPPERS.build(dict(type=f"bestiary.{kind}", clip_factor=0.02, optimizer=optimizer))
        if "Amp" in kind:
            assert wrapper.cast_dtype == torch.bfloat16 and not wrapper.loss_scaler.is_enabled()
            wrapper.loss_scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
        wrapper.update_params(50 * model(torch.ones(8, 3)).square().sum())
        results.append([p.detach().clone() for p in model.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["OptimWrapper", "AdaptiveClipOptimWrapper"])
def test_a_run_in_bfloat16_by_one_key(classifier, kind):
    """The matrices are multiplied in bfloat16, weights stay float32; near what float32 learns."""
    classifier.optim_wrapper = dict(type=kind, optimizer=dict(type="SGD", lr=0.01))
    losses, seen = {}, []
    for amp in (None, "bf16"):
        cfg = deepcopy(classifier)
        cfg.amp, cfg.experiment_name = amp, f"{cfg.experiment_name}-{amp}"
        runner = build_runner(cfg)
        last = runner.model.backbone.stages[3].blocks[0].mlp
        last.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        runner.train()
        losses[amp] = runner.message_hub.get_scalar("train/loss").current()
        assert all(p.dtype == torch.float32 for p in runner.model.parameters())
    assert seen[0] == torch.float32 and torch.bfloat16 in seen
    assert losses["bf16"] == pytest.approx(losses[None], rel=0.05) and losses["bf16"] != losses[None]


# --- accumulated gradients --------------------------------------------------------------------------------------------


def trained(sizes, counts, steps=3, clip=None):
    """float64 weights after `steps` batches of 8, each given in parts of `sizes`, accumulated."""
    model = small_classifier().double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    wrapper = OptimWrapper(optimizer, accumulative_counts=counts, clip_grad=clip)
    total = sum(len(step) for step in sizes)
    wrapper.initialize_count_status(model, 0, total)
    taken = []
    optimizer.register_step_post_hook(lambda *_: taken.append(1))
    for step, parts in enumerate(sizes):
        x, samples = labelled(sum(parts), seed=step)
        for part, group in zip(x.split(parts), torch.arange(len(x)).split(parts), strict=True):
            with wrapper.optim_context(model):
                losses = model(part, [samples[i] for i in group], mode="loss")
            wrapper.update_params(losses["loss"])
    assert len(taken) == len(sizes)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("clip", [None, dict(max_norm=0.05)], ids=["free", "clipped"])
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_the_large_batchs(parts, clip):
    whole = trained([[8]] * 3, 1, clip=deepcopy(clip))
    other = trained([[8 // parts] * parts] * 3, parts, clip=deepcopy(clip))
    assert (whole - other).abs().max() < 1e-9
    assert (whole - trained([[4]] * 3, 1)).abs().max() > 1e-4  # of half the pictures


def test_what_is_left_at_the_end_is_a_step_of_its_own():
    """Ten parts at four a step: the last two are divided by two, not by four."""
    whole = trained([[8], [8], [4]], 1)
    other = trained([[2] * 4, [2] * 4, [2] * 2], 4)
    assert (whole - other).abs().max() < 1e-9


# --- memory order -----------------------------------------------------------------------------------------------------


def test_channels_last_by_one_key(classifier):
    """Numbers are the same to rounding, keys and shapes altogether; weights and pictures lie as promised."""
    classifier.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.05))
    states, lies = {}, []
    for last in (False, True):
        cfg = deepcopy(classifier)
        cfg.channels_last, cfg.experiment_name = last, f"{cfg.experiment_name}-{last}"
        runner = build_runner(cfg)

        def note(module, args, lies=lies):
            lies.append(args[0].is_contiguous(memory_format=torch.channels_last) and not args[0].is_contiguous())

        runner.model.backbone.stem.register_forward_pre_hook(note)
        runner.train()
        states[last] = runner.model.state_dict()
        weights = [p for p in runner.model.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
        assert weights
        assert all(p.is_contiguous(memory_format=torch.channels_last) is last for p in weights)
    assert lies == [False] * (len(lies) // 2) + [True] * (len(lies) // 2)
    assert states[False].keys() == states[True].keys()
    for key, value in states[False].items():
        torch.testing.assert_close(states[True][key], value, rtol=1e-4, atol=1e-5)


def test_channels_last_turns_pictures_of_any_kind():
    model = small_classifier()
    to_channels_last(model)
    x, samples = labelled(2, dtype=torch.float32)
    data = model.data_preprocessor(dict(inputs=list(x), data_samples=samples), True)
    assert data["inputs"].is_contiguous(memory_format=torch.channels_last) and data["inputs"].shape == (2, 3, 32, 32)
    copied = deepcopy(model)
    assert copied.data_preprocessor(dict(inputs=list(x), data_samples=samples), True)["inputs"].stride(1) == 1


# --- compiled parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["backbone", "model", pytest.param(dict(target="backbone", dynamic=True), marks=pytest.mark.slow)]
)
def test_compiled_by_one_key(given):
    """The same losses and gradients, the same keys, and the part that was named is compiled."""
    settings = part_to_compile(given)
    plain, compiled = small_classifier(), small_classifier()
    names = list(compiled.state_dict())
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_part(compiled, settings[0], {**settings[1], "backend": backend})
    x, samples = labelled(2, dtype=torch.float32)
    results = []
    for model in (plain, compiled):
        loss = model(x, samples, mode="loss")["loss"]
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    assert list(compiled.state_dict()) == names and graphs
    part = compiled.backbone if settings[0] == "backbone" else compiled
    assert part._compiled_call_impl is not None
    deepcopy(compiled)
    torch.compiler.reset()


def test_what_is_not_ours_to_compile():
    assert part_to_compile(None) is part_to_compile(True) is part_to_compile(dict(backend="eager")) is None
    assert part_to_compile("model") == ("model", {})
    with pytest.raises(InputError, match="compile: 'head' is none of backbone, model"):
        part_to_compile("head")
    with pytest.raises(InputError, match="compile='backbone': Linear has no backbone: set compile='model'"):
        compile_part(torch.nn.Linear(2, 2), "backbone", {})


@pytest.mark.parametrize(
    "given",
    [dict(target="backbone", backend="eager"), pytest.param(dict(backend="eager"), marks=pytest.mark.slow)],
    ids=["ours", "mmengine's"],
)
def test_a_compiled_run(classifier, given, tmp_path):
    """Ours, and mmengine's own: both train, count their steps, and save keys as ever."""
    classifier.compile = given
    classifier.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01))
    runner = build_runner(classifier)
    names = list(runner.model.state_dict())
    runner.train()
    assert runner.optim_wrapper.taken == 2
    saved = torch.load(tmp_path / "work" / "epoch_1.pth", weights_only=True)["state_dict"]
    assert list(saved) == names
    torch.compiler.reset()


# --- averaged weights -------------------------------------------------------------------------------------------------


def test_settings_of_the_average():
    assert ema_hook(0.1) == dict(type="bestiary.EMAHook", momentum=0.1)
    assert ema_hook(True)["momentum"] == ema_hook(dict(begin_iter=3))["momentum"] == 0.0002
    for wrong in (1.5, 0.0, 2):
        with pytest.raises(InputError, match=f"ema: momentum {wrong} must be in 0..1"):
            ema_hook(wrong)


def averaging(classifier, epochs=2, counts=1, **changes):
    """A ResNet, for its batch norms; a runner whose model notes what is trained and what is evaluated."""
    cfg = deepcopy(classifier)
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), stem_dims=(8,), block="basic")
    cfg.model.backbone = dict(type="ResNet", arch=arch, out_indices=(3,))
    cfg.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01), accumulative_counts=counts)
    cfg.param_scheduler = []
    cfg.train_cfg.update(max_epochs=epochs, val_interval=1)
    cfg.experiment_name = f"{cfg.experiment_name}-{epochs}-{counts}-{len(changes)}"
    cfg.ema = 0.3
    for key, value in changes.items():
        cfg[key] = value
    runner = build_runner(cfg)
    raw, evaluated, original = [], [], runner.call_hook

    def call_hook(name, **kwargs):
        original(name, **kwargs)
        if name == "after_train_iter":
            raw.append(deepcopy(runner.model.state_dict()))
        if name == "before_val_iter":
            evaluated.append(deepcopy(runner.model.state_dict()))

    runner.call_hook = call_hook
    return runner, raw, evaluated


def test_the_average_is_evaluated_and_saved_beside_the_raw_weights(classifier, tmp_path):
    runner, raw, evaluated = averaging(classifier)
    runner.train()
    expected = {key: value.clone() for key, value in raw[0].items()}
    averages = [dict(expected)]
    parameters = {name for name, _ in runner.model.named_parameters()}
    for state in raw[1:]:
        for key in state:  # buffers are copies
            expected[key] = 0.7 * expected[key] + 0.3 * state[key] if key in parameters else state[key].clone()
        averages.append(dict(expected))
    assert len(raw) == 4 and len(evaluated) == 4
    for number, state in enumerate(evaluated):
        for key, value in averages[1 if number < 2 else 3].items():
            torch.testing.assert_close(state[key], value)
    assert same_weights(runner.model.state_dict(), raw[-1])  # training goes on with the raw ones
    saved = torch.load(tmp_path / "work" / "epoch_2.pth", weights_only=True)
    inner = {key.removeprefix("module."): v for key, v in saved["ema_state_dict"].items() if key != "steps"}
    assert same_weights(inner, raw[-1]) and same_weights(saved["state_dict"], evaluated[-1])
    assert any("running_mean" in key for key in inner)


def test_the_average_counts_steps_not_iterations(classifier):
    """Two iterations a step: the average of two steps, once a step."""
    runner, raw, _ = averaging(classifier, counts=2)
    runner.train()
    average = hook_of(runner, "EMAHook").ema_model
    assert int(average.steps) == 2
    for name, value in average.module.named_parameters():
        torch.testing.assert_close(value, 0.7 * raw[1][name] + 0.3 * raw[3][name])


def test_a_resumed_average_is_the_uninterrupted_one(classifier, tmp_path):
    runner, _, _ = averaging(classifier, epochs=3)
    runner.train()
    whole = torch.load(tmp_path / "work" / "epoch_3.pth", weights_only=True)
    resumed, _, _ = averaging(classifier, epochs=3, resume=True, load_from=str(tmp_path / "work" / "epoch_2.pth"))
    (tmp_path / "work" / "epoch_3.pth").unlink()
    resumed.train()
    again = torch.load(tmp_path / "work" / "epoch_3.pth", weights_only=True)
    assert same_weights(whole["state_dict"], again["state_dict"])
    assert same_weights(whole["ema_state_dict"], again["ema_state_dict"])
    assert not same_weights(
        whole["state_dict"], {k: whole["ema_state_dict"][f"module.{k}"] for k in whole["state_dict"]}
    )


# --- the batch of a learning rate -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "counts"), [(3, 1), (3, 2), (6, 1)])
def test_the_batch_of_a_learning_rate_is_what_a_step_sees(classifier, monkeypatch, size, counts):
    """Pictures x processes x accumulative_counts."""
    classifier.auto_scale_lr = dict(enable=True, base_batch_size=12)
    classifier.train_dataloader.batch_size = size
    classifier.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.4), accumulative_counts=counts)
    for processes in (1, 2):
        cfg = deepcopy(classifier)
        cfg.experiment_name += str(processes)
        runner = build_runner(cfg)
        monkeypatch.setattr(runner, "_world_size", processes)
        wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(wrapper, runner.auto_scale_lr)
        assert math.isclose(wrapper.optimizer.param_groups[0]["lr"], 0.4 * size * counts * processes / 12)
