"""Bestiary's registries: children of mmengine's, so that an mmdet or mmseg config says `type='bestiary.PoolFormer'`."""

from mmengine import registry as root
from mmengine.registry import Registry

SCOPE = "bestiary"

# Each names the rooms that fill it; mmengine imports them when something is first asked for.
MODELS = Registry(
    "model",
    parent=root.MODELS,
    scope=SCOPE,
    locations=["bestiary.backbones", "bestiary.necks", "bestiary.heads", "bestiary.checkpoints"],
)
DATASETS = Registry("dataset", parent=root.DATASETS, scope=SCOPE, locations=["bestiary.inputs"])
DATA_SAMPLERS = Registry("data sampler", parent=root.DATA_SAMPLERS, scope=SCOPE, locations=["bestiary.inputs"])
TRANSFORMS = Registry("transform", parent=root.TRANSFORMS, scope=SCOPE, locations=["bestiary.inputs"])
METRICS = Registry("metric", parent=root.METRICS, scope=SCOPE, locations=["bestiary.engine"])
HOOKS = Registry("hook", parent=root.HOOKS, scope=SCOPE, locations=["bestiary.engine"])
LOOPS = Registry("loop", parent=root.LOOPS, scope=SCOPE, locations=["bestiary.engine"])
OPTIMIZERS = Registry("optimizer", parent=root.OPTIMIZERS, scope=SCOPE, locations=["bestiary.engine"])
OPTIM_WRAPPERS = Registry("optim_wrapper", parent=root.OPTIM_WRAPPERS, scope=SCOPE, locations=["bestiary.engine"])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=["bestiary.engine"],
)
VISUALIZERS = Registry("visualizer", parent=root.VISUALIZERS, scope=SCOPE, locations=["bestiary.engine"])
VISBACKENDS = Registry("vis_backend", parent=root.VISBACKENDS, scope=SCOPE, locations=["bestiary.engine"])

# Of mmengine's other kinds there is nothing of ours; without a child a config with default_scope='bestiary' is warned.
for _kind in [kind for kind in vars(root).values() if isinstance(kind, Registry) and SCOPE not in kind.children]:
    Registry(_kind.name, parent=_kind, scope=SCOPE)

# Token mixers: (B, H, W, C) -> (B, H, W, C). A root of its own; mmengine has no such kind.
MIXERS = Registry("token mixer", scope=SCOPE, locations=["bestiary.backbones.mixers"])
