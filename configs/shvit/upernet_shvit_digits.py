"""UPerNet on a small SHViT and the bundled digits, from scratch. Run: bestiary train THIS_FILE

On the backbone's maps alone the finest cell would be 16 pixels, a digit's stroke several times over: the neck between
makes the strides 4 and 8.
"""

_base_ = ["../quickstart/upernet_poolformer_digits.py"]
work_dir = "work_dirs/shvit/upernet_digits"

arch = dict(depths=(2, 2, 1), dims=(64, 128, 192), partial_dims=(16, 28, 40))
model = dict(
    backbone=dict(_delete_=True, type="bestiary.SHViT", arch=arch),
    neck=dict(type="bestiary.SHViTNeck", in_channels=[64, 128, 192], out_channels=48, num_finer=2),
    decode_head=dict(in_channels=[48] * 5, in_index=[0, 1, 2, 3, 4]),
    auxiliary_head=dict(in_channels=48),
)
