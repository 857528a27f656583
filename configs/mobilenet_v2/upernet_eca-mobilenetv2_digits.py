"""UPerNet on a small MobileNetV2 with ECA and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/upernet_poolformer_digits.py"]
work_dir = "work_dirs/mobilenet_v2/upernet_eca_digits"

arch = dict(depths=(2, 2, 2, 2), dims=(32, 64, 128, 192), attn="eca")
model = dict(backbone=dict(_delete_=True, type="bestiary.MobileNetV2", arch=arch))
