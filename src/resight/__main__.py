"""`python -m resight` is `resight`."""

import sys

from resight.cli import main

sys.exit(main())
