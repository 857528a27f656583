"""Bi-level routed attention: each region of a map attends to the few that fit it best (BiFormer, arXiv:2303.08810)."""

from .dispatch import bi_level_routing_attention
from .regions import Routing, empty_regions, region_means, route

__all__ = ["Routing", "bi_level_routing_attention", "empty_regions", "region_means", "route"]
