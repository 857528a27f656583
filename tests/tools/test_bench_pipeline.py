"""bestiary benchmark pipeline on a few pictures."""

import copy
import json

import pytest
import torch

from bestiary.errors import InputError
from bestiary.tools.bench_pipeline import check_same, main


def test_the_record_of_a_small_run(tmp_path, capsys):
    out = tmp_path / "record.json"
    command = ["--images", "3", "--rounds", "1", "--pipelines", "coco_instance", "coco_896", "--out", str(out)]
    assert main(command) == 0
    assert "pictures/s" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert set(record["results"]) == {"coco_instance", "coco_896"}
    for found in record["results"].values():
        assert found["plain"] > found["ours"] > 0 and found["plain_bytes"] > 1.5 * found["ours_bytes"] > 0
    assert main(["--images", "0"]) == 1
    assert "--images and --rounds want at least 1" in capsys.readouterr().err


def test_a_difference_is_found():
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmengine.structures import InstanceData

    sample = DetDataSample()
    for part in ("gt_instances", "ignored_instances"):
        boxes = HorizontalBoxes(torch.rand(2, 4))
        setattr(sample, part, InstanceData(bboxes=boxes, labels=torch.tensor([1, 2])))
    plain = dict(inputs=torch.zeros(3, 2, 2), data_samples=sample)
    ours = copy.deepcopy(plain)
    check_same(plain, ours, "a")
    ours["data_samples"].gt_instances.labels[1] = 3
    with pytest.raises(InputError, match="a: the two pipelines give different"):
        check_same(plain, ours, "a")
    with pytest.raises(InputError, match="only one"):
        check_same(plain, None, "a")
