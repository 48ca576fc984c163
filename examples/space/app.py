"""The page as a Space, on a CPU: python examples/space/app.py

SPACE_HOST is the name that the host serves it under, PORT the port; what visitors protect is theirs until it restarts.
"""

import os
import tempfile
from pathlib import Path

from ui.app import launched, page_of, prepared


def main() -> None:
    """Serves until it is stopped."""
    page = page_of("testbed", Path(tempfile.mkdtemp()), device="cpu")
    name = os.environ.get("SPACE_HOST")
    blocks = launched(page, "0.0.0.0", int(os.environ.get("PORT", "7860")), hosts=[name] if name else ())
    print(f"The page is at {blocks.local_url}", flush=True)
    prepared(page)
    try:
        blocks.block_thread()
    finally:
        page.close()
        blocks.close(verbose=False)


if __name__ == "__main__":
    main()
