"""Writes an export to S3, however large: some megabytes at a time, and nothing is seen before all of it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3  # the maintenance function alone comes here
from botocore.exceptions import BotoCoreError, ClientError

from vecmeter.errors import BucketUnavailableError
from vecmeter.ledger.export import Export

# S3 takes 10,000 parts of 5 MiB or more: 80 GB.
PART_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredObject:
    """``sha256`` of the content, by which two exports of the same month are told to be the same."""

    key: str
    lines: int
    bytes: int
    sha256: str


def store(bucket: str, key: str, export: Export, client: Any = None) -> StoredObject:
    """Write an export under a key, over what is there. Raises BucketUnavailableError: what was there is there still."""
    s3 = client or boto3.client("s3")
    try:
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key, ContentType=export.format.media_type)
        target = {"Bucket": bucket, "Key": key, "UploadId": upload["UploadId"]}
        try:
            return _send(s3, target, export)
        except BaseException:
            s3.abort_multipart_upload(**target)  # or its parts would be stored, and billed, for ever
            raise
    except (BotoCoreError, ClientError) as error:
        raise BucketUnavailableError(f"The bucket {bucket!r} did not take {key!r}: {type(error).__name__}.") from error


def _send(s3: Any, target: dict[str, str], export: Export) -> StoredObject:
    digest, size, lines, parts = hashlib.sha256(), 0, 0, []
    for number, (part, ended) in enumerate(_parts(export), 1):
        answer = s3.upload_part(**target, PartNumber=number, Body=part)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        digest.update(part)
        size += len(part)
        lines += ended
    s3.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
    return StoredObject(target["Key"], lines, size, digest.hexdigest())


def _parts(export: Export) -> Iterator[tuple[bytes, int]]:
    """Parts of the file and how many lines below the header each has; at least one part, for S3 takes no less."""
    buffer, lines = bytearray(export.header.encode()), 0
    for text in _texts(export):
        buffer += text.encode()
        lines += 1
        if len(buffer) >= PART_BYTES:
            yield bytes(buffer), lines
            buffer, lines = bytearray(), 0
    yield bytes(buffer), lines


def _texts(export: Export) -> Iterable[str]:
    return (line.text for line in export.lines())
