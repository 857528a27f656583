"""What the downloads of known data sets hold: counts and names as their authors give them.

Counts: ImageNet-1k (arXiv:1409.0575), ImageNetV2 (arXiv:1902.10811), ReaL (arXiv:2006.07159), COCO 2017
(arXiv:1405.0312), LVIS v1 (arXiv:1908.03195), ADE20K's scene parsing benchmark (arXiv:1608.05442), Cityscapes
(arXiv:1604.01685), PASCAL VOC 2007 and 2012, ISIC 2017 (arXiv:1710.05006) and 2018 (arXiv:1902.03368), Synapse's
multi-atlas abdomen in TransUNet's split (arXiv:2102.04306).
"""

from collections.abc import Callable

from timm.data import ImageNetInfo

from .parts import ClassFolders, CocoFile, Files, NameList, Pairs, Part, RealLabels

VAL_FOLDERS = "the release has its 50,000 pictures in one folder: move each into its class's, as the devkit's list says"


def imagenet() -> list[Part]:
    """ImageNet-1k in class folders, as torchvision, timm and `ImageFolder` read it."""
    classes = tuple(ImageNetInfo("imagenet-1k").label_names())
    names = "ILSVRC2012_val_{:08d}.JPEG"
    return [
        ClassFolders("train", classes=classes, count=1_281_167, each=(732, 1300)),
        ClassFolders("val", classes=classes, count=50_000, each=(50, 50), name=names, how=VAL_FOLDERS),
        RealLabels("real.json", optional=True, count=50_000, labelled=46_837),
    ]


def imagenet_v2() -> list[Part]:
    """ImageNetV2, one of its three choices of pictures: folders 0 to 999."""
    return [ClassFolders(".", classes=tuple(map(str, range(1000))), count=10_000, each=(10, 10))]


def coco() -> list[Part]:
    """COCO 2017: pictures, instances; keypoints if they are there."""
    from mmdet.datasets import CocoDataset

    classes = tuple(CocoDataset.METAINFO["classes"])
    return [
        Files("train2017", count=118_287),
        Files("val2017", count=5_000),
        Files("test2017", count=40_670, optional=True),
        CocoFile("annotations/instances_train2017.json", images=118_287, annotations=860_001, classes=classes,
                 pictures="train2017"),
        CocoFile("annotations/instances_val2017.json", images=5_000, annotations=36_781, classes=classes,
                 pictures="val2017"),
        CocoFile("annotations/person_keypoints_train2017.json", images=118_287, annotations=262_465,
                 classes=("person",), optional=True),
        CocoFile("annotations/person_keypoints_val2017.json", images=5_000, annotations=11_004,
                 classes=("person",), optional=True),
    ]  # fmt: skip


def lvis() -> list[Part]:
    """LVIS v1 beside COCO's pictures."""
    from mmdet.datasets import LVISV1Dataset

    classes = tuple(LVISV1Dataset.METAINFO["classes"])
    return [
        Files("train2017", count=118_287),
        Files("val2017", count=5_000),
        CocoFile("annotations/lvis_v1_train.json", images=100_170, annotations=1_270_141, classes=classes, pictures=""),
        CocoFile("annotations/lvis_v1_val.json", images=19_809, annotations=244_707, classes=classes, pictures=""),
    ]


def ade20k() -> list[Part]:
    """ADE20K of the scene parsing benchmark, 150 classes: ADEChallengeData2016."""
    parts: list[Part] = []
    for split, name, count in (("training", "train", 20_210), ("validation", "val", 2_000)):
        names = f"ADE_{name}_{{:08d}}"
        parts += [
            Files(f"images/{split}", count=count, name=names + ".jpg"),
            Files(f"annotations/{split}", suffix=".png", count=count, name=names + ".png", labels=(0, 150)),
        ]
    return parts


def cityscapes() -> list[Part]:
    """Cityscapes' fine annotations, with the label images that mmseg trains with."""
    parts: list[Part] = []
    how = "made of *_gtFine_polygons.json by `python -m cityscapesscripts.preparation.createTrainIdLabelImgs`"
    for split, count in (("train", 2_975), ("val", 500)):
        labels = "_gtFine_labelTrainIds.png"
        parts += [
            Files(f"leftImg8bit/{split}", suffix="_leftImg8bit.png", count=count),
            Files(f"gtFine/{split}", suffix=labels, count=count, labels=(0, 18), how=how),
            Pairs(f"leftImg8bit/{split}", labels=f"gtFine/{split}", suffix="_leftImg8bit.png", label_suffix=labels),
        ]
    return parts


def voc() -> list[Part]:
    """PASCAL VOC 2007 and 2012 as mmdet and mmseg read them: a folder VOC2007 and one VOC2012."""
    parts: list[Part] = []
    for year, split, count in (("2007", "trainval", 5_011), ("2007", "test", 4_952), ("2012", "trainval", 11_540)):
        folder = f"VOC{year}"
        of = ((f"{folder}/JPEGImages", ".jpg"), (f"{folder}/Annotations", ".xml"))
        parts.append(NameList(f"{folder}/ImageSets/Main/{split}.txt", count=count, of=of, optional=split == "test"))
    for split, count in (("train", 1_464), ("val", 1_449)):
        of = (("VOC2012/JPEGImages", ".jpg"), ("VOC2012/SegmentationClass", ".png"))
        parts.append(NameList(f"VOC2012/ImageSets/Segmentation/{split}.txt", count=count, of=of, optional=True))
    parts += [Files("VOC2007/JPEGImages"), Files("VOC2012/JPEGImages", count=17_125)]
    return parts


ISIC2017 = {  # pictures, masks, number
    "training": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", 2_000),
    "validation": ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth", 150),
    "test": ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth", 600),
}
ISIC2018 = {
    "training": ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", 2_594),
    "validation": ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth", 100),
    "test": ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth", 1_000),
}


def isic2017() -> list[Part]:
    """ISIC 2017, part 1: dermoscopic pictures and masks of lesions."""
    return _isic(ISIC2017)


def isic2018() -> list[Part]:
    """ISIC 2018, task 1: dermoscopic pictures and masks of lesions."""
    return _isic(ISIC2018)


def _isic(splits: dict[str, tuple[str, str, int]]) -> list[Part]:
    parts: list[Part] = []
    for split, (pictures, labels, count) in splits.items():
        parts += [
            Files(pictures, count=count, optional=split != "training"),
            Files(labels, suffix="_segmentation.png", count=count, optional=split != "training"),
            Pairs(pictures, labels=labels, label_suffix="_segmentation.png", optional=True),
        ]
    return parts


def synapse() -> list[Part]:
    """Synapse's multi-atlas abdomen: 30 scans with labels, as NIfTI."""
    return [Files("img", suffix=".nii.gz", count=30), Files("label", suffix=".nii.gz", count=30)]


LAYOUTS: dict[str, Callable[[], list[Part]]] = {
    "imagenet": imagenet,
    "imagenet-v2": imagenet_v2,
    "coco": coco,
    "lvis": lvis,
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "voc": voc,
    "isic2017": isic2017,
    "isic2018": isic2018,
    "synapse": synapse,
}
