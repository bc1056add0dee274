"""An S3 on loopback: moto's server, found by clients as every S3 is, by their environment."""

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fsspec import filesystem
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

_KEY, _SECRET = "AKIALOOPBACK", "not-a-secret"


@dataclass(frozen=True, kw_only=True)
class S3:
    """A server that runs, with a bucket. files: the bucket's, as fsspec's client sees them."""

    server: ThreadedMotoServer
    endpoint: str
    bucket: str
    files: Any

    def place(self) -> str:
        """The address of a new place in the bucket."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex}"

    def environment(self) -> dict[str, str]:
        """What tells a client where to go, so that it looks nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            # Tests that stop the server do not wait for it to come back.
            "AWS_MAX_ATTEMPTS": "1",
        }

    def age(self, address: str, days: float) -> None:
        """Have the object be that old."""
        bucket, _, key = address.removeprefix("s3://").partition("/")
        found = s3_backends[DEFAULT_ACCOUNT_ID]["global"].get_object(bucket, key)
        assert found is not None
        found.last_modified = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)

    def names(self, address: str) -> list[str]:
        """What lies at an address and below."""
        self.files.invalidate_cache()
        found: list[str] = self.files.find(address)
        return [f"s3://{name}" for name in found]


@contextmanager
def serve_s3() -> Iterator[S3]:
    """A server on a free port of loopback, inside."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint, bucket = f"http://{host}:{port}", f"edits-{uuid.uuid4().hex[:8]}"
    files = filesystem(
        "s3", endpoint_url=endpoint, key=_KEY, secret=_SECRET, skip_instance_cache=True
    )
    files.mkdir(bucket)
    yield S3(server=server, endpoint=endpoint, bucket=bucket, files=files)
    server.stop()
