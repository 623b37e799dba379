"""Statistics: bootstrap intervals, p-values against random masks, and methods compared with measured effects."""
