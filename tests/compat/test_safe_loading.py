"""Files that a user loads run no code; what they may hold still loads. The attacks are in tools/chaos_hostile.py."""

import io
import os
import pickle
import zipfile

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import nn

from bestiary.compat.restricted_pickle import restricted_loads
from bestiary.errors import InputError
from bestiary.inputs.class_sample import ClassSample


def values():
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    boxes, mask = torch.rand(3, 4, generator=generator), np.stack([np.eye(4, dtype=np.uint8)] * 3)
    detected, segmented = DetDataSample(metainfo=dict(img_path="a.jpg")), SegDataSample()
    detected.pred_instances = InstanceData(bboxes=boxes, masks=BitmapMasks(mask, 4, 4), wrapped=HorizontalBoxes(boxes))
    segmented.pred_sem_seg = PixelData(data=torch.ones(1, 4, 4, dtype=torch.int64))
    return {
        "plain": dict(a=(1, 2.5), b=[None, True], c={3}, d=b"xy", e=1j, f="é"),
        "arrays": [
            np.arange(6.0).reshape(2, 3),
            np.asfortranarray(np.ones((3, 4))),
            np.array(["a", "bc"]),
            np.float64(3),
        ],
        "objects": np.array([1, "a", None], dtype=object),
        "tensors": [
            boxes,
            boxes.half(),
            boxes.bfloat16(),
            boxes[1:],
            torch.ones(2, dtype=torch.bool),
            torch.Size([1, 2]),
        ],
        "dtypes": [torch.float32, np.dtype("int32")],
        "parameter": nn.Parameter(boxes),
        "detected": detected,
        "segmented": segmented,
        "classified": ClassSample().set_gt_label(3),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, BaseDataElement):
        return type(a) is type(b) and same(dict(a.all_items()), dict(b.all_items()))
    return same(vars(a), vars(b)) if hasattr(a, "__dict__") and vars(a) else a == b


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_results_still_load(protocol, tmp_path):
    for name, value in values().items():
        mmengine.dump(value, tmp_path / "x.pkl", protocol=protocol)
        assert same(value, mmengine.load(tmp_path / "x.pkl")), name


def test_what_dump_results_writes_loads(tmp_path):
    from mmengine.evaluator import DumpResults

    metric = DumpResults(str(tmp_path / "out.pkl"))
    samples = [values()[name].to_dict() for name in ("detected", "classified")]
    metric.process(None, samples)
    metric.evaluate(2)
    assert len(mmengine.load(tmp_path / "out.pkl")) == 2


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"nonsense", pickle.dumps(list(range(999)))[:-20]])
def test_no_pickle(content, tmp_path):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pkl: not a pickle of plain data, or one that was cut off"):
        mmengine.load(tmp_path / "x.pkl")


NAMES = [
    "builtins eval",
    "builtins getattr",
    "os system",
    "subprocess Popen",
    "numpy.testing.utils runstring",
    "torch load",
]
NAMES += ["mmengine.structures.base_data_element copy.copy", "mmdet.structures.mask.structures np.load"]
NAMES += ["mmdet.structures.mask.structures print", "torch.storage _load_from_bytes.__globals__"]


@pytest.mark.parametrize("name", NAMES)
def test_other_names_are_refused(name):
    module, attribute = name.split(" ")
    asked = f"c{module}\n{attribute}\n.".encode()
    with pytest.raises(InputError, match="which could run any code|not a pickle of plain data"):
        restricted_loads(asked)


def test_yaml_keeps_tuples_and_nothing_else(tmp_path):
    config = dict(a=(1, 2), b=[1.5, {"c": "é"}], d=None)
    Config(config).dump(tmp_path / "c.yaml")
    assert mmengine.load(tmp_path / "c.yaml")["a"] == (1, 2)
    assert Config.fromfile(tmp_path / "c.yaml").to_dict() == config


def test_a_pretrained_backbone_with_code_is_refused(tmp_path):
    from mmengine.model import BaseModule

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save(dict(state_dict=Evil()), tmp_path / "evil.pth")
    module = BaseModule(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "evil.pth")))
    module.layer = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"evil\.pth: the file asks for 'posix.mkdir'.* was not loaded"):
        module.init_weights()
    assert not (tmp_path / "executed").exists()


def test_a_zipped_checkpoint_that_is_a_bomb(tmp_path):
    """The form of torch before 1.6, zipped by hand, which load_url still unpacks."""
    with zipfile.ZipFile(tmp_path / "old.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("weights", bytes(10**6))
    with pytest.raises(InputError, match="would unpack from .* bytes to 1000000"):
        torch.hub.load_state_dict_from_url("https://localhost/old.pth", model_dir=str(tmp_path))
    saved = io.BytesIO()
    torch.save({"w": torch.arange(3)}, saved, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "new.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("weights", saved.getvalue())
    loaded = torch.hub.load_state_dict_from_url("https://localhost/new.pth", model_dir=str(tmp_path), weights_only=True)
    assert torch.equal(loaded["w"], torch.arange(3))


def test_ordinary_types_of_nms_still_work():
    from mmcv.ops import batched_nms

    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)
    for kind in ("nms", "soft_nms"):
        kept = batched_nms(boxes, scores, classes, dict(type=kind, iou_threshold=0.5))[1]
        assert kept.tolist()[0] == 0 and 2 in kept.tolist()
