"""Fused operators: one folder each, with a plain PyTorch reference that defines it and a file a backend."""

from .dispatch import backends, use_backend
from .neighborhood_attention import neighborhood_attention

__all__ = ["backends", "neighborhood_attention", "use_backend"]
