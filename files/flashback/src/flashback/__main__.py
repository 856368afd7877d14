"""Let `python -m flashback` be the command line."""

from flashback.cli import main

main()
