"""`python -m tf2.parity`; see `compare`."""

import sys

from tf2 import console

console.quiet()

from tf2.parity import compare  # noqa: E402

if __name__ == "__main__":
    compare.make_logical_devices()
    sys.exit(compare.main())
