"""What commands say: to people on stderr, to programs on stdout."""

import json
import sys
from typing import Any


def say(text: str) -> None:
    """Tells people."""
    print(text, file=sys.stderr, flush=True)


def print_json(wanted: bool, content: dict[str, Any]) -> None:
    """Tells programs, where that is wanted."""
    if wanted:
        print(json.dumps(content, allow_nan=False))
