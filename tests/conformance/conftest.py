"""Makes the helper module of this folder importable, and loads PyG in peace."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# Its own import warns of deprecated calls; warnings of tests themselves stay errors.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_geometric.data  # noqa: F401
