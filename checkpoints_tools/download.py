"""Downloads a released network: `python -m checkpoints_tools.download NAME [--to=DIR]`."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tf2 import errors  # noqa: E402
from tf2.checkpoints import download as download_lib  # noqa: E402

download = download_lib.download

if __name__ == "__main__":
    from absl import app, flags

    TO = flags.DEFINE_string("to", None, "Directory to download into; a cache by default.")
    SAVED_MODEL = flags.DEFINE_bool(
        "saved_model", False, "Take the SavedModel made for TF2 instead of the TF1 checkpoint."
    )

    def main(arguments):
        """Downloads what the command line names, and prints where it is."""
        try:
            if len(arguments) != 2:
                raise errors.UserError(
                    "download takes one name of the catalog, or one address. Received: "
                    f"{len(arguments) - 1} arguments. Use python -m checkpoints_tools.catalog."
                )
            print(download(arguments[1], TO.value, saved_model=SAVED_MODEL.value))
        except Exception as error:
            text = errors.sentence(error)
            if text is None:
                raise
            print(text, file=sys.stderr)
            sys.exit(1)

    app.run(main)
