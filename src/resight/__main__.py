"""`python -m resight` is `resight`."""

import sys

from resight.cli.app import main

sys.exit(main())
