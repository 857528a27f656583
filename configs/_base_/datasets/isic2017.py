"""ISIC 2017, part 1, as `bestiary data prepare isic2017 SRC data/isic2017` writes it; see `isic2018.py`."""

_base_ = "isic2018.py"

data_root = "data/isic2017/"
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
