"""Reports: records -> tables -> text. They read records only, touch no tensor and never import torch.

tables.py    records -> rows of plain data: numbers as fractions, None where nothing was measured
columns.py   rows -> the columns a person reads: percent, intervals, "—" for an empty cell
method_table.py, method_plot.py    records of an experiment -> methods beside published numbers, and a picture
training_table.py    the table of fine-tuning, two-stage fine-tuning and distillation
render.py    table -> terminal, Markdown, CSV; records -> JSON
"""
