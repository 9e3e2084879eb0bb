"""The look that all dashboards share: a grid of 24 columns, panels of one height, one datasource, like variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.models import common, dashboard

COLUMNS = 24
HEIGHT, STAT_HEIGHT, ROW_HEIGHT = 8, 4, 1
DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
EDGES = 'job=~"$job",instance=~"$instance"'
"""The edges that are looked at."""
QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def rate(metric: str, by: str = "", labels: str = EDGES) -> str:
    """Events a second of a counter; for each value of ``by``, else of all."""
    return f"{_sum(by)} (rate({metric}{{{labels}}}[$__rate_interval]))"


def total(metric: str, by: str = "", labels: str = EDGES) -> str:
    """The sum of a gauge; for each value of ``by``, else of all."""
    return f"{_sum(by)} ({metric}{{{labels}}})"


def ratio(above: str, below: str) -> str:
    """One rate by another, where there is one."""
    return f"{above} / ({below} > 0)"


def quantile(which: str, histogram: str, by: str = "") -> str:
    """A quantile of a histogram; for each value of ``by``, else of all."""
    buckets = rate(f"{histogram}_bucket", f"{by}, le" if by else "le")
    return f"histogram_quantile({QUANTILES[which]}, {buckets})"


def quantiles(histogram: str) -> dict[str, str]:
    """The three quantiles of a histogram over all edges, by their names."""
    return {which: quantile(which, histogram) for which in QUANTILES}


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"


@dataclass(frozen=True)
class Panel:
    """A chart over time. ``queries`` are expressions by the legend of what they give; ``text`` says how to read it."""

    title: str
    text: str
    unit: str
    queries: Mapping[str, str]
    width: int = 12
    stacked: bool = False
    height: int = field(default=HEIGHT, init=False)

    def builder(self) -> Any:
        """The SDK's builder of it."""
        panel = (
            timeseries.Panel()
            .min(0)
            .fill_opacity(20 if self.stacked else 5)
            .show_points(common.VisibilityMode.NEVER)
            .legend(
                common_builders.VizLegendOptions()
                .show_legend(True)
                .display_mode(common.LegendDisplayMode.LIST)
                .placement(common.LegendPlacement.BOTTOM)
            )
            .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
        )
        if self.stacked:
            panel = panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
        return panel


@dataclass(frozen=True)
class Figure(Panel):
    """One number, the newest, with its course behind it."""

    width: int = 4
    height: int = field(default=STAT_HEIGHT, init=False)

    def builder(self) -> Any:
        """The SDK's builder of it."""
        return (
            stat.Panel()
            .graph_mode(common.BigValueGraphMode.AREA)
            .color_mode(common.BigValueColorMode.NONE)
            .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        )


def make(
    uid: str, title: str, text: str, rows: Mapping[str, Sequence[Panel]], variables: Iterable[Any]
) -> dashboard.Dashboard:
    """A dashboard of rows of panels, which fill each line of the grid from the left."""
    made = (
        builders.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["roomcast"])
        .timezone("browser")
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for variable in variables:
        made = made.with_variable(variable)
    number = y = 0
    for row, panels in rows.items():
        number += 1
        made = made.with_row(
            builders.Row(row).id(number).grid_pos(dashboard.GridPos(h=ROW_HEIGHT, w=COLUMNS, x=0, y=y))
        )
        y += ROW_HEIGHT
        x = 0
        for panel in panels:
            number += 1
            made = made.with_panel(_placed(panel, number, x, y))
            x += panel.width
            if x >= COLUMNS or panel is panels[-1]:
                x, y = 0, y + panel.height
    return made.build()


def choice(name: str, label: str, query: str) -> Any:
    """A variable of which several values, or all, can be chosen."""
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    )


def edge_choices() -> list[Any]:
    """Which cluster, by the job under which it is scraped, and which of its edges."""
    return [
        choice("job", "Job", "label_values(roomcast_build_info, job)"),
        choice("instance", "Edge", 'label_values(roomcast_build_info{job=~"$job"}, instance)'),
    ]


def _placed(panel: Panel, number: int, x: int, y: int) -> Any:
    made = (
        panel.builder()
        .id(number)
        .title(panel.title)
        .description(panel.text)
        .unit(panel.unit)
        .datasource(DATASOURCE)
        .grid_pos(dashboard.GridPos(h=panel.height, w=panel.width, x=x, y=y))
    )
    for place, (legend, expr) in enumerate(panel.queries.items()):
        query = prometheus.Dataquery().ref_id(chr(ord("A") + place)).expr(expr).legend_format(legend).range()
        made = made.with_target(query.datasource(DATASOURCE))
    return made
