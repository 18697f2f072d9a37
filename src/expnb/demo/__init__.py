"""A workspace to try things in, on two real experiments."""

from expnb.demo.workspace import make_workspace

__all__ = ["make_workspace"]
