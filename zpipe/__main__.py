"""`python -m zpipe`."""

from zpipe.cli import main

if __name__ == "__main__":  # executors import the program again in their workers
    main()
