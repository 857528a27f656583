"""The page that a training leaves behind: what is kept for it, and how it is made. Importing it fills the registry."""

from .hook import PAGE, ReportHook

__all__ = ["PAGE", "ReportHook"]
