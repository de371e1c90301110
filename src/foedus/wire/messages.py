"""The messages between people's programs, nodes and the coordinator; version 1 of the protocol.

Fields are never removed and never change their meaning; new ones are optional. Every text and list has a limit.
Paths below are under ``/api/v1``. People send ``Authorization: Bearer``; nodes sign (see :mod:`foedus.wire.signing`).

================================  ======  =======================  ==========================================
path                              by      message → reply          what
================================  ======  =======================  ==========================================
POST /join-tokens                 admin   → JoinToken              a one-use token for one node
GET /nodes                        people  → NodeList
POST /nodes/{id}/revoke           admin   → NodeView
POST /runs                        people  SubmitRun → RunView      needs an Idempotency-Key
GET /runs, /runs/{id}             people  → RunList, RunView
GET /runs/{id}/rounds             people  → RoundList
POST /runs/{id}/parameters        people  Parameters → RunView     of a run whose tables are aligned
POST /runs/{id}/start, /pause     people  → RunView                also /resume, /retry, /cancel
GET /runs/{id}/models             people  → ModelList
POST /node/join                   node    JoinNode → Joined        signed with the key that it brings
POST /node/hello                  node    Hello → Welcome          datasets and approvals; frees old leases
POST /node/poll                   node    Poll → Work              waits up to ``wait`` seconds
POST /node/schemas                node    TellSchema → SchemaHeard
POST /node/assignments/{id}/...   node    Renew, Contribute, Fail  each with the fencing token
PUT /blobs/{sha256}               both    bytes                    whole, checked against its name
GET, HEAD /blobs/{sha256}         both    bytes, with ranges       only blobs that the caller may see
POST /uploads                     both    NewUpload → UploadView   resumable: PATCH with ``Upload-Offset``,
PATCH, HEAD /uploads/{id}         both    bytes → UploadView       HEAD tells the offset; complete = a blob
================================  ======  =======================  ==========================================
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from foedus.wire.facts import BatchSize, NodeFacts, Speed
from foedus.wire.plan_signature import SIGNERS, Key, PlanSignature

PROTOCOL = 1

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Id = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,4}_[0-9a-z]{1,40}$")]
Secret = Annotated[str, StringConstraints(min_length=16, max_length=200)]
Line = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]
"""Text that people see: a terminal has nothing to obey in it, and it cannot pass for another line."""

Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Lease = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Tag = Name
Timings = Annotated[dict[Name, Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]], Field(max_length=16)]
INLINE_LIMIT = 1 << 20
"""Bytes of a blob within a message at most."""

Content = Annotated[bytes, Field(max_length=INLINE_LIMIT)]
"""A small blob within a message; in base64 of the URL's alphabet."""

Cell = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
"""The name of a column or of a class in it, as a table has it."""

Loading = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}:[0-9a-f]{64}$")]


class Message(BaseModel):
    """Frozen, and closed to fields that this version does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class Problem(BaseModel):
    """An error as ``application/problem+json`` (RFC 9457), with foedus' stable ``code``, the reason and the cure.

    ``kind`` names the class in :mod:`foedus.domain.errors`, where one status stands for several.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str = ""
    fix: str = ""
    kind: str = ""


class JoinToken(Message):
    """A token that enrols one node, once. Only its hash is kept."""

    token: Secret
    expires_at: datetime


class DatasetView(Message):
    """A dataset on a node, as its owner shows it: never its path. ``client`` is its name, unique per coordinator."""

    client: Name
    tags: Annotated[tuple[Tag, ...], Field(max_length=32)] = ()
    examples: Count
    batch_size: BatchSize | None = None
    speed: Speed | None = None


class DatasetRefused(Message):
    """Why the coordinator does not take a dataset."""

    client: Name
    code: Name
    reason: Line


class Released(Message):
    """A client's name that any node may take."""

    client: Name


class PlanApproval(Message):
    """What a node's owner says of a plan: ``pending``, ``approved`` or ``rejected``, with a note for the author.

    ``signers``: whose signatures of a pending plan are there; a node that says so takes others with a further offer.
    """

    digest: Digest
    state: Literal["pending", "approved", "rejected"]
    note: Annotated[Line, StringConstraints(max_length=500)] = ""
    signers: Annotated[tuple[Key, ...], Field(max_length=SIGNERS)] | None = None


class JoinNode(Message):
    """Enrol with a one-use token. ``public_key`` is the node's Ed25519 key, 32 bytes as base64.

    ``organisation`` is the one that the node's owner thinks to join for; a token for another one is refused.
    """

    token: Secret
    name: Name
    organisation: Name | Literal[""] = ""
    public_key: Annotated[str, StringConstraints(min_length=44, max_length=44)]
    protocol: int = PROTOCOL


class Joined(Message):
    """The node's id, which is also the key id of its signatures."""

    node: Id


class Hello(Message):
    """A node has (re)started or its owner changed something. Leases of an earlier ``boot`` of this node are freed."""

    boot: Annotated[str, StringConstraints(min_length=8, max_length=64)]
    protocol: int = PROTOCOL
    version: Annotated[Line, StringConstraints(max_length=64)]
    datasets: Annotated[tuple[DatasetView, ...], Field(max_length=1000)] = ()
    approvals: Annotated[tuple[PlanApproval, ...], Field(max_length=1000)] = ()
    facts: NodeFacts | None = None


class Welcome(Message):
    """The coordinator knows the node; ``wait`` is the longest poll that it grants, in seconds.

    ``refused``: datasets that it does not take, and why; the others are taken.
    """

    node: Id
    wait: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
    refused: Annotated[tuple[DatasetRefused, ...], Field(max_length=1000)] = ()


class Poll(Message):
    """Give me work, or answer after ``wait`` seconds that there is none. ``held``: assignments that I work for."""

    boot: Annotated[str, StringConstraints(min_length=8, max_length=64)]
    wait: Annotated[float, Field(ge=0, le=60)] = 25.0
    held: Annotated[tuple[Id, ...], Field(max_length=100)] = ()


class PlanOffer(Message):
    """A run wants this plan on a dataset of the node; its owner has not answered yet. ``blob`` is the bundle.

    ``signed``: its author's signature, which a node checks itself.
    """

    run: Id
    digest: Digest
    blob: Digest
    name: Annotated[Line, StringConstraints(max_length=200)]
    author: Annotated[Line, StringConstraints(max_length=200)]
    signed: PlanSignature | None = None


class SchemaColumn(Message):
    """A column of a site's table: its classes, or numbers where there are none; whether these are all ``whole``."""

    classes: Annotated[tuple[Cell, ...], Field(max_length=100)] = ()
    whole: bool = False


class SchemaAsk(Message):
    """A run wants to know the columns of a dataset, so that the sites' tables can be read alike.

    The node tells them only where its owner approved the ``plan`` for this and lets schemas leave.
    """

    run: Id
    client: Name
    plan: Digest
    strategy: Name


class TellSchema(Message):
    """The columns of a client's table, and no cell but the names of classes; or why they stay on the node."""

    run: Id
    client: Name
    columns: Annotated[dict[Cell, SchemaColumn], Field(max_length=10_000)] = {}
    code: Name | Literal[""] = ""
    reason: Line = ""


class SchemaHeard(Message):
    """The schema is noted, once; ``counted`` is whether it is one of those that the run's alignment is made of."""

    run: Id
    counted: bool


class Sends(Message):
    """What may come of an ask, by name, fixed before any data is touched: parts of the update, weights, metrics."""

    parts: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    weights: Annotated[tuple[Name, ...], Field(max_length=100)] = ()
    metrics: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()


class Assignment(Message):
    """An ask, leased to a node until ``lease`` seconds from now; ``token`` is the fencing token.

    ``broadcast`` names the blobs that go down, part by part (``model``: plain named tensors). ``state`` is the
    digest of the client state that is current (none: this client has not contributed to the run yet). ``cohort``: how
    many clients the phase asks (none: it asks as it goes). ``sends``: what may come of it (none: it is not said).
    ``alignment``: the blob by which the run has tables read (none: as their owner says).
    ``checks``: what is measured around training, as ``[test]`` of run.toml has it. ``checkpointers``: its tables
    ``[[checkpointer]]``.
    """

    id: Id
    token: Count
    lease: Lease
    run: Id
    round: Count
    phase: Name
    attempt: Count
    client: Name
    seed: Seed
    strategy: Name
    options: dict[str, Any]
    test_ratio: Annotated[float, Field(ge=0, le=1)]
    plan: Digest
    plan_blob: Digest
    broadcast: Annotated[dict[Name, Digest], Field(max_length=32)]
    state: Digest | None = None
    validation_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    cohort: Count | None = None
    schedule: dict[str, Any] | None = None
    checks: Annotated[dict[Name, bool], Field(max_length=16)] = {}
    sends: Sends | None = None
    checkpointers: Annotated[tuple[dict[str, Any], ...], Field(max_length=16)] = ()
    inline: Annotated[int, Field(ge=0, le=INLINE_LIMIT, strict=True)] = 0
    alignment: Digest | None = None


class Work(Message):
    """What a poll brings, in the order in which it is to be done.

    ``stop`` what nobody waits for any more; runs that have ``ended`` are done, and their workers may go; decide on
    ``plans``; tell the ``schemas`` of datasets; do the ``assignments``, one after another; ``then`` poll again at once,
    come back in so many ``seconds``, or disconnect and connect anew in so many seconds. ``audit`` is the head of the
    audit log (:mod:`.audit`). ``blobs`` are small ones that the assignments name, so that nobody has to fetch them.
    """

    assignments: Annotated[tuple[Assignment, ...], Field(max_length=100)] = ()
    plans: Annotated[tuple[PlanOffer, ...], Field(max_length=100)] = ()
    schemas: Annotated[tuple[SchemaAsk, ...], Field(max_length=100)] = ()
    ended: Annotated[tuple[Id, ...], Field(max_length=1000)] = ()
    stop: Annotated[tuple[Id, ...], Field(max_length=100)] = ()
    then: Literal["poll", "come_back", "disconnect"] = "poll"
    seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.0
    audit: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,16}:[0-9a-f]{64}$")] | None = None
    blobs: Annotated[dict[Digest, Content], Field(max_length=128)] = {}


class Renew(Message):
    """The work goes on: steps were taken or bytes moved since the last renewal. The reply is a Renewed."""

    token: Count


class Renewed(Message):
    """The lease holds for ``lease`` more seconds."""

    lease: Lease


class Contribute(Message):
    """A contribution: its update's blob was uploaded before, or is its ``content``. A test phase has no update.

    ``loading``: by which loading plan the dataset was read: its name, a colon and its digest (none: by none).
    ``timings``: what the seconds were spent on.
    """

    token: Count
    update: Digest | None
    weights: Annotated[dict[Name, Finite], Field(max_length=100)]
    metrics: Annotated[dict[Name, Finite], Field(max_length=1000)]
    state: Digest | None
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)]
    loading: Loading | None = None
    timings: Timings = {}
    content: Content | None = None


class Fail(Message):
    """The work failed on the node: a stable code and a reason that reveals no path and no value."""

    token: Count
    code: Name
    reason: Line


class Accepted(Message):
    """The contribution or failure is recorded; told twice, it is counted once."""

    assignment: Id
    outcome: Literal["counted", "failed"]


class TensorView(Message):
    """One tensor of the model's manifest."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    shape: Annotated[tuple[Count, ...], Field(max_length=16)]
    dtype: Annotated[str, StringConstraints(max_length=8)]
    kind: Literal["parameter", "buffer", "frozen"]
    module: Annotated[str, StringConstraints(max_length=200)]


class Manifest(Message):
    """The model as the researcher's side saw it: tensors, and metric names with the direction that is better."""

    tensors: Annotated[tuple[TensorView, ...], Field(min_length=1, max_length=20_000)]
    metrics: dict[Name, Literal["max", "min"]]


class SubmitRun(Message):
    """Submit a run: the resolved run.toml, the plan's bundle and the initial model (both uploaded as blobs).

    ``parameters`` is a safetensors file of the plain named parameters and buffers, as the manifest lists them. A
    ``draft`` rests until it is started; any other run waits for its clients, and begins. Where ``[data.align]`` has
    nodes asked for their schemas, there are neither parameters nor a manifest yet (see :class:`Parameters`); where the
    researcher gives the schema, ``alignment`` names its blob.
    """

    spec: dict[str, Any]
    plan: Digest
    plan_blob: Digest
    parameters: Digest | None = None
    manifest: Manifest | None = None
    draft: bool = False
    signed: PlanSignature | None = None
    alignment: Digest | None = None


class Parameters(Message):
    """The initial model of a run whose tables have been aligned, as :class:`SubmitRun` has it of others."""

    parameters: Digest
    manifest: Manifest


class ClientStatus(Message):
    """A client: ``missing``, ``waiting_for_approval``, ``rejected``, ``ready``, ``working``, ``away``, ``ambiguous``.

    ``approval``: what its owner decided of the run's plan, with ``note``: ``pending``, ``approved`` or ``rejected``;
    empty where nothing was heard yet.
    """

    client: Name
    node: str
    status: str
    note: str = ""
    approval: str = ""


class RunView(Message):
    """A run as people see it. ``waiting_for`` says in words who is waiting for whom; ``stage``, where its round is.

    ``alerts``: what was damaged of its state and made again. ``alignment``: the blob by which tables are read alike.
    """

    id: Id
    name: str
    status: str
    reason: str = ""
    round: int
    rounds: int
    phase: str = ""
    stage: str = ""
    plan: Digest
    strategy: str
    created_at: datetime
    model_digest: str = ""
    metrics: dict[str, float] = {}
    clients: tuple[ClientStatus, ...] = ()
    waiting_for: str = ""
    spec: dict[str, Any] = {}
    alerts: tuple[str, ...] = ()
    alignment: Digest | None = None


class RunList(Message):
    """Runs, the newest first."""

    runs: tuple[RunView, ...]


class ReceiptView(Message):
    """What is kept of one contribution (or of a failure)."""

    client: Name
    weights: dict[str, float]
    metrics: dict[str, float]
    digest: str = ""
    seconds: float
    size: int
    failure: str = ""
    staleness: int = 0
    loading: str = ""
    timings: dict[str, float] = {}


class PhaseView(Message):
    """One phase of a round, with what each client sent."""

    phase: str
    outcome: str
    asked: tuple[Name, ...]
    receipts: tuple[ReceiptView, ...]
    metrics: dict[str, float]
    bytes_down: int
    bytes_up: int
    virtual_seconds: float = 0.0
    client_seconds: float = 0.0


class RoundView(Message):
    """One round (1-based)."""

    round: int
    model: str
    seconds: float
    metrics: dict[str, float]
    phases: tuple[PhaseView, ...]


class RoundList(Message):
    """The rounds so far, in order."""

    rounds: tuple[RoundView, ...]


class ModelView(Message):
    """The global model after one round (0: the initial one). ``blob`` is a safetensors file."""

    run: Id
    round: int
    model_digest: str
    blob: Digest
    size: int


class ModelList(Message):
    """Every version of a run's model, by round."""

    models: tuple[ModelView, ...]


class NodeView(Message):
    """A node as people see it; ``last_seen`` is in seconds before now.

    ``clashes``: how often a process spoke whose place another had taken. Two may be sharing one key.
    """

    id: Id
    name: Name
    status: str
    last_seen: float | None
    version: str
    datasets: tuple[DatasetView, ...]
    facts: NodeFacts | None = None
    clashes: int = 0


class NodeList(Message):
    """Every node that ever joined."""

    nodes: tuple[NodeView, ...]


class NewUpload(Message):
    """Begin a resumable upload of a blob of this digest and size."""

    digest: Digest
    size: Annotated[int, Field(ge=0, le=2**40)]


class UploadView(Message):
    """How far an upload is; ``complete`` once its bytes matched the digest and the blob exists."""

    id: Id
    digest: Digest
    size: int
    offset: int
    complete: bool
