"""UPerNet on a small MHS-VM and the bundled digits, from scratch. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/upernet_poolformer_digits.py"]
work_dir = "work_dirs/mhs_vm/upernet_digits"

arch = dict(depths=(2, 2, 2, 1), dims=(32, 64, 128, 192), d_state=4)
model = dict(backbone=dict(_delete_=True, type="bestiary.MHSVM", arch=arch))
