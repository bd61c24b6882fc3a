"""How fast blockenc is beside everything a user would pick instead.

rows.py     what is measured: the budget rows, and the grid of sizes, block sizes, steps, types and layouts
peers.py    what it is measured beside
measure.py  how: every call in turn, warmed, medians
report.py   Markdown, JSON and the plot
test_speed.py  the grid again as a pytest-benchmark suite
"""
