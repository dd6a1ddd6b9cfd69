"""`python -m richrep` is `richrep`."""

from richrep.cli.main import run

if __name__ == "__main__":
    run()
