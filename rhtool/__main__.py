"""`python -m rhtool` is `rhtool`."""

from rhtool.cli import cli

if __name__ == "__main__":
    cli()
