"""Templates run unattended, with checked parameters."""

from expnb.reports.parameters import check_parameters
from expnb.reports.run import Report, run_report

__all__ = ["Report", "check_parameters", "run_report"]
