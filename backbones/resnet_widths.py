"""Widths of timm's pruned ecaresnets, which come of a search and follow no rule (arXiv:2002.08258).

dims: of the stages' outputs; widths: behind the 1 x 1 and the 3 x 3 convolution of each bottleneck, a stage. The ECA
kernels are those of the networks before they were pruned.
"""

PRUNED_50D = dict(
    dims=(19, 171, 818, 2022),
    eca_kernels=(5, 5, 5, 7),
    widths=(
        ((47, 18), (52, 22), (64, 35)),
        ((85, 37), (107, 80), (120, 85), (125, 87)),
        ((198, 126), (255, 232), (256, 233), (253, 235), (256, 225), (256, 239)),
        ((492, 237), (512, 500), (512, 490)),
    ),
)
PRUNED_101D = dict(
    dims=(26, 142, 278, 2042),
    eca_kernels=(5, 5, 5, 7),
    widths=(
        ((45, 25), (53, 20), (60, 27)),
        ((81, 24), (93, 49), (102, 54), (122, 78)),
        (
            *((101, 25), (239, 160), (234, 156), (250, 176), (253, 191), (251, 175), (230, 128), (244, 154)),
            *((244, 159), (238, 97), (244, 149), (253, 181), (245, 119), (255, 216), (256, 201), (253, 149)),
            *((254, 141), (256, 190), (256, 217), (255, 156), (256, 155), (256, 232), (256, 214)),
        ),
        ((499, 289), (512, 512), (512, 502)),
    ),
)
