"""A classifier trained as most of these papers do: mixup and cutmix (arXiv:1710.09412, arXiv:1905.04899), smoothing.

The data's pipeline normalises, because timm erases rectangles in normalised pictures alone.
"""

model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(type="ImgDataPreprocessor"),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1),
)
