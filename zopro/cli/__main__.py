"""`python -m zopro.cli`."""

from . import main

raise SystemExit(main())
