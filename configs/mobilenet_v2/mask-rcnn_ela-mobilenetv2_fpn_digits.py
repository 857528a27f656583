"""Mask R-CNN on a small MobileNetV2 with ELA-B and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/mask_rcnn_poolformer_digits.py"]
work_dir = "work_dirs/mobilenet_v2/mask-rcnn_ela_digits"

arch = dict(depths=(2, 2, 2, 2), dims=(32, 64, 128, 192), attn="ela_b", attn_place="hidden")
model = dict(backbone=dict(_delete_=True, type="bestiary.MobileNetV2", arch=arch))
