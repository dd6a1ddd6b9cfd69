"""Who runs the cells, one file each: processes of this machine (local.py), or jobs of a Slurm cluster (slurm.py)."""
