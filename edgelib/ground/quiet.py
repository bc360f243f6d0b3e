"""Silence for the model libraries: their bars and advice differ from run to run, and have no place on a page."""

from __future__ import annotations

import os
import warnings


def quiet_libraries() -> None:
    """Switch off bars and advice of libraries that are imported later; what a user has set in the environment stays."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # tqdm's notebook bar advises to install ipywidgets; edgelib's own bars show on a terminal only.
    warnings.filterwarnings("ignore", message="IProgress not found")
