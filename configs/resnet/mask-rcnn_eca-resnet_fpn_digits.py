"""Mask R-CNN on a small ResNet with ECA and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/mask_rcnn_poolformer_digits.py"]
work_dir = "work_dirs/resnet/mask-rcnn_eca_digits"

arch = dict(depths=(1, 1, 1, 1), dims=(32, 64, 128, 192), block="basic", stem_dims=(32,), attn="eca")
model = dict(backbone=dict(_delete_=True, type="bestiary.ResNet", arch=arch))
