"""UPerNet on a small PoolFormerV2 and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/upernet_poolformer_digits.py"]
work_dir = "work_dirs/metaformer/upernet_poolformerv2_digits"

arch = dict(depths=(1, 2, 2, 1), dims=(32, 64, 128, 192))
model = dict(backbone=dict(_delete_=True, type="bestiary.PoolFormerV2", arch=arch))
