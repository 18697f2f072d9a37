"""What is compared: one treatment against control, on one metric in one segment, before any model."""

from __future__ import annotations

from dataclasses import dataclass

from expnb.posterior.effect import Estimate
from expnb.spec.metric import Metric
from expnb.stats.joint import JointMoments
from expnb.stats.moments import Moments


@dataclass(frozen=True, slots=True)
class Comparison:
    """One treatment against control in one segment.

    What follows from it (whether a posterior exists, on which scale it is judged, which likelihood it has) is worked out by a `Table` of comparisons.

    Parameters
    ----------
    metric : Metric
        Of an extra estimate, such as the share of payers, what that is: its kind, without rope and margin.
    control, treatment : Moments
        Of a ratio and of a quantile they are those of a mean with the same standard error.
    min_cell : int
        With fewer units in an arm nothing of it may be shown.
    estimate : {"main", "uncapped", ...}
        See `Effect.estimate`.
    joint : tuple of JointMoments, optional
        Numerator and denominator of both arms, where the values are ratios of sums.
    events : bool
        Whether values are whole numbers of events, whose sums are known exactly.
    planned : float
        Units in both arms at which the confidence sequence is narrowest.
    trouble : str
        Why no posterior can be stated, where that is not seen in the moments.
    remark : str
        For the note.
    """

    metric: Metric
    variant: str
    segment: str
    control: Moments
    treatment: Moments
    min_cell: int = 0
    estimate: Estimate = "main"
    joint: tuple[JointMoments, JointMoments] | None = None
    events: bool = False
    planned: float = 10_000.0
    trouble: str = ""
    remark: str = ""

    @property
    def sign(self) -> int:
        """+1 where more is better, -1 where less is."""
        return 1 if self.metric.direction == "increase" else -1
