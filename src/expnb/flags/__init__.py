"""Flag backends: the only place that changes what users see."""

from expnb.flags.address import connect

__all__ = ["connect"]
