"""The PoolFormer of the digits: for pictures of 48 to 128 pixels and a CPU, 0.96 M parameters."""

digits_dims = [32, 64, 128, 192]
digits_backbone = dict(
    type="bestiary.PoolFormer",
    # The paper's layer scale, 1e-5, is for deep networks and long training.
    arch=dict(depths=(2, 2, 2, 1), dims=digits_dims, layer_scale_init=0.1),
)
# What the digits' classifier has learnt, in place of ImageNet.
digits_weights = dict(type="Pretrained", checkpoint="work_dirs/quickstart/classifier/epoch_8.pth")
