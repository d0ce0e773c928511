"""``python -m storm``, the same as ``storm``."""

from storm.cli import main

raise SystemExit(main())
