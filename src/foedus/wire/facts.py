"""What a node reports of itself as it joins in: typed facts that selectors and pace may use; unknown ones are refused.

They are claims: a coordinator believes them for whom to ask and when, and for nothing that a false one could spoil.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

BatchSize = Annotated[int, Field(ge=1, le=2**31, strict=True)]
"""The largest batch that a client works with, in examples."""

Speed = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False, strict=True)]
"""Examples per second of a client's last training."""

Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$")]
Framework = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class NodeFacts(BaseModel):
    """A node's machine: its device, cores, memory in bytes, and the versions of what it computes with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["cpu", "cuda", "mps", "xpu"] | None = None
    cores: Annotated[int, Field(ge=1, le=65536, strict=True)] | None = None
    memory: Annotated[int, Field(ge=1, le=2**53, strict=True)] | None = None
    frameworks: Annotated[dict[Framework, Version], Field(max_length=16)] = {}
