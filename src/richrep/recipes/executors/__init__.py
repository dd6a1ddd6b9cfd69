"""Who runs the cells, one file each. EXECUTORS names them: processes of this machine, or jobs of a Slurm cluster."""

EXECUTORS = ("local", "slurm")
