"""The names of data sets, which are known before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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
    "sql": ("sql", "SOURCE", ""),
    "medical": ("medical", "SOURCE", "medical"),
    "loader": ("loader", "SOURCE", ""),
    "sites": ("sites", "SOURCE", ""),
    "leaf": ("leaf", "SOURCE", ""),
    "huggingface": ("huggingface", "SOURCE", "huggingface"),
    "shakespeare": ("speakers", "SOURCE", ""),
    "synthetic": ("synthetic", "SOURCE", ""),
}
"""Name → the module of its source, the source in it, and the extra of foedus that it needs, if any."""


def check_source(name: str, known: Collection[str] = SOURCES) -> None:
    """Refuse a name that stands for no source, or for none of those that are ``known`` here.

    Raises:
        ConfigError: ``dataset_unknown``.
    """
    if name not in known:
        raise ConfigError(
            "dataset_unknown",
            f"There is no data set `{name}`.{nearest(name, known)}",
            f"There are: {', '.join(sorted(known))}.",
            "Name one of them.",
        )
