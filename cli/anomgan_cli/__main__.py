"""``python -m anomgan_cli``: the same as the ``anomgan`` command."""

from __future__ import annotations

from anomgan_cli.main import main

if __name__ == "__main__":
    main()
