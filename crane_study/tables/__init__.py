"""The study's tables with intervals, p-values and areas under dose-response curves."""

from __future__ import annotations

from crane_study.tables.controls import (
    ablation_table,
    area,
    area_table,
    best_differences,
    control_table,
    dose_curves,
    silenced_table,
)
from crane_study.tables.effects import (
    difference_table,
    drop_table,
    interval_table,
    mean_intervals,
    p_values,
    with_statistics,
)

__all__ = [
    "ablation_table",
    "area",
    "area_table",
    "best_differences",
    "control_table",
    "difference_table",
    "dose_curves",
    "drop_table",
    "interval_table",
    "mean_intervals",
    "p_values",
    "silenced_table",
    "with_statistics",
]
