"""`python -m payflow.cli`: the `payflow` command where its script is not on the path."""

from payflow.cli.commands import main

if __name__ == "__main__":
    main()
