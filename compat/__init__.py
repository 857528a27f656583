"""What mmengine, mmcv-lite, mmdet and mmseg need to run on current PyTorch and NumPy."""


def install() -> None:
    """Switch the compatibility on; called by `import bestiary`. Cheap, and safe to call again."""
