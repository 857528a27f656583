"""Mask R-CNN on a small MaxViT and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/mask_rcnn_poolformer_digits.py"]
work_dir = "work_dirs/maxvit/mask-rcnn_digits"

# Windows and grids of 4 x 4 tokens on pictures of 128 x 128; they follow pictures of other sizes.
arch = dict(depths=(1, 1, 1, 1), dims=(32, 64, 128, 192), stem_dims=(16, 32), table_window=4)
model = dict(backbone=dict(_delete_=True, type="bestiary.MaxViT", arch=arch, expand_ratio=2.0, mlp_ratio=2.0))
