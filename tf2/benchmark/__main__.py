"""`python -m tf2.benchmark`; see `cli`."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # silences TensorFlow, which is imported later

from tf2.benchmark import cli  # noqa: E402

if __name__ == "__main__":
    sys.exit(cli.main())
