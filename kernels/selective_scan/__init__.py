"""Selective scan: a linear recurrence whose coefficients hang on the input (Mamba, arXiv:2312.00752)."""

from .dispatch import scan_routes, selective_scan

__all__ = ["scan_routes", "selective_scan"]
