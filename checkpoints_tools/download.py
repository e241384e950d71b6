"""Downloads a released network: `python -m checkpoints_tools.download NAME [--to=DIR]`."""

from __future__ import annotations

if not __package__:  # run as a script
    import script_path  # noqa: F401

from tf2.checkpoints import download as download_lib

download = download_lib.download

if __name__ == "__main__":
    from absl import flags

    from checkpoints_tools import cli

    TO = flags.DEFINE_string("to", None, "Directory to download into; a cache by default.")
    SAVED_MODEL = flags.DEFINE_bool(
        "saved_model", False, "Take the SavedModel made for TF2 instead of the TF1 checkpoint."
    )

    def main(arguments: list[str]) -> None:
        """Runs the command line: prints where the network is."""
        cli.check_arguments(
            arguments,
            1,
            "download takes one name of the catalog, or one address.",
            "Use python -m checkpoints_tools.catalog.",
        )
        print(download(arguments[1], TO.value, saved_model=SAVED_MODEL.value))

    cli.run(main)
