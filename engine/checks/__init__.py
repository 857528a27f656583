"""What is wrong with a config, said before anything trains."""

from .config import Checked, check_config, refuse_mistakes

__all__ = ["Checked", "check_config", "refuse_mistakes"]
