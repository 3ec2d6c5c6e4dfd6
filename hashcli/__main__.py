"""`python -m hashcli` is the `hashcli` command."""

import sys

from hashcli.cli import main

sys.exit(main())
