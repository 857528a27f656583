"""UPerNet on a small DiNAT and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/upernet_poolformer_digits.py"]
work_dir = "work_dirs/dinat/upernet_digits"

# Every second window reaches over the whole of its map of 32, 16 or 8 tokens a side.
arch = dict(depths=(2, 2, 2, 1), dims=(32, 64, 128, 192), num_heads=(2, 4, 8, 12), mlp_ratio=3.0, kernel_size=3)
dilations = [[1, 10], [1, 5], [1, 2], [1]]
model = dict(backbone=dict(_delete_=True, type="bestiary.DiNAT", arch=arch, dilations=dilations))
