"""What a function does around a snapshot of its process (Lambda's SnapStart), of which many copies are then resumed.

No copy may share with another what has to be its own: a connection, or the state of a random generator. Ids and secrets
come from the kernel's generator, which Lambda makes each copy's own; nothing connects before the snapshot, because the
OpenSSL within psycopg's wheel seeds itself with the first connection and would be copied seeded (docs/adr/0019).
"""

from __future__ import annotations

import random

from vecmeter.runtime import Runtime


def register_hooks(process: Runtime) -> None:
    """Have Lambda call ``before_snapshot`` and ``after_restore``; without SnapStart it never does."""
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ImportError:  # only Lambda's own runtime has it, and nobody else takes snapshots
        return
    register_before_snapshot(before_snapshot, process)
    register_after_restore(after_restore)


def before_snapshot(process: Runtime) -> None:
    process.disconnect()
    if process.settings.database_secret_arn:
        import boto3  # noqa: F401  what the first request would load to read the secret; a snapshot may carry code


def after_restore() -> None:
    # Not for secrets, which never come from it, but trace ids and the pauses of retries do.
    random.seed()
