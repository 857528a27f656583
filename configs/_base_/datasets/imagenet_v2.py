"""ImageNetV2 (arXiv:1902.10811), for `bestiary test CONFIG CHECKPOINT --data imagenet_v2`: class folders 0 to 999."""

test_dataloader = dict(
    dataset=dict(
        type="ImageFolder",
        data_root="data/imagenetv2-matched-frequency-format-val/",
        data_prefix="",
        classes=[str(number) for number in range(1000)],  # sorted as text they would be other classes
    )
)
test_evaluator = dict(type="TopkAccuracy", topk=(1, 5))
