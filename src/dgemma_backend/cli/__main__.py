"""`python -m dgemma_backend.cli`."""

import sys

from dgemma_backend.cli import main

sys.exit(main())
