"""`python -m pvemcp` is the same as `pvemcp`."""

import sys

from pvemcp.cli import main

sys.exit(main())
