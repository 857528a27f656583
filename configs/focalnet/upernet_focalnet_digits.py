"""UPerNet on a small FocalNet and the bundled digits, from scratch. Run: bestiary train THIS_FILE

The focal windows are wider than a classifier's 3, as in the paper's segmentors.
"""

_base_ = ["../quickstart/upernet_poolformer_digits.py"]
work_dir = "work_dirs/focalnet/upernet_digits"

arch = dict(depths=(1, 1, 2, 1), dims=(32, 64, 128, 192), focal_levels=2, focal_windows=(9, 7, 5, 3))
model = dict(backbone=dict(_delete_=True, type="bestiary.FocalNet", arch=arch))
