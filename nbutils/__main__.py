"""``python -m nbutils``: the same as the ``nbutils`` command."""

from __future__ import annotations

from nbutils.cli import main

if __name__ == "__main__":
    main(prog_name="nbutils")
