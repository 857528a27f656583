"""The mistakes, a line each: name, task, options of the config, what the message names, the fix that it gives, harm."""

from mistakes import (
    CORNERS,
    TRAIN,
    VAL,
    Mistake,
    Moved,
    all_ignored,
    coloured,
    each,
    gone,
    label,
    no_objects,
    other_names,
    other_order,
    other_size,
    other_weights,
    rewrite,
    twice,
    without_masks,
    written,
)

D, S, C = "detection", "segmentation", "classification"
OPT, HEAD, MASK = "optim_wrapper", "model.decode_head", "model.roi_head.mask_head"
BANK = [
    # names that nobody reads
    Mistake("top_optim_wraper", D, {"optim_wraper": dict(type="OptimWrapper")}, "optim_wraper", "'optim_wrapper'"),
    Mistake("top_val_evalutor", D, {"val_evalutor": dict(type="CocoMetric")}, "val_evalutor", "'val_evaluator'"),
    Mistake("top_default_hook", D, {"default_hook": dict()}, "default_hook", "'default_hooks'"),
    Mistake("top_param_schedulers", S, {"param_schedulers": []}, "param_schedulers", "'param_scheduler'"),
    Mistake("top_lr_config", D, {"lr_config": dict(policy="step")}, "lr_config", "set param_scheduler"),
    Mistake("top_evaluation", S, {"evaluation": dict(interval=1)}, "evaluation", "set val_evaluator"),
    Mistake("top_log_config", D, {"log_config": dict(interval=5)}, "log_config", "set default_hooks.logger"),
    Mistake("top_total_epochs", D, {"total_epochs": 3}, "total_epochs", "set train_cfg.max_epochs"),
    Mistake("top_find_unused", D, {"find_unused_parameter": True}, "find_unused_parameter", "'find_unused_parameters'"),
    Mistake(
        "test_cfg_score_thresh", D, {"model.test_cfg.rcnn.score_thr": Moved("score_thrs")}, "score_thrs", "'score_thr'"
    ),
    Mistake("test_cfg_max_per_image", D, {"model.test_cfg.rcnn.max_per_imgs": 5}, "max_per_imgs", "'max_per_img'"),
    Mistake("train_cfg_pos_weigth", D, {"model.train_cfg.rcnn.pos_weigth": 2}, "pos_weigth", "'pos_weight'"),
    Mistake("test_cfg_nms_prev", D, {"model.test_cfg.rpn.nms_prev": 5}, "nms_prev", "'nms_pre'"),
    Mistake("mode_of_segmentor", S, {"model.test_cfg.modes": "slide"}, "modes", "'mode'"),
    Mistake(
        "default_hooks_chekpoint",
        D,
        {"default_hooks.chekpoint": dict(type="CheckpointHook")},
        "chekpoint",
        "'checkpoint'",
    ),
    Mistake("checkpoint_intervall", D, {"default_hooks.checkpoint.intervall": 5}, "intervall", "'interval'"),
    Mistake("env_cudnn_benchmarks", D, {"env_cfg.cudnn_benchmarks": True}, "cudnn_benchmarks", "'cudnn_benchmark'"),
    Mistake("randomness_sed", D, {"randomness": dict(sed=3)}, "randomness.sed", "'seed'"),
    Mistake(
        "paramwise_bias_decay",
        D,
        {f"{OPT}.paramwise_cfg.bias_decay_multi": 0.0},
        "bias_decay_multi",
        "'bias_decay_mult'",
    ),
    Mistake("custom_key_lr_mul", D, {f"{OPT}.paramwise_cfg.custom_keys.neck": dict(lr_mul=0.1)}, "lr_mul", "'lr_mult'"),
    Mistake(
        "custom_key_backbone",
        D,
        {f"{OPT}.paramwise_cfg.custom_keys": dict(backbnoe=dict(lr_mult=0.1))},
        "backbnoe",
        "'backbone'",
    ),
    Mistake("clip_grad_max_nrom", D, {f"{OPT}.clip_grad": dict(max_nrom=1.0)}, "clip_grad.max_nrom", "'max_norm'"),
    # names that a class refuses
    Mistake(
        "backbone_num_stage",
        D,
        {"model.backbone.num_stages": Moved("num_stage")},
        "model.backbone.num_stage",
        "'num_stages'",
    ),
    Mistake("neck_num_out", D, {"model.neck.num_outs": Moved("num_out")}, "model.neck.num_out", "'num_outs'"),
    Mistake("head_num_class", D, {f"{MASK}.num_classes": Moved("num_class")}, "mask_head.num_class", "'num_classes'"),
    Mistake("loss_weigth", S, {f"{HEAD}.loss_decode.loss_weigth": 2.0}, "loss_decode.loss_weigth", "'loss_weight'"),
    Mistake("flip_porb", D, {f"{TRAIN}.pipeline.3.prob": Moved("porb")}, "pipeline.3.porb", "'prob'"),
    Mistake("dataset_anno_file", D, {f"{TRAIN}.ann_file": Moved("anno_file")}, "dataset.anno_file", "'ann_file'"),
    Mistake("loader_batchsize", D, {"train_dataloader.batch_size": Moved("batchsize")}, "batchsize", "'batch_size'"),
    Mistake(
        "loader_workers", S, {"val_dataloader.num_workers": Moved("workers")}, "val_dataloader.workers", "'num_workers'"
    ),
    Mistake(
        "sgd_weight_decays",
        D,
        {f"{OPT}.optimizer.weight_decay": Moved("weigth_decay")},
        "weigth_decay",
        "'weight_decay'",
    ),
    Mistake(
        "scheduler_milestone", D, {"param_scheduler.1.milestones": Moved("milestone")}, "milestone", "'milestones'"
    ),
    Mistake("loop_max_epoch", D, {"train_cfg.val_intervall": 2}, "train_cfg.val_intervall", "'val_interval'"),
    Mistake("metric_metrics", D, {"val_evaluator.metric": Moved("metrics")}, "val_evaluator.metrics", "'metric'"),
    Mistake(
        "delete_left", D, {"model.neck.norm_cfg": dict(_delete_=True, type="BN")}, "model.neck.norm_cfg", "_delete_"
    ),
    # types
    Mistake("type_of_backbone", D, {"model.backbone.type": "ResNt"}, "model.backbone.type", "'ResNet'"),
    Mistake(
        "type_of_loss", S, {f"{HEAD}.loss_decode.type": "CrossEntropyLos"}, "loss_decode.type", "'CrossEntropyLoss'"
    ),
    Mistake("type_of_step", D, {f"{TRAIN}.pipeline.3.type": "RandomFlp"}, "pipeline.3.type", "'RandomFlip'"),
    Mistake("type_of_optimizer", D, {f"{OPT}.optimizer.type": "SGDD"}, "optimizer.type", "'SGD'"),
    Mistake("type_of_scheduler", S, {"param_scheduler.0.type": "PolyLr"}, "param_scheduler.0.type", "'PolyLR'"),
    Mistake("type_of_hook", D, {"custom_hooks": [dict(type="EMAHok")]}, "custom_hooks.0.type", "'EMAHook'"),
    Mistake("type_of_metric", S, {"val_evaluator.type": "IouMetric"}, "val_evaluator.type", "'IoUMetric'"),
    Mistake(
        "hook_without_type",
        D,
        {"default_hooks.extra": dict(interval=1)},
        "default_hooks.extra",
        "default_hooks.extra.type",
    ),
    # values
    Mistake("text_for_lr", D, {f"{OPT}.optimizer.lr": "1e-3x"}, "optimizer.lr", "a number"),
    Mistake("text_for_classes", S, {f"{HEAD}.num_classes": "three"}, "decode_head.num_classes", "a number"),
    Mistake("batch_of_none", D, {"train_dataloader.batch_size": 0}, "train_dataloader.batch_size", "from 1 on"),
    Mistake(
        "workers_below_none", D, {"train_dataloader.num_workers": -1}, "train_dataloader.num_workers", "0 (no workers)"
    ),
    Mistake("persistent_without", D, {"train_dataloader.persistent_workers": True}, "persistent_workers", "False"),
    Mistake("lr_of_nothing", D, {f"{OPT}.optimizer.lr": 0.0}, "optimizer.lr", "more than 0"),
    Mistake("no_epochs", D, {"train_cfg.max_epochs": 0}, "train_cfg.max_epochs", "1 or more"),
    Mistake("never_validated", D, {"train_cfg.val_interval": 10}, "train_cfg.val_interval", "val_interval=2"),
    Mistake(
        "milestones_beyond", D, {"param_scheduler.1.milestones": [8, 11]}, "param_scheduler.1.milestones", "below 2"
    ),
    Mistake("schedule_beyond", S, {"param_scheduler.0.end": 40}, "param_scheduler.0.end", "end=4"),
    Mistake(
        "schedule_of_epochs", S, {"param_scheduler.0.by_epoch": True}, "param_scheduler.0.by_epoch", "by_epoch=False"
    ),
    Mistake(
        "checkpoints_of_epochs", S, {"default_hooks.checkpoint.by_epoch": True}, "checkpoint.by_epoch", "by_epoch=False"
    ),
    Mistake(
        "endless_epoch", D, {"train_dataloader.sampler.type": "InfiniteSampler"}, "sampler.type", "'DefaultSampler'"
    ),
    Mistake(
        "best_of_nothing", D, {"default_hooks.checkpoint.save_best": "coco/box_mAP"}, "save_best", "'coco/bbox_mAP'"
    ),
    Mistake("best_with_prefix", S, {"default_hooks.checkpoint.save_best": "seg/mIoU"}, "save_best", "'mIoU'"),
    Mistake("no_evaluator", D, {"val_evaluator": None}, "val_evaluator: missing", "set all three"),
    Mistake(
        "mean_of_one",
        S,
        {"model.data_preprocessor.mean": [0.5] * 3, "model.data_preprocessor.std": [0.2] * 3},
        "data_preprocessor.mean",
        "by 255",
    ),
    Mistake(
        "no_annotations",
        D,
        {f"{TRAIN}.pipeline": [dict(type="LoadImageFromFile"), dict(type="PackDetInputs")]},
        f"{TRAIN}.pipeline",
        "LoadAnnotations",
    ),
    Mistake("no_masks_loaded", D, {f"{TRAIN}.pipeline.2.with_mask": False}, f"{TRAIN}.pipeline", "with_mask=True"),
    Mistake(
        "not_packed",
        S,
        {f"{TRAIN}.pipeline": [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]},
        f"{TRAIN}.pipeline",
        "PackSegInputs",
    ),
    # the model's parts
    Mistake(
        "neck_channels", D, {"model.neck.in_channels": [256, 512, 1024, 2048]}, "FPN", "in_channels=[8, 16, 32, 64]"
    ),
    Mistake("head_channels", S, {f"{HEAD}.in_channels": 2048}, "FCNHead", "model.decode_head.in_channels=64"),
    Mistake(
        "auxiliary_channels", S, {"model.auxiliary_head.in_channels": 1024}, "FCNHead", "auxiliary_head.in_channels=32"
    ),
    Mistake("rpn_channels", D, {"model.rpn_head.in_channels": 256}, "model.rpn_head.in_channels", "in_channels=16"),
    Mistake(
        "box_head_channels",
        D,
        {"model.roi_head.bbox_head.in_channels": 256},
        "roi_head.bbox_head.in_channels",
        "in_channels=16",
    ),
    Mistake(
        "anchor_levels",
        D,
        {"model.rpn_head.anchor_generator.strides": [4, 8, 16, 32, 64]},
        "anchor_generator.strides",
        "[4, 8, 16, 32]",
    ),
    Mistake(
        "anchor_strides",
        D,
        {"model.rpn_head.anchor_generator.strides": [8, 16, 32, 64]},
        "anchor_generator.strides",
        "[4, 8, 16, 32]",
    ),
    Mistake(
        "roi_strides",
        D,
        {"model.roi_head.bbox_roi_extractor.featmap_strides": [8, 16, 32, 64]},
        "featmap_strides",
        "[4, 8, 16, 32]",
    ),
    Mistake("heads_differ", D, {f"{MASK}.num_classes": 80}, "mask_head.num_classes", "num_classes=2"),
    Mistake(
        "classes_of_coco",
        D,
        {f"{MASK}.num_classes": 80, "model.roi_head.bbox_head.num_classes": 80},
        "num_classes",
        "bbox_head.num_classes=2",
    ),
    Mistake(
        "classes_of_ade",
        S,
        {f"{HEAD}.num_classes": 150, "model.auxiliary_head.num_classes": 150},
        "num_classes",
        "decode_head.num_classes=3",
    ),
    Mistake("class_weights", S, {f"{HEAD}.loss_decode.class_weight": [1.0, 2.0]}, "class_weight", "one for each class"),
    Mistake("frozen_stages", C, {"model.backbone.frozen_stages": 9}, "frozen_stages 9", "-1..4"),
    Mistake("depth_of_resnet", D, {"model.backbone.depth": 19}, "model.backbone", "19"),
    Mistake(
        "other_weights",
        D,
        {"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="ROOT/other.pth")},
        "other.pth",
        "Name the weights",
        other_weights,
    ),
    Mistake(
        "no_weights",
        D,
        {"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="ROOT/no.pth")},
        "no.pth",
        "model.backbone.init_cfg",
        None,
    ),
    # the data
    Mistake("no_annotation_file", D, {f"{TRAIN}.ann_file": "trian.json"}, "trian.json", f"{TRAIN}.ann_file"),
    Mistake("no_folder", D, {f"{TRAIN}.data_prefix.img": "training/"}, "training", f"{TRAIN}.data_prefix.img"),
    Mistake(
        "classes_of_another",
        D,
        {},
        "train.json",
        "metainfo=dict(classes=('class_1', 'class_2'))",
        rewrite("coco/train.json", other_names),
    ),
    Mistake(
        "classes_in_order", D, {}, "train.json", "classes=('disc', 'square')", rewrite("coco/train.json", other_order)
    ),
    Mistake(
        "one_class_as_text",
        D,
        {f"{TRAIN}.metainfo.classes": "square"},
        f"{TRAIN}.metainfo.classes",
        "classes=('square',)",
    ),
    Mistake(
        "unknown_categories", D, {}, "train.json", "correct them", rewrite("coco/train.json", each("category_id", 7))
    ),
    Mistake("unknown_pictures", D, {}, "train.json", "correct them", rewrite("coco/train.json", each("image_id", 99))),
    Mistake("picture_ids_twice", D, {}, "train.json", "number them anew", rewrite("coco/train.json", twice)),
    Mistake("corners", D, {}, "train.json", "write width and height", rewrite("coco/train.json", CORNERS)),
    Mistake("boxes_of_no_area", D, {}, "train.json", "correct the file", rewrite("coco/train.json", each("area", 0))),
    Mistake("no_masks", D, {}, "train.json", "with_mask=False", rewrite("coco/train.json", without_masks)),
    Mistake("no_objects", D, {}, "train.json", "correct the file", rewrite("coco/train.json", no_objects)),
    Mistake("picture_gone", D, {}, "003.png", "add them", gone("coco/train/003.png")),
    Mistake("picture_broken", D, {}, "003.png", "replace them", written("coco/train/003.png", b"\x89PNG broken")),
    Mistake("picture_size", D, {}, "000.png", "correct width and height", rewrite("coco/train.json", other_size)),
    Mistake(
        "evaluated_by_another",
        D,
        {"val_evaluator.ann_file": "ROOT/coco/train_of_others.json"},
        "train_of_others.json",
        "val_evaluator.ann_file",
    ),
    Mistake(
        "iscrowd_missing",
        D,
        {},
        "val.json",
        "iscrowd=0",
        rewrite("coco/val.json", lambda c: [e.pop("iscrowd") for e in c["annotations"]]),
    ),
    Mistake("label_outside", S, {}, "labels/train", "correct the label images", label(7)),
    Mistake(
        "label_zero",
        S,
        {f"{TRAIN}.reduce_zero_label": True, f"{TRAIN}.metainfo.classes": ("square",)},
        "num_classes",
        "num_classes=1",
    ),
    Mistake("all_ignored", S, {}, "labels/train", "correct the label images", all_ignored),
    Mistake("label_gone", S, {}, "003.png", "add them", gone("seg/labels/train/003.png")),
    Mistake("label_of_colours", S, {}, "000.png", "class numbers", coloured),
    Mistake("suffix", S, {f"{TRAIN}.img_suffix": ".jpg"}, "images/train", f"{TRAIN}.img_suffix"),
    Mistake("class_folders", C, {"model.head.num_classes": 1000}, "model.head.num_classes", "model.head.num_classes=2"),
    Mistake("class_list", C, {f"{VAL}.classes": ["square", "circle"]}, "cls/val", "Give `classes`"),
    Mistake("classifier_channels", C, {"model.head.in_channels": 512}, "LinearHead", "model.head.in_channels=32"),
    Mistake("arch_of_backbone", C, {"model.backbone.arch": "s13"}, "s13", "s12"),
]
