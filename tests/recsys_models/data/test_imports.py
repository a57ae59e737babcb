from __future__ import annotations

import subprocess
import sys


def test_the_catalogue_and_the_split_need_neither_polars_nor_torch() -> None:
    # A server reads catalogues; `--help` must not wait for heavy packages.
    code = "import recsys_models.data, sys; print(sorted({'polars', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
