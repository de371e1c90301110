"""Command plans: what a program finds and leaves, in C and in a shell, and what becomes of one that fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.domain.codec import TensorFile
from foedus.domain.errors import ClientWorkError, PlanError
from foedus.domain.plan import PlanBundle, parse_bundle, read_bundle, write_files
from foedus.domain.rng import Randomness
from foedus.domain.tree import State, same
from foedus.engine.choice import Engine
from foedus.engine.prepare import Prepared, prepare, prepare_spec
from foedus.engine.simulate import client_data, simulate
from foedus.local.kinds import begin, load_plan
from foedus.local.own import OWN, OwnObjective, OwnPlan
from foedus.local.work import Batch
from tests.plans import spec

EAGER = Engine("eager", "inline")
RNG = Randomness(1, 1, "a")
MODEL = {"w": torch.zeros(2)}
BATCH = Batch(
    {"x": torch.tensor([[0.1, 2], [3, 4]]), "label": torch.tensor([1, 0]), "yes": torch.tensor([True, False])}, {}
)

C_MEAN = r"""
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* The mean of the column `image`, as a tensor of 64 doubles. Each function works on files in IN and OUT. */
static char path[4096];
static FILE *at(const char *folder, const char *name, const char *mode) {
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, mode);
    if (!file) { perror(path); exit(3); }
    return file;
}
static size_t find(FILE *file, const char *name, size_t *bytes) { /* where a tensor begins in a safetensors file */
    unsigned char size[8];
    size_t length = 0, begin, end;
    char key[256], *head, *place;
    if (fread(size, 1, 8, file) != 8) exit(4);
    for (int i = 7; i >= 0; i--) length = length << 8 | size[i];
    head = calloc(length + 1, 1);
    if (fread(head, 1, length, file) != length) exit(4);
    snprintf(key, sizeof key, "\"%s\"", name);
    if (!(place = strstr(head, key)) || !(place = strstr(place, "\"data_offsets\""))) exit(5);
    if (sscanf(strchr(place, '[') + 1, "%zu , %zu", &begin, &end) != 2) exit(5);
    *bytes = end - begin;
    free(head);
    return 8 + length + begin;
}
static void *tensor(const char *folder, const char *file, const char *name, size_t *bytes) {
    FILE *from = at(folder, file, "rb");
    size_t begin = find(from, name, bytes);
    void *content = malloc(*bytes);
    fseek(from, (long)begin, SEEK_SET);
    if (fread(content, 1, *bytes, from) != *bytes) exit(4);
    fclose(from);
    return content;
}
static void save(const char *folder, const double *mean) {
    const char *head = "{\"mean\":{\"dtype\":\"F64\",\"shape\":[64],\"data_offsets\":[0,512]}}";
    unsigned char size[8] = {(unsigned char)strlen(head)};
    FILE *to = at(folder, "model.safetensors", "wb");
    fwrite(size, 1, 8, to);
    fwrite(head, 1, strlen(head), to);
    fwrite(mean, 8, 64, to);
    fclose(to);
}
int main(int count, char **words) {
    double mean[64] = {0}, loss = 0;
    size_t bytes, rows;
    if (count != 4) return 2;
    if (!strcmp(words[1], "init")) { save(words[3], mean); return 0; }
    float *images = tensor(words[2], "data.safetensors", "image", &bytes);
    rows = bytes / (64 * sizeof(float));
    double *model = tensor(words[2], "model.safetensors", "mean", &bytes);
    for (size_t i = 0; i < rows * 64; i++) mean[i % 64] += images[i] / (double)rows;
    for (size_t i = 0; i < rows * 64; i++) loss += fabs(images[i] - model[i % 64]) / (double)(rows * 64);
    FILE *result = at(words[3], "result.json", "w");
    if (!strcmp(words[1], "train")) {
        save(words[3], mean);
        fprintf(result, "{\"loss\": %.17g, \"weight\": %zu}", loss, rows);
    } else fprintf(result, "{\"loss\": %.17g}", loss);
    fclose(result);
    fprintf(stderr, "%zu rows\n", rows);
    return 0;
}
"""

TABLE = '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
HEAD = f"\\{len(TABLE):03o}" + "\\0" * 7 + TABLE
COPY = f"""set -eu
if [ "$1" = evaluate ]; then printf '{{"loss": 1}}' > "$3/result.json"; exit; fi
if [ "$1" = init ]; then
    printf '{HEAD}' > "$3/model.safetensors"; head -c 8 /dev/zero >> "$3/model.safetensors"; exit
fi
cp "$2/model.safetensors" "$3/model.safetensors"
printf '{{"loss": 0.5}}' > "$3/result.json"
"""


def command(script: str = "", files: Mapping[str, bytes] | None = None, **table: Any) -> PlanBundle:
    """A plan of a shell's; ``script`` runs after what copies the model."""
    said = {"command": ["sh", "work.sh"], **table}
    return PlanBundle(
        {"plan.json": json.dumps(said).encode(), "work.sh": (COPY + script).encode(), **(files or {})}, "plan.json"
    )


def objective(bundle: PlanBundle) -> OwnObjective:
    plan = load_plan(bundle)
    assert isinstance(plan, OwnPlan)
    return OwnObjective(plan)


def refused(bundle: PlanBundle) -> ClientWorkError:
    with pytest.raises(ClientWorkError) as error:
        objective(bundle).fit(MODEL, BATCH, State(), RNG)
    return error.value


def ready_of(folder: Path, bundle: PlanBundle, **changes: Any) -> Prepared:
    write_files(bundle, folder / "plan")
    return prepare_spec(spec(**{"plan": "plan", "strategy": {"name": "fedavg"}, **changes}), folder)


def test_a_program_in_c_trains_and_is_folded_like_any_other(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    (tmp_path / "mean.c").write_text(C_MEAN)
    subprocess.run([compiler, "-O1", "-o", tmp_path / "mean", tmp_path / "mean.c", "-lm"], check=True)
    program = {"mean": (tmp_path / "mean").read_bytes()}
    bundle = command(files=program, command=["./mean"], data="safetensors", seconds=60)
    assert parse_bundle(bundle.to_bytes()) == bundle
    ready = ready_of(tmp_path, bundle, rounds=1)
    parts = client_data(ready).values()
    done = simulate(ready, EAGER)
    ends = [data.train.tensors["inputs.image"].double().mean(0) for data in parts]
    weights = [len(data.train) for data in parts]
    expected = sum(weight * end for weight, end in zip(weights, ends, strict=True)) / sum(weights)
    assert torch.allclose(done.model["mean"], expected, atol=1e-9)
    assert [receipt.weights["examples"] for receipt in done.rounds[0].phases[0].receipts] == weights
    assert simulate(ready, Engine("auto", "workers", 2)).model_digest == done.model_digest


def test_the_example_in_a_shell_and_awk_learns_the_digits() -> None:
    ready = prepare(Path("examples/command/run.toml"), {"rounds": "1"})
    assert ready.manifest.metrics == {"loss": "min", "accuracy": "max"}
    done = simulate(ready, EAGER)
    assert done.rounds[-1].metrics["test/accuracy"] > 0.5
    assert not any(receipt.failure for phase in done.rounds[-1].phases for receipt in phase.receipts)


def test_a_program_finds_what_is_documented_and_nothing_else(tmp_path: Path) -> None:
    show = f"""
    mkdir {tmp_path}/seen; cp -r "$2" {tmp_path}/seen/in; pwd > {tmp_path}/seen/pwd; env > {tmp_path}/seen/env
    ls -l > {tmp_path}/seen/plan; if touch more 2>/dev/null; then :; fi; echo ok > "$TMPDIR/x"
    """
    plan = load_plan(command(show, {"help/a.txt": b"a"}))
    assert isinstance(plan, OwnPlan)
    bound = begin(plan, 1, {"local": {"options": {"lr": 0.5}}}).plan
    assert isinstance(bound, OwnPlan)
    state = State({OWN: {"n": torch.ones(1)}})
    fitted = OwnObjective(bound).fit(MODEL, BATCH, state, Randomness(1, 7, "a"))
    assert (fitted.loss, fitted.weight, same(fitted.model, MODEL)) == (0.5, None, True)
    seen = tmp_path / "seen"
    assert sorted(path.name for path in (seen / "in").iterdir()) == [
        "call.json",
        "data.csv",
        "model.safetensors",
        "options.json",
        "state.safetensors",
    ]
    assert (seen / "in" / "data.csv").read_text() == "x.0,x.1,label,yes\n0.10000000149011612,2.0,1,1\n3.0,4.0,0,0\n"
    assert json.loads((seen / "in" / "options.json").read_text()) == {"lr": 0.5}
    call = json.loads((seen / "in" / "call.json").read_text())
    assert call == {"round": 7, "seed": Randomness(1, 7, "a").derive("fit") % 2**32}
    with TensorFile(seen / "in" / "state.safetensors") as kept:
        assert kept["n"].tolist() == [1]
    names = {line.partition("=")[0] for line in (seen / "env").read_text().splitlines()}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {
        *("PATH", "HOME", "TMPDIR", "LC_ALL", "LANG"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    }
    listed = (seen / "plan").read_text()
    assert "-r-xr-xr-x" in listed and "w" not in {line[2] for line in listed.splitlines() if line.startswith("-")}
    assert not Path((seen / "pwd").read_text().strip()).exists()  # nothing is left of it


def test_state_and_weight_come_back(tmp_path: Path) -> None:
    keep = """cp "$2/model.safetensors" "$3/state.safetensors"; printf '{"loss": 2, "weight": 7}' > "$3/result.json" """
    fitted = objective(command(keep)).fit(MODEL, BATCH, State(), RNG)
    assert (fitted.weight, fitted.loss, same(fitted.state, MODEL)) == (7, 2, True)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("echo lost >&2; exit 3", "command_failed", ("exit code 3", "lost")),
        ("kill -9 $$", "command_failed", ("signal 9",)),
        ("head -c 100000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1", "command_failed", ("end",)),
        ("rm $3/model.safetensors", "plan_result_refused", ("no file model.safetensors",)),
        ("echo nonsense > $3/model.safetensors", "plan_result_refused", ("not a safetensors file",)),
        ("head -c 9000000 /dev/zero > $3/model.safetensors", "plan_result_refused", ("more than",)),
        ("rm $3/model.safetensors; ln -s $2/model.safetensors $3", "plan_result_refused", ("no file",)),
        ("rm $3/model.safetensors; mkfifo $3/model.safetensors", "plan_result_refused", ("no file",)),
        ("rm $3/result.json", "plan_result_refused", ("no file result.json",)),
        ("echo [] > $3/result.json", "plan_result_refused", ("not a JSON object",)),
        ('echo \'{"loss": "x"}\' > $3/result.json', "plan_result_refused", ("not a number",)),
        ("echo '{\"lose\": 1}' > $3/result.json", "plan_result_refused", ("`loss`",)),
        ("head -c 100000 /dev/zero > $3/result.json", "plan_result_refused", ("more than 65536 bytes",)),
    ],
)
def test_a_program_that_fails_says_how_it_ended(script: str, code: str, words: tuple[str, ...]) -> None:
    error = refused(command(script))
    assert error.code == code
    for word in words:
        assert word in f"{error.what} {error.why}"
    assert len(error.why) <= 4200


def test_a_program_that_is_not_there_or_lasts_too_long_is_said_so(tmp_path: Path) -> None:
    assert refused(command(command=["no-such-program-anywhere"])).code == "command_missing"
    assert refused(command(command=["./work.sh"])).code == "command_missing"  # it has no #! and is no program
    late = refused(command(f"echo begun; sleep 600 & echo $! > {tmp_path}/pid; wait", seconds=3))
    assert (late.code, late.why) == ("command_timeout", "begun")
    assert _is_gone(tmp_path / "pid")


def test_what_a_program_leaves_running_is_ended_with_it(tmp_path: Path) -> None:
    objective(command(f"sleep 600 & echo $! > {tmp_path}/pid")).fit(MODEL, BATCH, State(), RNG)
    assert _is_gone(tmp_path / "pid")


def _is_gone(path: Path) -> bool:
    stat = Path("/proc") / path.read_text().strip() / "stat"
    for _ in range(1000):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_client_whose_command_fails_is_a_failed_contribution_and_not_a_lost_round(tmp_path: Path) -> None:
    fail = 'test "$(wc -l < $2/data.csv)" != COUNT || { echo broken here >&2; exit 7; }'
    ready = ready_of(tmp_path / "a", command(), rounds=1)
    sizes = [int(receipt.weights["examples"]) for receipt in simulate(ready, EAGER).rounds[0].phases[0].receipts]
    assert len(set(sizes)) == 4
    bundle = command(fail.replace("COUNT", str(sizes[2] + 1)))
    done = simulate(ready_of(tmp_path / "b", bundle, rounds=1), EAGER)
    failures = [receipt.failure for receipt in done.rounds[0].phases[0].receipts]
    assert [bool(failure) for failure in failures] == [False, False, True, False]
    assert failures[2].startswith("command_failed") and "exit code 7" in failures[2]


def test_the_node_s_read_only_copy_is_what_runs(tmp_path: Path) -> None:
    bundle = command("cat told >&2; exit 9", {"told": b"the copy"})
    write_files(bundle, tmp_path / "files")
    plan = load_plan(bundle, tmp_path / "files")
    assert isinstance(plan, OwnPlan)
    with pytest.raises(ClientWorkError) as error:
        OwnObjective(plan).fit(MODEL, BATCH, State(), RNG)
    assert error.value.why == "the copy"


@pytest.mark.parametrize(
    "table",
    ["[]", "{}", '{"command": []}', '{"command": "sh work.sh"}', '{"command": ["a"], "seconds": 0}', "{",
     '{"command": ["a"], "metrics": {"loss": "min"}}', '{"command": ["a"], "shell": true}'],
)  # fmt: skip
def test_a_plan_json_that_says_something_else_is_refused(table: str) -> None:
    with pytest.raises(PlanError) as error:
        load_plan(PlanBundle({"plan.json": table.encode(), "work.sh": b""}, "plan.json"))
    assert error.value.code == "plan_incomplete"


def test_an_initial_model_that_a_command_does_not_make_is_said_with_what_it_said(tmp_path: Path) -> None:
    bundle = PlanBundle({"plan.json": b'{"command": ["sh", "a.sh"]}', "a.sh": b"echo no idea >&2; exit 1"}, "plan.json")
    with pytest.raises(PlanError, match="no idea") as error:
        begin(load_plan(bundle), 1, {})
    assert error.value.code == "plan_model_failed"


def test_a_folder_of_a_command_is_a_bundle_whose_digest_covers_every_file(tmp_path: Path) -> None:
    bundle = command(files={"lib/more.sh": b"true", "options.json": b'{"properties": {}}'})
    write_files(bundle, tmp_path)
    assert read_bundle(tmp_path) == bundle
    for name in bundle.files:
        changed = PlanBundle({**bundle.files, name: bundle.files[name] + b" "}, "plan.json")
        assert changed.digest != bundle.digest
