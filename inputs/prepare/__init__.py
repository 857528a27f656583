"""Data sets in other forms, made into what mmdet, mmseg and `ImageFolder` read."""
