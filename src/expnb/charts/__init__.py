"""Posteriors, verdicts and simulations as charts: each a pure function from values to a `Figure` with a table twin."""

from expnb.charts.effect import effect
from expnb.charts.figure import Figure
from expnb.charts.operating import operating
from expnb.charts.past_effects import past_effects
from expnb.charts.plan import plan
from expnb.charts.rules import rules
from expnb.charts.segments import segments
from expnb.charts.sensitivity import sensitivity

__all__ = ["Figure", "effect", "operating", "past_effects", "plan", "rules", "segments", "sensitivity"]
