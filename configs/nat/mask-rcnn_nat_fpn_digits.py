"""Mask R-CNN on a small NAT and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/mask_rcnn_poolformer_digits.py"]
work_dir = "work_dirs/nat/mask-rcnn_digits"

# Maps of 32, 16, 8 and 4 tokens a side: windows of 5, padded on the last.
arch = dict(depths=(2, 2, 2, 1), dims=(32, 64, 128, 192), num_heads=(2, 4, 8, 12), mlp_ratio=3.0, kernel_size=5)
model = dict(backbone=dict(_delete_=True, type="bestiary.NAT", arch=arch))
