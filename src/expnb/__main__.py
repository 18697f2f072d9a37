"""`python -m expnb` is the command `expnb`."""

from expnb.cli import main

main()
