"""What is compared: one treatment against control, on one metric in one segment, before any model."""

from __future__ import annotations

from dataclasses import dataclass

from expnb.posterior.effect import Estimate, Scale
from expnb.spec.metric import Metric
from expnb.stats.joint import JointMoments
from expnb.stats.moments import Moments


@dataclass(frozen=True, slots=True)
class Comparison:
    """One treatment against control in one segment.

    What follows from it (whether a posterior exists, on which scale it is judged, which likelihood it has) is worked out in `table`, for many at once; the properties here ask for one.

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

    @property
    def missing(self) -> str:
        """Why no posterior can be stated; empty when one can."""
        from expnb.posterior.table import Table  # noqa: PLC0415 - a table is made of these

        return Table([self]).missing[0]

    @property
    def not_relative(self) -> str:
        """Why no relative effect exists; empty when one does."""
        from expnb.posterior.table import Table  # noqa: PLC0415

        return Table([self]).not_relative[0]

    @property
    def scale(self) -> Scale:
        """The scale on which rope and margin are applied."""
        from expnb.posterior.table import Table  # noqa: PLC0415

        return "relative" if Table([self]).on_relative_scale[0] else "absolute"

    @property
    def cuts(self) -> tuple[float, float, float, float]:
        """Effects at which probabilities are wanted: none, +rope, -rope, and harm beyond the margin."""
        from expnb.posterior.table import Table  # noqa: PLC0415

        none, up, down, harm = Table([self]).cuts[0].tolist()
        return none, up, down, harm
