"""The command line as a module: ``python -m nasnet_det VERB`` is ``nasnet-det VERB``."""

import sys

from nasnet_det.cli.main import main

sys.exit(main())
