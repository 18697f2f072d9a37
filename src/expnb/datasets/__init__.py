"""Real experiments, rebuilt from published counts."""

from expnb.datasets.rebuild import cookie_cats, hillstrom

__all__ = ["cookie_cats", "hillstrom"]
