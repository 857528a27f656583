"""Measure speed and memory on this machine: bestiary benchmark kernels --help"""

import importlib
import sys

from bestiary.tools.parsers import command_parser

SUBJECTS = {  # name: what is measured; the module bestiary.tools.bench_NAME has its main(argv)
    "backbones": "our backbones against timm's of the same weights, inference and training",
    "backends": "a backbone of ours with one backend of its operators after the other",
    "loop": "an iteration of `bestiary train` against a bare PyTorch loop's, on the quickstart's models",
    "scaling": "two ranks of one thread against one process of two: time, and memory a rank",
    "evaluation": "COCO's scores by faster-coco-eval and by pycocotools, on a synthetic set",
    "pipeline": "the detection configs' data pipelines against mmdet's plain ones",
    "training": "a training step in bf16, with recomputed activations, channels last, compiled",
    "kernels": "fused operators against what else computes the same; --tune measures which backend to choose",
}


def main(argv: list[str] | None = None) -> int:
    """Hand the arguments on to the subject's own tool; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    lines = "\n".join(f"  {name:10s} {what}" for name, what in SUBJECTS.items())
    parser = command_parser("benchmark", __doc__, f"subjects:\n{lines}")
    parser.add_argument("subject", choices=SUBJECTS, metavar="SUBJECT", help="what to measure, and its own arguments")
    subject = parser.parse_args(argv[:1]).subject
    return importlib.import_module(f"bestiary.tools.bench_{subject}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
