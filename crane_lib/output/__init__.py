"""From result files to what a reader sees: tables, figures, verdicts on the claims and the report.

Nothing here needs a model or a GPU; everything is redrawn from files.
"""
