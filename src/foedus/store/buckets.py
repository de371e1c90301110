"""How the setting ``blobs`` names a bucket of S3-compatible storage; :mod:`foedus.store.s3` works with it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from foedus.domain.errors import ConfigError


@dataclass(frozen=True)
class Bucket:
    """A bucket, how it is reached, and whether who fetches a blob is sent there (``presigned``)."""

    name: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    presigned: bool = False


def parse_bucket(url: str) -> Bucket:
    """``s3://BUCKET/PREFIX?endpoint=URL&region=NAME&style=path|virtual&transfer=proxied|presigned``.

    Raises:
        ConfigError: ``blobs_url``.

    >>> parse_bucket("s3://models/foedus?region=eu-west-1&style=path")
    Bucket(name='models', prefix='foedus/', endpoint=None, region='eu-west-1', path_style=True, presigned=False)
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    style, transfer = options.get("style", "virtual"), options.get("transfer", "proxied")
    endpoint = options.get("endpoint")
    fits = parts.scheme == "s3" and parts.netloc and "@" not in parts.netloc and not parts.fragment
    fits = fits and not set(options) - {"endpoint", "region", "style", "transfer"}
    fits = fits and (endpoint is None or urlsplit(endpoint).scheme in ("http", "https"))
    if not fits or style not in ("path", "virtual") or transfer not in ("proxied", "presigned"):
        raise ConfigError(
            "blobs_url",
            "That is no place where foedus can keep blobs.",
            "It may hold a secret, and is not shown.",
            "Write s3://BUCKET/PREFIX?endpoint=URL&region=NAME&style=path|virtual&transfer=proxied|presigned, with "
            "credentials in the environment (AWS_ACCESS_KEY_ID …), or leave it out for a folder.",
        )
    prefix = f"{parts.path.strip('/')}/".lstrip("/")
    return Bucket(parts.netloc, prefix, endpoint, options.get("region"), style == "path", transfer == "presigned")
