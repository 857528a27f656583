"""UPerNet on a small ResNet with ELA-B and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/upernet_poolformer_digits.py"]
work_dir = "work_dirs/resnet/upernet_ela_digits"

arch = dict(depths=(1, 1, 1, 1), dims=(32, 64, 128, 192), block="basic", stem_dims=(32,), attn="ela_b")
model = dict(backbone=dict(_delete_=True, type="bestiary.ResNet", arch=arch))
