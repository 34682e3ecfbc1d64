"""`python -m meta_train`: the command line from a checkout that is not installed."""

from meta_train.cli import main


if __name__ == "__main__":
    raise SystemExit(main())
