"""The paper's experiment: texts and models, steps, measurements, statistics, tables and figures."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository: notebooks, configs, expected
