"""The configs of COCO, ADE20K and ImageNet: held to the figures of their papers, which their docstrings state."""

import ast
import datetime
import fnmatch
import re
from pathlib import Path

import pytest

from bestiary.engine.complexity import build_meta, count_multiply_adds, count_parameters
from bestiary.engine.configs import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(
    path
    for path in CONFIGS.glob("*/*.py")
    if path.parent.name not in ("_base_", "quickstart", "ablations", "mydata") and not path.stem.endswith("_digits")
)
PARAMETERS, OPERATIONS = re.compile(r"([\d.]+) M parameters"), re.compile(r"([\d.]+) G multiply-adds")

# What the sources say of a recipe: rate and batch that belong together, epochs or iterations. The last that fits.
RECIPES = {
    "*_in1k": ("AdamW", 1e-3, 1024, 300),
    "maxvit/*_in1k": ("AdamW", 3e-3, 4096, 300),
    "maxvit/*_in1k-*": ("AdamW", 5e-5, 512, 30),
    "*former/*former*_32xb128_in1k": ("AdamW", 4e-3, 4096, 300),
    "metaformer/caformer-*_32xb128_in1k": ("lamb", 8e-3, 4096, 300),
    "metaformer/convformer-*-384": ("AdamW", 5e-5, 1024, 30),
    "metaformer/caformer-*-384": ("lamb", 1e-4, 1024, 30),
    "shvit/*_8xb256_in1k": ("AdamW", 4e-3, 2048, 300),
    "shvit/*-512": ("AdamW", 4e-3, 512, 30),
    "resnet/*_in1k": ("SGD", 0.1, 256, 100),
    "mobilenet_v2/*_in1k": ("SGD", 0.045, 96, 400),
    "dinat/*large*_in22k-pre_in1k*": ("AdamW", 5e-5, 512, 30),
    "*_1x_coco": ("AdamW", 1e-4, 16, 12),
    "poolformer/*_1x_lvis-v1": ("AdamW", 2e-4, 16, 12),
    "*_3x_coco": ("AdamW", 1e-4, 16, 36),
    "*/cascade-mask-rcnn_dinat-*base_*": ("AdamW", 7.5e-5, 16, 36),
    "*/cascade-mask-rcnn_dinat-large_*": ("AdamW", 7.5e-5, 16, 36),
    "*/cascade-mask-rcnn_dinat-s-large_*": ("AdamW", 5e-5, 16, 36),
    "maxvit/cascade-mask-rcnn_maxvit-*": ("AdamW", 3e-3, 256, 36),
    "maxvit/cascade-mask-rcnn_maxvit-tiny*": ("AdamW", 1e-3, 256, 36),
    "poolformer/mask-rcnn_*": ("AdamW", 2e-4, 16, 12),
    "resnet/*_coco": ("SGD", 0.01, 8, 12),
    "*/upernet_*": ("AdamW", 6e-5, 16, 160_000),
    "metaformer/upernet_*": ("AdamW", 1e-4, 16, 160_000),
    "poolformer/fpn_*": ("AdamW", 2e-4, 32, 40_000),
    "biformer/fpn_*": ("AdamW", 2e-4, 32, 80_000),
    "*/dino-*": ("AdamW", 1e-4, 16, 12),
    "*/mask2former_*_coco*": ("AdamW", 1e-4, 16, 737_500),
    "*/mask2former_*_ade20k*": ("AdamW", 1e-4, 16, 160_000),
    "mhs_vm/unet_*_isic*": ("AdamW", 1e-3, 32, 300),
    "mhs_vm/unet_*_synapse*": ("AdamW", 1e-3, 32, 320),
    "*/mask2former_*_cityscapes*": ("AdamW", 1e-4, 16, 90_000),
}


def name_of(path):
    return f"{path.parent.name}/{path.stem}"


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def stated(pattern, text):
    """The figure that a config owns up to, as text: what is counted here if it says so, else what is published."""
    _, _, here = text.partition("Counted here: ")
    found = pattern.search(here) or pattern.search(text)
    return found and found[1]


def agrees(value, text):
    """Within a hundredth, or as the figure is rounded."""
    last_place = 10.0 ** -len(text.partition(".")[2])
    return abs(value - float(text)) <= max(0.01 * float(text), 0.501 * last_place)


def turn(paths, share):
    """One of every `share`, others every day."""
    return paths[datetime.date.today().toordinal() % share :: share]


def size_of_picture(path, cfg):
    """Height and width at which papers count."""
    if path.stem.endswith(("_in1k", "-384", "-512")) or "_in1k" in path.stem:
        side = next(step for step in cfg.test_pipeline if step.type == "TimmTransform").input_size
        return side, side
    if "ade20k" in path.stem:
        return 512, 2048
    return (896, 896) if "896" in path.stem else (800, 1280)


def test_there_are_configs_for_every_family():
    families = {path.parent.name for path in FILES}
    assert families == {
        *("biformer", "davit", "dinat", "focalnet", "maxvit", "metaformer", "mhs_vm", "mobilenet_v2", "nat"),
        *("poolformer", "resnet", "shvit"),
    }
    assert len(FILES) > 240


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_says_what_was_published_and_where(path):
    text = docstring(path)
    published = re.search(r"Published: .*\((the|authors'|PolyNeXt).*\)\.", text, re.DOTALL)
    nobody = re.search(r"[Nn]o(body has)? published", text)
    assert published or nobody, text
    assert "arXiv:" in text.splitlines()[0] + text.splitlines()[1]
    if "Counted here: " in text:
        assert re.search(r"Counted here: [^;]+; \S+", text), "a figure that is not the published one has a reason"


def check_parameters(path):
    figure = stated(PARAMETERS, docstring(path))
    counted = count_parameters(build_meta(load_config(str(path)))) / 1e6
    assert figure is None or agrees(counted, figure), (counted, figure)


@pytest.mark.parametrize("path", turn(FILES, 4), ids=name_of)
def test_parameters(path):
    check_parameters(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_parameters_of_all(path):
    check_parameters(path)


def check_multiply_adds(path):
    figure = stated(OPERATIONS, docstring(path))
    cfg = load_config(str(path))
    counted = count_multiply_adds(build_meta(cfg), *size_of_picture(path, cfg)) / 1e9
    assert agrees(counted, figure), (counted, figure)


COUNTED = [path for path in FILES if stated(OPERATIONS, docstring(path))]


@pytest.mark.parametrize("path", turn(COUNTED, 10), ids=name_of)
def test_multiply_adds(path):
    check_multiply_adds(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", COUNTED, ids=name_of)
def test_multiply_adds_of_all(path):
    check_multiply_adds(path)


def check_recipe(path):
    cfg = load_config(str(path))
    optimizer = cfg.optim_wrapper.optimizer
    kind = optimizer.get("name", optimizer.type) if optimizer.type.endswith("TimmOptimizer") else optimizer.type
    length = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters
    found = (kind, optimizer.lr, cfg.auto_scale_lr.base_batch_size, length)
    wanted = [recipe for pattern, recipe in RECIPES.items() if fnmatch.fnmatch(name_of(path), pattern)]
    assert wanted and found == wanted[-1], (path.stem, found, wanted)
    # The name says on how many devices with how many pictures: 8xb128. mmdet's 1x and 3x are 8xb2.
    named = re.search(r"_(\d+)xb(\d+)", path.stem)
    if named:
        assert cfg.train_dataloader.batch_size == int(named[2]), path.stem
        assert int(named[1]) * int(named[2]) == cfg.auto_scale_lr.base_batch_size, path.stem
    steps = cfg.param_scheduler
    last = steps[-1] if isinstance(steps, list) else steps
    assert last.end == length, (path.stem, "its schedule does not end with the training")


@pytest.mark.parametrize("path", turn(FILES, 6), ids=name_of)
def test_rate_batch_and_length_are_the_recipes(path):
    check_recipe(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_recipes_of_all(path):
    check_recipe(path)
