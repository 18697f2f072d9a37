"""A chart that can be shown anywhere, with its table and its sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import altair as alt

if TYPE_CHECKING:
    import pandas as pd

# JupyterLab knows no newer key than this one. Its own Vega-Lite is 5.6, so charts hold to what that version can do.
VEGA_LITE: Final = "application/vnd.vegalite.v5+json"
SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v5.json"  # a name; nothing fetches it
OLDEST_VEGA_LITE: Final = "5.8"  # the oldest that vl-convert can draw
# Without the menu's links to the online Vega editor, which would carry the figures to another host.
EMBED: Final[Mapping[str, object]] = {
    "renderer": "svg",
    "actions": {"export": True, "source": False, "compiled": False, "editor": False},
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its twins: the same figures as a table, and in a sentence.

    Parameters
    ----------
    chart : altair chart
        To be changed or combined further; shown through the figure it needs no renderer and no network.
    table : DataFrame
        Every number that is drawn, one per row.
    sentence : str
        What the chart shows.
    """

    chart: alt.VConcatChart
    table: pd.DataFrame
    sentence: str

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification; the same figure gives the same one, whatever theme Altair is set to."""
        # Not as a top level: that would mix in Altair's global theme and move the values behind a data transformer.
        # Not validated: the tests compile what is drawn, and a user would wait for it each time.
        drawn: dict[str, Any] = _short(self.chart.to_dict(validate=False, context={"top_level": False}))
        return {"$schema": SCHEMA, **drawn}

    def svg(self) -> str:
        """The chart as SVG with a transparent background."""
        import vl_convert  # noqa: PLC0415 - 40 MB, only when something is drawn

        return str(vl_convert.vegalite_to_svg(self.spec(), vl_version=OLDEST_VEGA_LITE))

    def __repr__(self) -> str:
        return self.sentence

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Native in JupyterLab, SVG in exported pages, the sentence elsewhere."""
        del include, exclude  # IPython filters by itself
        data: dict[str, object] = {VEGA_LITE: self.spec(), "image/svg+xml": self.svg(), "text/plain": self.sentence}
        return data, {VEGA_LITE: {"embed_options": dict(EMBED)}}


def _short(node: Any) -> Any:  # noqa: ANN401 - whatever a specification holds
    """Numbers with as many digits as can be seen: half the size, and the same on every processor."""
    if isinstance(node, float):
        return float(f"{node:.6g}")
    if isinstance(node, dict):
        return {key: _short(value) for key, value in node.items()}
    return [_short(value) for value in node] if isinstance(node, list) else node
