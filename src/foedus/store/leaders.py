"""Who leads a run where several replicas of the coordinator share a database: a lease with a fencing number.

A driver writes only while its number is the run's. Whoever takes a lease over raises the number, so that a replica
which was paused, and wakes when another leads, is refused by the row it would have to agree with. Time is the
database's: clocks of replicas may differ. (Kleppmann, "How to do distributed locking", 2016, on fencing tokens.)
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Integer, String, Table

from foedus.store.tables import metadata

leaders = Table(
    "leaders",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("replica", String, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("until", Float, nullable=False),
)
