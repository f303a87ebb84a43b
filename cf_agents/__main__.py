"""`python -m cf_agents` is `cf-agents`."""

import sys

from cf_agents.cli import main

if __name__ == "__main__":
    sys.exit(main())
