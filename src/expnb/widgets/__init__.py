"""Widgets: a plan shown, one button, and what came of it. They reach a flag only through the workspace they are given."""

from expnb.widgets.ramp_panel import RampPanel

__all__ = ["RampPanel"]
