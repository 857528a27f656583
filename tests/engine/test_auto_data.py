"""`classes = "auto"`: what a config is made of by a person's data."""

import json

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from own_data import NAMES, make_own

from bestiary.engine.auto_data import fit_to_data, name_data, wants_data
from bestiary.engine.configs import load_config
from bestiary.errors import InputError
from bestiary.inputs.check_heads import head_classes
from bestiary.inputs.held_out import HeldOut

DETECTOR, BOXES = "mydata/mask-rcnn_poolformer", "mydata/retinanet_poolformer"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return make_own(tmp_path_factory.mktemp("own"))


def fitted(config, *paths, **entries):
    cfg = load_config(config)
    name_data(cfg, [str(path) for path in paths])
    for key, value in entries.items():
        cfg[key] = value
    return cfg, fit_to_data(cfg)


def change(own, tmp_path, name, alter):
    content = json.loads((own / name).read_text())
    alter(content)
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return path


def test_objects(own):
    cfg, notes = fitted(DETECTOR, own / "ann.json", own / "pics")
    names = tuple(NAMES.values())
    assert cfg.classes == names and not wants_data(cfg) and notes[0].startswith("3 classes: 0 dolls, Käse & Brot")
    assert set(head_classes(cfg.model).values()) == {3} and len(head_classes(cfg.model)) == 2
    init_default_scope("mmdet")
    parts = [DATASETS.build(cfg[f"{split}_dataloader"].dataset) for split in ("train", "val")]
    assert [len(part) for part in parts] == [8, 2] and all(part.metainfo["classes"] == names for part in parts)
    ids = [[part.get_data_info(index)["img_id"] for index in range(len(part))] for part in parts]
    assert sorted(ids[0] + ids[1]) == [100 + 7 * number for number in range(10)] and ids[1] == [128, 163]
    assert {label for part in parts for i in range(len(part)) for label in part.get_cat_ids(i)} == {0, 1, 2}
    sizes = [step.scale for step in cfg.train_dataloader.dataset.dataset.pipeline if step.type == "Resize"]
    assert sizes == [(96, 96)], "pictures of 80 pixels are not blown up to 640"


def test_validation_data_of_their_own(own):
    cfg, _ = fitted(DETECTOR, own / "ann.json", own / "pics", own / "boxes.json", own / "pics")
    assert cfg.train_dataloader.dataset.type == cfg.val_dataloader.dataset.type == "CocoDataset"
    assert cfg.val_dataloader.dataset.ann_file == str(own / "boxes.json")


def test_without_masks_the_mask_head_goes(own):
    cfg, notes = fitted(DETECTOR, own / "boxes.json", own / "pics")
    assert cfg.model.roi_head.mask_head is None and any("without masks" in note for note in notes)
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == "bbox"
    assert "with_mask=True" not in repr(cfg.train_dataloader)


@pytest.mark.parametrize("config", [DETECTOR, BOXES])
def test_anchors_reach_the_boxes(own, tmp_path, config):
    """By loops: the tenth of the boxes from below, resized, is what the smallest anchor is as large as."""
    cfg, notes = fitted(config, own / "ann.json", own / "pics")
    sides = sorted(
        (e["bbox"][2] * e["bbox"][3]) ** 0.5 * 96 / 80
        for e in json.loads((own / "ann.json").read_text())["annotations"]
    )
    at = 0.1 * (len(sides) - 1)
    small = sides[int(at)] + (at - int(at)) * (sides[int(at) + 1] - sides[int(at)])
    anchors = (cfg.model.get("rpn_head") or cfg.model.bbox_head).anchor_generator
    scale = anchors.get("octave_base_scale") or anchors.scales[0]
    assert scale * min(anchors.strides) == pytest.approx(
        max(small, min(anchors.strides)), abs=0.05 * min(anchors.strides) + 1e-9
    )
    assert any(note.startswith("anchors of") for note in notes)


def test_anchors_that_fit_are_left(own, tmp_path):
    def grow(content):
        for index, entry in enumerate(content["annotations"]):
            side = 30 + 10 * index
            entry.update(bbox=[0, 0, side, side], area=side**2)
        for picture in content["images"]:
            picture.update(width=640, height=640)

    cfg, notes = fitted(DETECTOR, change(own, tmp_path, "ann.json", grow), own / "pics")
    assert cfg.model.rpn_head.anchor_generator.scales == [8] and len(notes) == 1
    assert cfg.model.rpn_head.anchor_generator.ratios == [0.5, 1.0, 2.0]


def test_long_boxes_get_long_anchors(own, tmp_path):
    def stretch(content):
        for entry in content["annotations"]:
            entry.update(bbox=[0, 0, 60, 10], area=600)

    cfg, _ = fitted(DETECTOR, change(own, tmp_path, "ann.json", stretch), own / "pics")
    assert cfg.model.rpn_head.anchor_generator.ratios == [0.25, 0.5, 1.0, 2.0]


def test_regions(own, tmp_path):
    cfg, _ = fitted("mydata/upernet_poolformer", own / "pics", own / "labels")
    assert cfg.classes == ("class 0", "class 1", "class 2") and set(head_classes(cfg.model).values()) == {3}
    data = cfg.train_dataloader.dataset.dataset
    assert (data.img_suffix, data.seg_map_suffix) == (".jpg", ".png") and len(data.metainfo.palette) == 3
    (tmp_path / "names.txt").write_text("ground\nround\nother\nnever seen\n")
    cfg, _ = fitted("mydata/upernet_poolformer", own / "pics", own / "labels", class_names=str(tmp_path / "names.txt"))
    assert cfg.classes[-1] == "never seen" and cfg.model.decode_head.num_classes == 4
    (tmp_path / "names.txt").write_text("ground\nround\n")
    with pytest.raises(InputError, match="labels: has the label 2; the 2 class names are for 0 to 1"):
        fitted("mydata/upernet_poolformer", own / "pics", own / "labels", class_names=str(tmp_path / "names.txt"))


def test_folders(own):
    cfg, _ = fitted("mydata/classifier_poolformer", own / "folders")
    assert cfg.classes == ("a", "b c") and cfg.model.head.num_classes == 2 and cfg.val_evaluator.topk == (1,)
    part = DATASETS.build(dict(cfg.val_dataloader.dataset, _scope_="bestiary"))
    assert sorted(part.get_data_info(i)["gt_label"] for i in range(len(part))) == [0, 1]


def test_what_does_not_fit(own, tmp_path):
    with pytest.raises(
        InputError, match="has no annotations, pictures: name your data by .* --data ANNOTATIONS PICTURES"
    ):
        fit_to_data(load_config(DETECTOR))
    with pytest.raises(InputError, match="3 paths; this config takes ANNOTATIONS PICTURES"):
        fitted(DETECTOR, "a", "b", "c")
    with pytest.raises(InputError, match="names its data itself"):
        name_data(load_config("quickstart/classifier_poolformer_digits"), ["x"])
    with pytest.raises(InputError, match="nowhere.json: no such annotation file"):
        fitted(DETECTOR, "nowhere.json", own / "pics")
    path = change(own, tmp_path, "ann.json", lambda content: content["categories"][1].update(name="type"))
    with pytest.raises(InputError, match="categories of one name: 'type'"):
        fitted(DETECTOR, path, own / "pics")
    path = change(own, tmp_path, "ann.json", lambda content: content.update(annotations=[]))
    with pytest.raises(InputError, match="has no object with a box"):
        fitted(DETECTOR, path, own / "pics")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: the picture folder is empty"):
        fitted("mydata/upernet_poolformer", tmp_path / "empty", own / "labels")


class Numbers:
    """A data set of numbers whose pipeline refuses the odd ones."""

    metainfo = dict(classes=("n",))

    def __init__(self, count):
        self.count, self.asked = count, []

    def full_init(self):
        pass

    def __len__(self):
        return self.count

    def prepare_data(self, index):
        self.asked.append(index)
        return None if index % 2 else index


@pytest.mark.parametrize("count", [5, 7, 11])
@pytest.mark.parametrize("every", [2, 3, 5])
def test_two_parts_are_the_whole(count, every):
    parts = [HeldOut(Numbers(count), every, held_out) for held_out in (False, True)]
    indices = [part._indices for part in parts]
    assert sorted(indices[0] + indices[1]) == list(range(count)) and len(indices[1]) == count // every


def test_what_a_pipeline_refuses_is_replaced_from_the_same_part():
    np.random.seed(0)
    data = Numbers(20)
    part = HeldOut(data, 5)
    assert {part[index] for index in range(len(part))} <= set(part._indices)
    assert set(data.asked) <= set(part._indices)
    refusing = Numbers(4)
    refusing.prepare_data = lambda index: None
    with pytest.raises(InputError, match="gave nothing for 1000 samples"):
        HeldOut(refusing, 2)[0]
    with pytest.raises(InputError, match="2 samples, of which every 5th"):
        HeldOut(Numbers(2), 5, held_out=True)
    with pytest.raises(InputError, match="every=1"):
        HeldOut(Numbers(2), 1)
