"""Colours and sizes of all charts: legible on white and on near-black, and apart for colour-blind readers."""

from __future__ import annotations

from typing import Final

import altair as alt

# Text contrast is 4.3 : 1 on white and 4.4 : 1 on JupyterLab's dark #111. One grey for both, because a theme can be
# switched while a chart stands in the page, and the SVG twin does not know on what it will be shown.
TEXT: Final = "#7a7a7a"
FAINT: Final = "#8a8a8a"

# Blue against vermilion stays apart under every common colour blindness (Okabe and Ito); both lie between black and white.
BETTER: Final = "#1a80c4"
WORSE: Final = "#d9630b"

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
TITLE_SIZE: Final = 15
TEXT_SIZE: Final = 12
CHARACTER: Final = 7.0  # px; a generous mean width of a character at TEXT_SIZE

RING, DOT = 130, 60  # px²; of a raw effect and of what is believed: the ring shows around a dot over it

WIDTH: Final = 620  # px; fits a notebook beside its side bars


def config() -> alt.Config:
    """The look of a chart; part of the chart itself, so that no setting of Altair changes it."""
    return alt.Config(
        font=FONT,
        padding={"left": 8, "right": 8, "top": 6, "bottom": 4},
        view=alt.ViewConfig(stroke=None, fill=None),
        title=alt.TitleConfig(
            color=TEXT,
            subtitleColor=TEXT,
            fontSize=TITLE_SIZE,
            subtitleFontSize=TEXT_SIZE,
            fontWeight=600,
            subtitlePadding=4,
        ),
        axis=alt.AxisConfig(
            labelColor=TEXT,
            titleColor=TEXT,
            tickColor=FAINT,
            domainColor=FAINT,
            labelFontSize=TEXT_SIZE,
            titleFontSize=TEXT_SIZE,
            titleFontWeight="normal",
            grid=False,
        ),
        text=alt.MarkConfig(font=FONT, fontSize=TEXT_SIZE, color=TEXT),
    )
