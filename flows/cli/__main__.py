"""`python -m flows.cli` is `r1`."""

from flows.cli import main

main()
