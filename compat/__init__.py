"""What mmengine, mmcv-lite, mmdet and mmseg need to run on current PyTorch and NumPy.

- `imports`: mends a module at the moment that it is imported.
- `mmengine_patches`, `openmmlab_patches`, `restarts`, `safe_loading`, `shared_lists`, `workers`: the mends, one small
  function each.
- `restricted_pickle`: the unpickler of files that are data.
- `ext`, `ops`: the module `mmcv._ext`, which mmcv-lite lacks.

Nothing here imports torch or an OpenMMLab package before a user does.
"""

from . import (  # noqa: F401  (they register patches)
    imports,
    mmengine_patches,
    openmmlab_patches,
    restarts,
    safe_loading,
    shared_lists,
    workers,
)
from .ext import install_ext


def install() -> None:
    """Switch the compatibility on; called by `import bestiary`. Cheap, and safe to call again."""
    openmmlab_patches.quiet_warnings()
    install_ext()
    imports.arm()
