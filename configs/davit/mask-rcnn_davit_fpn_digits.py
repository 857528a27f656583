"""Mask R-CNN on a small DaViT and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/mask_rcnn_poolformer_digits.py"]
work_dir = "work_dirs/davit/mask-rcnn_digits"

# Maps of 32, 16, 8 and 4 tokens a side: windows of 4 need no padding.
arch = dict(depths=(1, 1, 1, 1), dims=(32, 64, 128, 192), num_heads=(1, 2, 4, 6), window_size=4)
model = dict(backbone=dict(_delete_=True, type="bestiary.DaViT", arch=arch))
