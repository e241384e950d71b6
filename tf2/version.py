"""The project's version and repository address, each defined once, here."""

__version__ = "0.1.0"

REPOSITORY = "https://github.com/simclr-tf2/simclr-tf2"
