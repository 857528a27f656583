"""Fused operators: one folder each, with a plain PyTorch reference that defines it and a file a backend."""
