"""Necks that plug into mmdet and mmseg beside the ones that these bring."""
