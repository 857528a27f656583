"""ImageNet's validation pictures with ReaL's labels (arXiv:2006.07159): `bestiary test ... --data imagenet_real`."""

test_dataloader = dict(dataset=dict(type="ImageFolder", data_root="data/imagenet/", data_prefix="val"))
test_evaluator = [
    dict(type="TopkAccuracy", topk=(1, 5)),
    dict(type="RealAccuracy", labels="data/imagenet/real.json"),
]
