"""A run with samples that cannot be read: named, or replaced and listed; the same for any number of workers."""

import copy
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from bestiary.engine.runner import build_runner, hook_of
from bestiary.errors import InputError
from bestiary.inputs.bad_samples import FILE, BadSamples, SampleReader
from bestiary.registry import TRANSFORMS


@TRANSFORMS.register_module()
class NoisyPicture:
    """Adds noise, so that a replacement shows which random numbers it was read with."""

    def __call__(self, results):
        picture = np.asarray(results["img"]) // 2 + np.random.randint(0, 127, (32, 32, 3), dtype=np.uint8)
        results["img"] = Image.fromarray(picture)
        return results


def damage(class_folders, *names):
    for name in names:
        path = class_folders / name
        path.write_bytes(path.read_bytes()[:300])


def trained(classifier, work_dir, epochs=2, workers=0, resume=False, allowed=2):
    cfg = Config(copy.deepcopy(classifier.to_dict()))
    cfg.work_dir, cfg.resume, cfg.experiment_name = str(work_dir), resume, f"bad-{work_dir.name}-{epochs}-{workers}"
    cfg.bad_samples = dict(allowed=allowed)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=100)
    cfg.train_dataloader.update(num_workers=workers, sampler=dict(type="DefaultSampler", shuffle=True))
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type="NoisyPicture"))
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.randomness = dict(seed=3)
    runner = build_runner(cfg)
    runner.train()
    return {name: value.clone() for name, value in runner.model.state_dict().items()}, runner


def listed(work_dir):
    return [json.loads(line) for line in (work_dir / FILE).read_text().splitlines()]


def test_any_number_of_workers_trains_the_same(classifier, class_folders, tmp_path):
    damage(class_folders, "a/1.jpg", "b/2.jpg")
    alone, runner = trained(classifier, tmp_path / "w0")
    together, _ = trained(classifier, tmp_path / "w2", workers=2)
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    for folder in ("w0", "w2"):
        entries = sorted(listed(tmp_path / folder), key=lambda entry: entry["index"])
        assert [entry["path"] for entry in entries] == [str(class_folders / name) for name in ("a/1.jpg", "b/2.jpg")]
        assert all("cannot be decoded" in entry["why"] for entry in entries)
    assert "2 samples could not be read and were replaced (2 allowed)" in hook_of(runner, "BadSamplesHook").words()
    log = next((tmp_path / "w0").rglob("*.log")).read_text()
    assert log.count("replaced by another sample") == 2 and "(2 of 2)" in log


def test_a_resumed_run_counts_on_and_is_the_same(classifier, class_folders, tmp_path):
    damage(class_folders, "a/1.jpg")
    whole, _ = trained(classifier, tmp_path / "whole", epochs=3)
    trained(classifier, tmp_path / "broken", epochs=2)
    resumed, runner = trained(classifier, tmp_path / "broken", epochs=3, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len(listed(tmp_path / "broken")) == 1 and len(hook_of(runner, "BadSamplesHook").told) == 1
    damage(class_folders, "b/0.jpg", "b/1.jpg")
    with pytest.raises(InputError, match=r"makes 3 samples that cannot be read, and bad_samples.allowed=2"):
        trained(classifier, tmp_path / "broken", epochs=5, resume=True)
    trained(classifier, tmp_path / "broken", epochs=1, allowed=5)  # from the beginning: the list, too
    assert len(listed(tmp_path / "broken")) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_none_is_allowed_by_default(workers, classifier, class_folders, tmp_path):
    damage(class_folders, "a/1.jpg")
    with pytest.raises(InputError, match=r"a/1\.jpg: cannot be decoded.*bad_samples=dict\(allowed=10\)"):
        trained(classifier, tmp_path / "work", workers=workers, allowed=0)


def test_an_evaluation_names_the_file(classifier, class_folders, tmp_path):
    damage(class_folders, "b/1.jpg")
    cfg = classifier
    cfg.test_dataloader, cfg.test_evaluator, cfg.test_cfg = cfg.val_dataloader, cfg.val_evaluator, dict(type="TestLoop")
    with pytest.raises(InputError, match=r"b/1\.jpg: cannot be decoded"):
        build_runner(cfg).test()


def test_what_is_no_number_is_refused(classifier):
    classifier.bad_samples = dict(alowed=3)
    with pytest.raises(InputError, match=r"bad_samples=.*give dict\(allowed=N\)"):
        build_runner(classifier).train()


class Samples:
    """Numbers; some cannot be read."""

    def __init__(self, size, bad):
        self.size, self.bad = size, set(bad)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.bad:
            raise InputError(f"{index}.jpg: damaged")
        return index, np.random.random()

    def get_data_info(self, index):
        return dict(img_path=f"{index}.jpg")


def test_a_replacement_follows_from_the_seed_alone(tmp_path):
    reader = SampleReader(Samples(50, range(40)), BadSamples(50, tmp_path), lambda *seeds: np.random.seed(seeds))
    first = {(index, seed): reader(index, (seed,)) for index in range(5) for seed in range(5)}
    np.random.seed(99)
    again = {(index, seed): reader(index, (seed,)) for index in range(5) for seed in range(5)}
    assert first == again and all(40 <= sample[0] < 50 for sample in first.values())
    assert len({sample[0] for sample in first.values()}) > 5  # not always the same one
    with pytest.raises(InputError, match="100 samples drawn in its place cannot be read either"):
        SampleReader(Samples(50, range(50)), BadSamples(50, tmp_path))(7, (1,))


def test_the_list_bears_a_line_that_was_cut_off(tmp_path):
    reader = SampleReader(Samples(9, [1, 2]), BadSamples(9, tmp_path))
    reader(1)
    with open(tmp_path / FILE, "a") as file:
        file.write('{"index": 5, "pa')
    reader(2)
    reader(2)
    assert [bad.index for bad in BadSamples(9, tmp_path).read()] == [1, 2]
