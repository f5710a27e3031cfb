"""The command as a module: `python -m notify`."""

import sys

from .cli import main

sys.exit(main())
