"""Recipes: recorded experiments. A file says which commands with which options, and what they gave when published.

declaration.py   what a command takes, as plain data; checks one value
recipe.py        the file: YAML -> Recipe, validated
variables.py     ${name} in values, and key=value of the command line
grid.py          recipe -> cells: one command line each, with a key that stays the same
store.py         OUT/NAME/KEY.cell: what became of each cell, written whole
executors/       who runs the cells: processes of this machine, or a Slurm cluster
outcome.py       cells and their records -> the rows of the table
"""
