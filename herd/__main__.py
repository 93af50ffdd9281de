"""`python -m herd` is the `herd` command."""

from herd.cli import main

main()
