"""MHS-VM's U-Net (arXiv:2406.05992): 17.26 M parameters with four heads and one class."""

mhs_vm_dims = (96, 192, 384, 768)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size=(256, 256)),
    backbone=dict(type="bestiary.MHSVMEncoder", arch="small", drop_path_rate=0.2),
    decode_head=dict(
        type="bestiary.MHSVMHead",
        in_channels=[*mhs_vm_dims, mhs_vm_dims[-1]],
        drop_path_rate=0.2,
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        align_corners=False,
        loss_decode=[
            dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
            dict(type="bestiary.BinaryDiceLoss", loss_weight=1.0),
        ],
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
