"""Neighborhood attention: every token attends to a window around it (NAT, DiNAT; arXiv:2204.07143, 2209.15001)."""

from .dispatch import neighborhood_attention

__all__ = ["neighborhood_attention"]
