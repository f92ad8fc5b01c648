"""The RL stage's options and hard ends, each on a real short run."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from artifacts.keys import cache_key
from artifacts.manifest import ManifestDraft
from artifacts.store import ArtifactStore
from tasks.job import LOST, ServiceLost, StopRequested
from tasks.job.spec import BuildSpec, JobSpec
from tasks.rl import train, trainer
from tasks.rl.memory import check_memory, worst_case, worst_step
from tasks.rl.stage import Curriculum, CurriculumStage
from tasks.rollout.engines import ENGINES, EngineEntry
from tasks.rollout.engines.transformers import TransformersEngine
from tasks.rollout.server import ServerWatch
from tasks.rollout.settings import EngineSettings
from tasks.tables import TABLES
from tasks.training import launching as processes
from tasks.training.checkpoints import is_sealed, newest_checkpoint
from tasks.training.models import load_policy
from tasks.training.settings import LaunchSettings, LoraSettings
from tests.jobs import local_job
from tests.rl.test_rl import _STAGE, CONFIG, finished, inputs, metric, samples  # noqa: F401
from tests.rollout.fake_vllm import running

pytestmark = pytest.mark.slow

SHORT = CONFIG.model_copy(update={"steps": 2})


def test_two_processes_draw_and_learn_what_one_does(inputs, tmp_path):  # noqa: F811
    """Same completions and rewards; losses and weights up to rounding (gloo, CPU)."""
    config = CONFIG.model_copy(update={"steps": 3, "reference_sync_steps": 2})
    one = finished(config, local_job(tmp_path, "one", "rl-zero", inputs))
    pair = config.model_copy(update={"launch": LaunchSettings(processes=2)})
    two = finished(pair, local_job(tmp_path, "two", "rl-zero", inputs))
    assert two.headline["steps"] == 3

    def seen(job):
        return [
            (r["problem_id"], r["sample_index"], r["step"], r["completion"], r["reward"])
            for r in samples(job)
        ]

    assert seen(one) == seen(two)
    for step, loss in metric(one, "loss").items():
        assert metric(two, "loss")[step] == pytest.approx(loss, abs=1e-4)
    ours, theirs = (load_policy(j.draft / "model").state_dict() for j in (one, two))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=5e-4, rtol=0)


def test_two_processes_stop_and_go_on(inputs, tmp_path):  # noqa: F811
    config = SHORT.model_copy(update={"steps": 4, "launch": LaunchSettings(processes=2)})
    job = local_job(tmp_path, "pair", "rl-zero", inputs)
    job.stop.set()
    with pytest.raises(StopRequested):
        finished(config, job)
    stopped_at = newest_checkpoint(job.state / "trainer")
    assert stopped_at is not None
    job.stop.clear()
    finished(config, job)
    assert Counter(row["step"] for row in samples(job)) == dict.fromkeys(range(4), 16)


@pytest.mark.parametrize("recompute", [False, True])
def test_shared_out_weights_learn_what_whole_ones_do(recompute, inputs, tmp_path):  # noqa: F811
    """FSDP2 in two processes (gloo, CPU): gathered to sample, gathered to publish."""
    one = finished(SHORT, local_job(tmp_path, "one", "rl-zero", inputs))
    launch = LaunchSettings(processes=2, strategy="fsdp2")
    shared = SHORT.model_copy(update={"launch": launch, "recompute": recompute})
    two = local_job(tmp_path, "two", "rl-zero", inputs)
    # The finished run is of the same settings, but its checkpoint is of another kind: no state to go on from.
    finished(shared, two)
    assert "continued_from_step" not in two.headline
    assert (newest_checkpoint(two.state / "trainer") / "pytorch_model_fsdp_0").is_dir()
    assert [r["completion"] for r in samples(one)] == [r["completion"] for r in samples(two)]
    ours, theirs = (load_policy(j.draft / "model").state_dict() for j in (one, two))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=5e-4, rtol=0)


def test_a_reason_in_one_of_the_processes_is_the_jobs(inputs, tmp_path):  # noqa: F811
    config = SHORT.model_copy(update={"max_completion_length": 512, "launch": LaunchSettings(processes=2)})
    with pytest.raises(RuntimeError, match="lower max_completion_length to 5"):
        finished(config, local_job(tmp_path, "pair", "rl-zero", inputs))


def test_a_lost_server_in_one_of_the_processes_is_the_jobs(inputs, tmp_path, monkeypatch):  # noqa: F811
    config = SHORT.model_copy(update={"launch": LaunchSettings(processes=2)})
    job = local_job(tmp_path, "pair", "rl-zero", inputs)
    loses = f"import pathlib; pathlib.Path({str(job.folder / 'lost')!r}).write_text('gone'); exit({LOST})"
    monkeypatch.setattr(processes, "_command", lambda *_: [sys.executable, "-c", loses])
    with pytest.raises(ServiceLost, match="gone"):
        finished(config, job)


def test_compiled_layers_of_large_models_recompute_themselves(inputs, tmp_path, monkeypatch):  # noqa: F811
    """And learn what others do. The reference has no gradients to recompute anything for."""
    monkeypatch.setitem(ENGINES, "beside", EngineEntry("tests.rl.test_evaluation:BesideEngine"))
    asked, recomputes = [], []
    compile_layers, arguments = trainer.compile_layers, train.grpo_arguments

    def compiling(model, recompute):
        asked.append(recompute)
        compile_layers(model, recompute)

    def given(*words):
        found = arguments(*words)
        recomputes.append(found.gradient_checkpointing)
        return found

    monkeypatch.setattr(trainer, "compile_layers", compiling)
    monkeypatch.setattr(train, "grpo_arguments", given)
    beside = {"engine": EngineSettings.model_construct(name="beside"), "recompute": True}
    plain = SHORT.model_copy(update=beside)
    compiled = plain.model_copy(update={"compile_layers": True})
    one, two = (
        finished(c, local_job(tmp_path, n, "rl-zero", inputs))
        for n, c in (("plain", plain), ("compiled", compiled))
    )
    assert (recomputes, asked) == ([True, False], [True, False])
    assert [r["completion"] for r in samples(one)] == [r["completion"] for r in samples(two)]
    for name in ("loss", "grad_norm", "kl"):
        assert metric(two, name) == pytest.approx(metric(one, name), rel=1e-3, abs=1e-5)


class Watched(TransformersEngine):
    """The policy itself samples, as vLLM is not here; the watch on a server is the server engine's."""

    def __init__(self, settings, model):
        super().__init__(settings, model)
        self.watch = ServerWatch(settings.server_url, model.lost_note)

    def generate(self, *args, **kwargs):
        with self.watch.watching():
            yield from super().generate(*args, **kwargs)


def test_a_run_goes_on_after_its_server_was_restarted(inputs, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(ENGINES, "watched", EngineEntry(f"{__name__}:Watched", free_logprobs=True))
    config = CONFIG.model_copy(update={"steps": 6, "checkpoint_every": 1})
    whole = finished(config, local_job(tmp_path, "whole", "rl-zero", inputs))
    job = local_job(tmp_path, "watched", "rl-zero", inputs)
    with running("") as server:
        engine = EngineSettings(name="watched", server_url=server.url)
        config = config.model_copy(update={"engine": engine})
        third = job.state / "samples" / "000002.parquet"
        threading.Thread(target=restart_after, args=(server, third)).start()
        with pytest.raises(ServiceLost, match="restarted"):
            finished(config, job)
        assert newest_checkpoint(job.state / "trainer") is not None
        finished(config, job)
    assert [r["completion"] for r in samples(job)] == [r["completion"] for r in samples(whole)]


def restart_after(server, path) -> None:
    while not path.exists():
        time.sleep(0.01)
    server.instance = "another"


def test_sigterm_writes_a_checkpoint_within_thirty_seconds(inputs, tmp_path):  # noqa: F811
    """Through the job process that the flows start."""
    process, folder = start_job(tmp_path, inputs, CONFIG.model_copy(update={"steps": 400}))
    wait_for(folder / "state" / "samples" / "000002.parquet", process)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3
    assert time.monotonic() - asked < 30
    assert newest_checkpoint(folder / "state" / "trainer") is not None


def start_job(tmp_path, inputs, config) -> tuple[subprocess.Popen, Path]:  # noqa: F811
    """`python -m tasks.job` on a store of its own; the process and the work folder of its key."""
    store, parents = ArtifactStore.open(str(tmp_path / "store")), {}
    for name, (kind, folder) in inputs.items():
        draft = shutil.copytree(folder, tmp_path / name)
        manifest = ManifestDraft(
            kind=kind, stage="test", stage_version=1, node=name, key=cache_key(name, 1, {}, {})
        )
        parents[name] = store.publish(draft, manifest, TABLES)
    key = cache_key("rl-zero", 1, {}, parents)
    build = BuildSpec(
        node="r1-zero", stage="rl-zero", config=config.model_dump(mode="json"), inputs=parents, key=key,
        ref_name="test/r1-zero",
    )  # fmt: skip
    spec = JobSpec(work_root=tmp_path / "work", preset="test", builds=(build,))
    place = tmp_path / "job" / "spec.json"
    place.parent.mkdir()
    place.write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "tasks.job", str(place)]
    environment = os.environ | {"R1_STORE": str(tmp_path / "store")}
    return subprocess.Popen(command, env=environment, start_new_session=True), tmp_path / "work" / key


def wait_for(mark, process) -> None:
    deadline = time.monotonic() + 120
    while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mark.exists()


def test_a_full_disk_leaves_the_checkpoint_before(inputs, tmp_path):  # noqa: F811
    """Files may suddenly not grow past the weights' size, so the optimiser's cannot be written."""
    command = [sys.executable, "-c", _STAGE, str(tmp_path), *(str(path) for _, path in inputs.values())]
    config = CONFIG.model_copy(update={"steps": 100})
    process = subprocess.Popen(
        [*command, config.model_dump_json()], start_new_session=True, stderr=subprocess.PIPE
    )
    state = tmp_path / "work" / "killed" / "state"
    wait_for(state / "trainer" / "checkpoint-2" / "complete.json", process)
    weights = (state / "trainer" / "checkpoint-2" / "model.safetensors").stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (weights + 1000, weights + 1000))
    assert process.wait(120) != 0
    left = newest_checkpoint(state / "trainer")
    assert left is not None
    assert is_sealed(left)
    go_on = config.model_copy(update={"steps": int(left.name.split("-")[1]) + 2})
    job = finished(go_on, local_job(tmp_path, "killed", "rl-zero", inputs))
    assert metric(job, "loss").keys() == set(range(go_on.steps))


def test_adapters_are_trained_and_merged(inputs, tmp_path):  # noqa: F811
    config = SHORT.model_copy(update={"steps": 3, "lora": LoraSettings(rank=4, alpha=8)})
    job = finished(config, local_job(tmp_path, "lora", "rl-zero", inputs))
    before = load_policy(inputs["checkpoint"][1] / "model").state_dict()
    after = load_policy(job.draft / "model").state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)


def test_the_best_checkpoint_is_published(inputs, tmp_path):  # noqa: F811
    config = CONFIG.model_copy(update={"publish": "best", "steps": 6})
    job = finished(config, local_job(tmp_path, "best", "rl-zero", inputs))
    step = job.headline["published_step"]
    kept = load_policy(job.state / "trainer" / f"checkpoint-{step}").state_dict()
    published = load_policy(job.draft / "model").state_dict()
    assert all(torch.equal(kept[name], published[name]) for name in kept)


def test_a_curriculum_is_measured_once(inputs, tmp_path):  # noqa: F811
    stages = (CurriculumStage(step=0, min_pass_rate=0.2), CurriculumStage(step=1))
    config = SHORT.model_copy(update={"curriculum": Curriculum(samples_per_problem=4, stages=stages)})
    job = finished(config, local_job(tmp_path, "staged", "rl-zero", inputs))
    record = job.state / "pass-rates.json"
    written = record.stat().st_mtime_ns
    finished(config, job)
    assert record.stat().st_mtime_ns == written
    assert len(samples(job)) == 32


def test_refilled_groups_are_recorded_too(inputs, tmp_path):  # noqa: F811
    config = SHORT.model_copy(update={"refill_rounds": 2})
    job = finished(config, local_job(tmp_path, "refilled", "rl-zero", inputs))
    rollouts, rows = metric(job, "rollouts"), samples(job)
    assert max(rollouts.values()) > 1
    assert len(rows) > 32
    assert all(row["sample_index"] == i % 4 for i, row in enumerate(rows))
    assert all(share < 1 for share in metric(job, "idle_share").values())


def test_seconds_and_health_are_told(inputs, tmp_path):  # noqa: F811
    job = finished(SHORT, local_job(tmp_path, "timed", "rl-zero", inputs))
    for name in ("generate_s", "reward_s", "sync_s", "score_s", "update_s", "sampler_mismatch"):
        assert metric(job, name).keys() == {0, 1}
    assert max(metric(job, "sampler_mismatch").values()) < 1e-4
    assert job.headline["health"] == "ok"


def test_tensorboard_keeps_the_metrics_when_the_work_folder_goes(inputs, tmp_path):  # noqa: F811
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = SHORT.model_copy(update={"report_to": ("tensorboard",)})
    job = finished(config, local_job(tmp_path, "shown", "rl-zero", inputs))
    reward = metric(job, "reward")
    shutil.rmtree(job.folder)
    events = EventAccumulator(str(job.work_root / "tensorboard" / "shown-shown"))
    events.Reload()
    assert [e.value for e in events.Scalars("train/reward")] == pytest.approx(list(reward.values()), abs=1e-6)
    assert "train/r1/pass_rate" in events.Tags()["scalars"]


def test_memory_is_checked_before_the_first_step(tiny_model):
    model = load_policy(tiny_model)
    need = worst_case(model, CONFIG, longest_prompt=10)
    assert need.weights == 2 * 4 * model.num_parameters()
    assert need.training == 3 * 4 * model.num_parameters()
    check_memory(model, CONFIG, longest_prompt=10)
    worst_step(model, CONFIG, longest_prompt=10)
    assert all(p.grad is not None for p in model.parameters())
    huge = CONFIG.model_copy(update={"max_completion_length": 2**30})
    with pytest.raises(ValueError, match="GiB are free: lower micro_batch_tokens"):
        check_memory(model, huge, longest_prompt=10)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_step_that_is_tried_recomputes_where_the_run_does(tiny_model, compiled):
    """And leaves the model as it found it."""

    def kept(model, recompute):
        """Numbers that are kept for the backward pass, weights among them."""
        config = CONFIG.model_copy(update={"recompute": recompute, "compile_layers": compiled})
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t,
            lambda t: t,
        ):
            worst_step(model, config, longest_prompt=10)
        return sum(sizes.values()), [p.grad.clone() for p in model.parameters()]

    models = [load_policy(tiny_model) for _ in range(2)]
    (less, ours), (more, theirs) = kept(models[0], True), kept(models[1], False)
    assert less < 0.5 * more
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    for model in models:
        assert not model.is_gradient_checkpointing
        assert not any("forward" in vars(m) for m in model.modules())
