"""``python -m storm.cli``."""

from storm.cli import main

raise SystemExit(main())
