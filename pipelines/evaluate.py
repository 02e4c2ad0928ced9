"""The evaluation job: bits per dimension of checkpoints, with errors; one report per step, written once."""

from tqdm import tqdm

from pipelines import run_dir
from pipelines.results import EvalResult
from vdm_lib.checkpoints import Checkpoints
from vdm_lib.data import load_split
from vdm_lib.evaluate import per_image_bpd, summarise
from vdm_lib.report import BpdReport
from vdm_lib.restore import newest_step, restore_ema
from vdm_lib.sharding import make_mesh


def run(workdir: str, data: str, *, step: str = "latest", split: str = "test", force: bool = False) -> EvalResult:
    """Measure checkpoints that have no report yet, newest first.

    Args:
      workdir: run directory.
      data: data directory.
      step: a number, `latest`, or `all`.
      split: which images.
      force: measure again what has a report.

    Raises:
      CheckpointError: no such checkpoint; none at all is an error too, unless step is `all`.
      DataError: data that cannot be read or that the model is not for.
    """
    config = run_dir.read_config(workdir)
    if step == "all":
        with Checkpoints(workdir) as checkpoints:
            steps = checkpoints.steps()[::-1]
    else:
        steps = [newest_step(workdir) if step == "latest" else int(step)]
    images = load_split(data, split)
    mesh = make_mesh()
    reports = []
    for wanted in steps:
        existing = run_dir.read_eval_report(workdir, wanted)
        if existing is not None and not force:
            reports.append(BpdReport(**existing))
            continue
        restored = restore_ema(workdir, config, wanted)
        run_dir.check_same_data(restored.metadata, load_split(data, "train"))
        with tqdm(total=config.eval.passes, unit="pass", desc=f"eval {wanted}", disable=None) as bar:
            terms = per_image_bpd(config, config.eval, restored.params, images, mesh, lambda _, b=bar: b.update())
        report = summarise(terms, config, config.eval, images, wanted)
        run_dir.write_eval_report(workdir, report)
        reports.append(report)
    return EvalResult(workdir=workdir, reports=tuple(reports))
