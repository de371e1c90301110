"""The names of data sets, which are known before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping

from foedus.domain.errors import ConfigError
from foedus.domain.table import nearest

SOURCES: Mapping[str, tuple[str, str, str]] = {
    **dict.fromkeys(("digits", "breast_cancer", "wine", "diabetes"), ("bundled", "SOURCE", "")),
    **dict.fromkeys(("mnist", "fashion_mnist"), ("idx", "SOURCE", "")),
    "emnist": ("idx", "EMNIST", ""),
    "images": ("images", "SOURCE", "images"),
    **dict.fromkeys(("csv", "npz", "safetensors"), ("tables", "SOURCE", "")),
    **dict.fromkeys(("parquet", "arrow"), ("columnar", "SOURCE", "parquet")),
    "sqlite": ("sqlite", "SOURCE", ""),
    "leaf": ("leaf", "SOURCE", ""),
    "huggingface": ("huggingface", "SOURCE", "huggingface"),
    "shakespeare": ("speakers", "SOURCE", ""),
    "synthetic": ("synthetic", "SOURCE", ""),
}
"""Name → the module of its source, the source in it, and the extra of foedus that it needs, if any."""


def check_source(name: str) -> None:
    """Refuse a name that stands for no source.

    Raises:
        ConfigError: ``dataset_unknown``.
    """
    if name not in SOURCES:
        raise ConfigError(
            "dataset_unknown",
            f"There is no data set `{name}`.{nearest(name, SOURCES)}",
            f"There are: {', '.join(sorted(SOURCES))}.",
            "Set `data.name` to one of them.",
        )
