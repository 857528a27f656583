"""How the commands explain themselves: what they do, and examples that can be copied."""

import argparse
import textwrap

WIDTH = 100  # columns, of what argparse does not wrap itself
DETECTOR = "quickstart/mask_rcnn_poolformer_digits"
CLASSIFIER = "quickstart/classifier_poolformer_digits"
RUN = "work_dirs/mask_rcnn_poolformer_digits"

# Of each command and each part of one; a test parses them all.
EXAMPLES = {
    "train": (
        f"bestiary train {DETECTOR}",
        "bestiary train mydata/mask_rcnn_poolformer --data train.json pictures val.json pictures --amp",
        f"bestiary train {DETECTOR} --resume --cfg-options train_cfg.max_epochs=24",
    ),
    "test": (
        f"bestiary test {DETECTOR} {RUN}/epoch_12.pth --per-class",
        f"bestiary test {DETECTOR} {RUN}/epoch_12.pth --tta --save-predictions predicted",
    ),
    "infer": (
        f"bestiary infer {DETECTOR} {RUN}/epoch_12.pth picture.jpg --out predicted",
        f"bestiary infer {RUN} {RUN} photos/ 'more/**/*.jpg' --out drawn --classes cat dog --score 0.5 --sheet 12",
        f"bestiary infer {DETECTOR} {RUN}/epoch_12.pth val/ --coco results.json --batch 8",
        "bestiary infer CONFIG CHECKPOINT scenes/ --labels label_pngs --tta",
        "bestiary infer CONFIG CHECKPOINT clip.mp4 --out drawn",
    ),
    "data": (
        "bestiary data digits data/digits",
        f"bestiary data check {DETECTOR}",
        "bestiary data verify coco data/coco",
        "bestiary data prepare yolo SRC DST",
    ),
    "data digits": (
        "bestiary data digits data/digits",
        "bestiary data digits small --train 20 --val 5 --layouts coco",
    ),
    "data check": (
        f"bestiary data check {DETECTOR}",
        f"bestiary data check {DETECTOR} --cfg-options train_dataloader.dataset.ann_file=mine.json",
    ),
    "data verify": (
        "bestiary data verify coco data/coco --archives",
        "bestiary data verify ade20k data/ade --write-checksums ade.sha256",
    ),
    "data prepare": (
        "bestiary data prepare yolo SRC DST --classes cat dog",
        "bestiary data prepare csv boxes.csv DST --val 0.1",
        "bestiary data prepare shards data/imagenet DST",
    ),
    "data unpack": ("bestiary data unpack annotations.zip data/coco",),
    "quickstart": ("bestiary quickstart", "bestiary quickstart --fresh"),
    "ablate": (
        "bestiary ablate --fast",
        "bestiary ablate --mixers identity Pooling --jobs 1",
    ),
    "convert": (
        "bestiary convert timm://poolformer_s12 ours.safetensors --arch poolformer_s12",
        "bestiary convert ours.safetensors theirs.pth --arch poolformer_s12 --to timm",
    ),
    "check": (
        f"bestiary check {DETECTOR}",
        "bestiary check my_config.py --no-data",
    ),
    "check_configs": (
        "bestiary check_configs --all",
        "bestiary check_configs davit shvit my_config.py --debug",
        "bestiary check_configs --upstream 'mmdet/[a-c]*'",
    ),
    "flops": (
        "bestiary flops davit/mask-rcnn_davit-tiny_fpn_1x_coco",
        "bestiary flops my_config.py --shape 512 512",
    ),
    "compare": (
        "bestiary compare poolformer_s12 shvit_s4 timm:resnet50 --threads 1",
        "bestiary compare davit_tiny convnext_tiny --batch 1 32 --modes eager compiled --memory",
        "bestiary compare poolformer_s12 shvit_s1 --out speed.json --plot speed.svg --csv speed.csv",
        "bestiary compare --from speed.json --plot narrow.png --plot-width 4",
    ),
    "benchmark": (
        "bestiary benchmark backbones poolformer_s12 --memory",
        "bestiary benchmark kernels --help",
    ),
    "benchmark backbones": (
        "bestiary benchmark backbones poolformer_s12 shvit_s4 --batch 8 --out backbones.json",
        "bestiary benchmark backbones --compile --passes inference",
    ),
    "benchmark backends": (
        "bestiary benchmark backends biformer_small --backends cpu gather --batch 8 --memory",
        "bestiary benchmark backends nat_mini --backends cpu sdpa reference",
    ),
    "benchmark evaluation": ("bestiary benchmark evaluation --images 500 --instances 3600",),
    "benchmark pipeline": ("bestiary benchmark pipeline --pipelines coco_instance --rounds 2",),
    "benchmark kernels": (
        "bestiary benchmark kernels --shapes headline --dtype float32 bfloat16",
        "bestiary benchmark kernels --operator selective_scan --threads 2",
        "bestiary benchmark kernels --tune",
    ),
    "benchmark loop": ("bestiary benchmark loop --rounds 7 --out loop.json",),
    "benchmark scaling": ("bestiary benchmark scaling --out scaling.json",),
    "benchmark training": ("bestiary benchmark training --out training.json",),
    "merge": ("bestiary merge work_dirs/my_run/epoch_12.sharded weights.safetensors",),
    "report": (
        "bestiary report work_dirs/my_run",
        "bestiary report work_dirs --out all_runs.html",
    ),
    "card": (
        "bestiary card --check",
        "bestiary card davit --write",
        "bestiary card --write --measure",
        "bestiary card --export work_dirs/mine --out README.md",
    ),
    "chaos": (
        "bestiary chaos kill --trials 50 --out kill.json",
        "bestiary chaos resume --rows mixup 'DDP x 2'",
        "bestiary chaos ranks --out ranks.json",
    ),
    "list": ("bestiary list", "bestiary list 'davit*'"),
    "doctor": ("bestiary doctor", "bestiary doctor --json > doctor.json"),
}


def command_parser(name: str, doc: str, epilog: str = "") -> argparse.ArgumentParser:
    """The parser of `bestiary NAME`, whose --help ends in the examples of `EXAMPLES`.

    Args:
        name: of the command, with that of its part where it has several: 'benchmark kernels'.
        doc: the module's docstring.
        epilog: words before the examples; a line that begins with blanks stays as it is.
    """
    return explained(argparse.ArgumentParser(prog=f"bestiary {name}"), name, doc, epilog)


def explained(parser: argparse.ArgumentParser, name: str, doc: str = "", epilog: str = "") -> argparse.ArgumentParser:
    """Give a parser its description and its examples."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _filled(doc)
    examples = "\n".join(["examples:", *(f"  {line}" for line in EXAMPLES[name])])
    parser.epilog = "\n\n".join(part for part in (_filled(epilog), examples) if part)
    return parser


def _filled(text: str) -> str:
    """Paragraphs wrapped anew; those with lines of their own layout are left as they are."""
    paragraphs = [part for part in text.strip().split("\n\n") if part]
    return "\n\n".join(part if "\n  " in part else textwrap.fill(" ".join(part.split()), WIDTH) for part in paragraphs)
