"""Every place where the coordinator and a node can be killed on demand while a run is submitted and goes to its end."""

from __future__ import annotations


def _both(*places: str) -> tuple[str, ...]:
    return tuple(f"{place}:{when}" for place in places for when in ("before", "after"))


COORDINATOR = _both(
    "commit:first_admin",
    "commit:hello",
    "commit:blob",
    "commit:submit",
    "commit:claim",
    "commit:start_run",
    "commit:open_phase",
    "commit:lease",
    "commit:contribute",
    "commit:closing",
    "commit:close_phase",
    "commit:commit_round",
    "commit:complete_run",
    "commit:told",
    "rename:blob",
    "reply:HEAD /api/v1/blobs/{digest}",
    "reply:GET /api/v1/blobs/{digest}",
    "reply:PUT /api/v1/blobs/{digest}",
    "reply:POST /api/v1/runs",
    "reply:POST /api/v1/node/hello",
    "reply:POST /api/v1/node/poll",
    "reply:POST /api/v1/node/assignments/{assignment}/contribute",
)
NODE = _both("commit:node_audit", "commit:node_begun", "rename:node_state", "rename:node_blob")
FIRST_CONTACT = _both(
    "rename:node_key",
    "commit:node_format",
    "commit:node_audit",
    "commit:node_logged",
    "commit:node_init",
    "commit:node_join",
    "commit:node_dataset",
    "commit:node_loading",
    "commit:node_plan",
    "rename:node_blob",
    "rename:node_plan",
)
"""What a node passes before it works for the first time."""

SOMETIMES = _both(
    "rename:node_saved",
    "rename:node_snapshot",
    "commit:migrate",
    "commit:lead",
    "commit:leave",
    "commit:seen",
    "commit:nonce",
    "commit:token_used",
    "commit:refused",
    "commit:node_witness",
    "commit:renew",
    "commit:late",
    "commit:clash",
    "commit:progress",
    "reply:POST /api/v1/node/progress",
    "reply:POST /api/v1/node/assignments/{assignment}/renew",
    "reply:GET /readyz",
    "reply:GET /api/v1/runs/{run}",
)
"""Places that a run passes only if it is slow or somebody looks; a lost one of these changes nothing."""
