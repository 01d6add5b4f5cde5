"""The page of results is what the committed numbers say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_of_results_is_current():
    done = subprocess.run(
        [sys.executable, str(ROOT / "results" / "table.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
