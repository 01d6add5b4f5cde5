"""`python -m operant` is the command `operant`."""

from operant.cli import main

main()
