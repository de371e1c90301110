"""Blobs in a bucket of any S3-compatible storage, through boto3; files on the way pass through a cache on disk.

An object appears whole or not at all, a multipart upload that fails is aborted, and nothing depends on being allowed
to list the bucket: which blobs there are stands in the database. Credentials come from the environment alone, as boto3
finds them (https://docs.aws.amazon.com/boto3/latest/guide/credentials.html).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from foedus.domain.errors import StorageError, UnreachableError
from foedus.domain.spans import span
from foedus.store import crashpoints
from foedus.store.buckets import Bucket
from foedus.store.cache import Cache
from foedus.store.shelves import TEMPORARY, Kept, storage_errors

PIECE = 16 << 20
"""Bytes of a part of a multipart upload, and of the largest object that goes up in one piece."""

THREADS = 4
LINK_SECONDS = 900
ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
PASSING = frozenset({"500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout"})


class BucketShelf:
    """A bucket, and a cache in front of it."""

    def __init__(self, bucket: Bucket, folder: Path, room: int) -> None:
        self._bucket, self._folder, self._cache = bucket, folder, Cache(folder / "cache", room)
        self._client, self._transfer = _connect(bucket)
        self._locks = tuple(Lock() for _ in range(64))

    def put(self, name: str, file: Path, *, lasting: bool = True) -> None:
        """Send it, then keep it in the cache: it is likely to be read soon."""
        crashpoints.reach("rename", "blob", "before")
        with span("blob", operation="put"), _errors():
            self._client.upload_file(str(file), self._bucket.name, self._key(name), Config=self._transfer)
        crashpoints.reach("rename", "blob", "after")
        self._cache.take(name, file)

    def find(self, name: str) -> Path | None:
        """From the cache; who asks for the same at once waits for the one who fetches it."""
        with self._locks[hash(name) % len(self._locks)]:
            if (cached := self._cache.get(name)) is not None:
                return cached
            file = self._folder / "partial" / f"{TEMPORARY}{secrets.token_hex(16)}"
            try:
                with span("blob", operation="get"), storage_errors(), _errors(absent=True):
                    self._client.download_file(self._bucket.name, self._key(name), str(file), Config=self._transfer)
                    return self._cache.take(name, file)
            except FileNotFoundError:
                return None
            finally:
                file.unlink(missing_ok=True)

    def spoiled(self, name: str, *, again: bool) -> None:
        """Fetch it anew; if the bucket has other bytes than were put, set the object aside."""
        self._cache.drop(name)
        if again:
            there = {"Bucket": self._bucket.name, "Key": self._key(name)}
            with _errors():
                self._client.copy(there, self._bucket.name, self._key(f"spoiled/{name.replace('/', '_')}"))
                self._client.delete_object(**there)

    def size(self, name: str) -> int | None:
        """What the bucket says now."""
        try:
            with span("blob", operation="head"), _errors(absent=True):
                return int(self._client.head_object(Bucket=self._bucket.name, Key=self._key(name))["ContentLength"])
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Delete the object, and what the cache has of it."""
        with span("blob", operation="remove"), _errors():
            self._client.delete_object(Bucket=self._bucket.name, Key=self._key(name))
        self._cache.drop(name)

    def names(self, prefix: str) -> Iterator[Kept]:
        """List the bucket, page by page.

        Raises:
            StorageError: ``storage_refused`` where the credentials may not list.
        """
        pages = self._client.get_paginator("list_objects_v2")
        with _errors():
            for page in pages.paginate(Bucket=self._bucket.name, Prefix=self._key(prefix)):
                for each in page.get("Contents", ()):
                    name = each["Key"].removeprefix(self._bucket.prefix)
                    yield Kept(name, each["Size"], each["LastModified"].timestamp())

    def link(self, name: str) -> str | None:
        """A signed URL, where transfers are ``presigned``."""
        if not self._bucket.presigned:
            return None
        where = {"Bucket": self._bucket.name, "Key": self._key(name)}
        return str(self._client.generate_presigned_url("get_object", Params=where, ExpiresIn=LINK_SECONDS))

    def keeping(self) -> AbstractContextManager[None]:
        """What the cache gives within the block stays in it."""
        return self._cache.keeping()

    def tidy(self, before: float) -> None:
        """Abort the multipart uploads that a killed process left, where the credentials may list them."""
        with _errors():
            found = self._client.list_multipart_uploads(Bucket=self._bucket.name, Prefix=self._bucket.prefix)
            for each in found.get("Uploads", ()):
                if each["Initiated"].timestamp() < before:
                    which = {"Key": each["Key"], "UploadId": each["UploadId"]}
                    self._client.abort_multipart_upload(Bucket=self._bucket.name, **which)

    def _key(self, name: str) -> str:
        return self._bucket.prefix + name


def _connect(bucket: Bucket) -> tuple[Any, Any]:
    # Servers other than Amazon's know few of the newer checksums; every blob is verified by its SHA-256 here anyway.
    when = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    style = {"addressing_style": "path" if bucket.path_style else "virtual"}
    patience = {"connect_timeout": 5, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 4}}
    config = Config(s3=style, signature_version="s3v4", max_pool_connections=64, **when, **patience)
    place = {"endpoint_url": bucket.endpoint, "region_name": bucket.region or (bucket.endpoint and "us-east-1")}
    pieces = {"multipart_threshold": PIECE, "multipart_chunksize": PIECE, "io_chunksize": 1 << 20, "max_io_queue": 16}
    client = Session().client("s3", config=config, **{name: value for name, value in place.items() if value})
    return client, TransferConfig(max_concurrency=THREADS, **pieces)


@contextmanager
def _errors(*, absent: bool = False) -> Iterator[None]:
    """Tell boto3's errors as ours; what is ``absent`` as FileNotFoundError."""
    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as error:
        # A failed upload is told in words; the error that it came from has the code.
        told = error.__context__ if isinstance(error, Boto3Error) else error
        code = str(told.response["Error"]["Code"]) if isinstance(told, ClientError) else type(told).__name__
        if absent and code in ABSENT:
            raise FileNotFoundError from error
        refused = (ClientError, NoCredentialsError, PartialCredentialsError)
        if code in PASSING or not isinstance(told, refused):
            raise UnreachableError(
                "storage_unreachable",
                "The storage of blobs does not answer just now.",
                code,
                "Try again in a moment; nothing that was confirmed is lost.",
            ) from error
        raise StorageError(
            "storage_refused",
            "The storage of blobs refuses.",
            code,
            "Check the bucket, and what the credentials in the coordinator's environment may do.",
        ) from error
