"""UPerNet on a small BiFormer and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/upernet_poolformer_digits.py"]
work_dir = "work_dirs/biformer/upernet_digits"

arch = dict(depths=(2, 2, 2, 1), dims=(32, 64, 128, 192), n_win=4, topk=(1, 4, 8, -2), head_dim=16)
model = dict(backbone=dict(_delete_=True, type="bestiary.BiFormer", arch=arch))
