"""Mask R-CNN on a small BiFormer and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/mask_rcnn_poolformer_digits.py"]
work_dir = "work_dirs/biformer/mask-rcnn_digits"

# Maps of 32, 16, 8 and 4 tokens a side: regions of 8, 4 and 2, of which 1, 4 and 8 are attended to.
arch = dict(depths=(2, 2, 2, 1), dims=(32, 64, 128, 192), n_win=4, topk=(1, 4, 8, -2), head_dim=16)
model = dict(backbone=dict(_delete_=True, type="bestiary.BiFormer", arch=arch))
