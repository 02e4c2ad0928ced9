"""One data job from start to end: claim the directory, run the pipeline, clean up what failed."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from etils import epath

from beam_jobs import dataflow
from beam_jobs.commit import PAGE_NAME, PROBLEMS_NAME, REJECTS_NAME, STATS_NAME
from beam_jobs.digests import digests_path
from beam_jobs.plan import Plan, make_plan
from beam_jobs.quiet import quiet
from beam_jobs.sources.base import Source
from beam_jobs.sources.tfds import TfdsDirectory
from vdm_lib.errors import ConfigError, DataError
from vdm_lib.files.held import held
from vdm_lib.files.records import (
    MANIFEST_NAME,
    TEMPORARY_MARK,
    Manifest,
    is_shard_name,
    read_manifest,
    write_atomically,
)
from vdm_lib.files.storage import explain, storage_errors

MARKER_NAME = "preparing.json"
"""Exists while a job writes into the directory: only where it is are shards known to be ours."""
_OTHER_NAMES = (
    MARKER_NAME,
    PROBLEMS_NAME,
    REJECTS_NAME,
    STATS_NAME,
    PAGE_NAME,
    "dataset_info.json",
    "features.json",
    "label.labels.txt",
)

# Not DirectRunner: it first tries to download another engine, and runs another one when that succeeds.
_DEFAULT_RUNNER = "--runner=FnApiRunner"


def _is_leftover(name: str) -> bool:
    """Say whether a job of ours could have written a file of this name before its manifest."""
    base = name.split(TEMPORARY_MARK)[0]
    return is_shard_name(base) or base in _OTHER_NAMES or (base != name and base == MANIFEST_NAME)


def _names(out_dir: epath.Path) -> list[str]:
    return sorted(path.name for path in out_dir.iterdir())


def _remove_leftovers(out_dir: epath.Path) -> None:
    """Remove what a job wrote before its manifest; last the marker, which says that these files are ours."""
    names = [name for name in _names(out_dir) if _is_leftover(name) and name != MARKER_NAME]
    for name in [*names, MARKER_NAME]:
        (out_dir / name).unlink(missing_ok=True)


def _remove_digests(out_dir: epath.Path, manifest: Manifest) -> None:
    """Remove them here and not in the commit, which a runner may start again after it was done."""
    shards = [out_dir / shard.name for split in manifest.splits.values() for shard in split.shards]
    with ThreadPoolExecutor(16) as pool:  # each is a request in gs://
        list(pool.map(lambda shard: digests_path(shard).unlink(missing_ok=True), shards))


def _check_ours(out_dir: epath.Path) -> list[str]:
    """Return the names in a directory that is empty or that a killed job left behind.

    Raises:
        ConfigError: it is complete, holds files that are not ours, or is not a directory.
    """
    if not out_dir.exists():
        return []  # an object store has no empty directories: none was made
    if not out_dir.is_dir():
        raise ConfigError(f"{out_dir} is a file: choose another output directory")
    names = _names(out_dir)
    if MANIFEST_NAME in names:
        raise ConfigError(f"{out_dir} already holds a complete data set: choose another directory or delete it")
    # Without our marker even files with the names of shards may be somebody else's.
    foreign = [name for name in names if not (MARKER_NAME in names and _is_leftover(name))]
    if foreign:
        raise ConfigError(f"{out_dir} is not empty (it holds {foreign[0]}): choose an empty output directory")
    return names


@contextmanager
def _claimed(out_dir: epath.Path) -> Iterator[bool]:
    """Make the directory ours while the block runs; yield whether it was there before.

    Raises:
        ConfigError: it is complete, holds files that are not ours, or is not a directory.
        DataError: another job writes into it, or it cannot be written.
    """
    existed = out_dir.exists()
    if existed:
        _check_ours(out_dir)  # before anything is touched
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out_dir, error) from error
    with _held(out_dir):
        names = _check_ours(out_dir)  # another job may have ended meanwhile
        try:
            if names:
                _remove_leftovers(out_dir)
            write_atomically(out_dir / MARKER_NAME, b'{"by": "vdm prepare"}\n')
        except OSError as error:
            _abandon(out_dir, existed)
            raise _unwritable(out_dir, error) from error
        yield existed


@contextmanager
def _held(out_dir: epath.Path) -> Iterator[None]:
    """Let one job at a time write into a directory, where it can be held.

    Raises:
        DataError: another job writes into it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(out_dir))
        except BlockingIOError:
            raise DataError(
                f"another `vdm prepare` writes into {out_dir}: wait for it, or choose another --out"
            ) from None
        yield


def _unwritable(out_dir: epath.Path, error: OSError) -> DataError:
    reason = explain(error) or error.strerror or str(error)
    if error.filename is not None and str(error.filename) != os.fspath(out_dir):
        reason += f": {error.filename}"
    if isinstance(error, FileNotFoundError) and os.fspath(out_dir).startswith("gs://"):
        reason = "there is no such bucket"  # all that the error itself says is an address
    return DataError(f"{out_dir} cannot be written: {reason}")


def _abandon(out_dir: epath.Path, existed: bool) -> None:
    """Remove all that a failed job wrote, without hiding why it failed."""
    if (out_dir / MANIFEST_NAME).exists():
        return  # stopped after the commit: the data set is complete
    try:
        _remove_leftovers(out_dir)
        if not existed:
            out_dir.rmdir()
    except OSError:
        pass  # no manifest is there: the directory is known to be incomplete


def _run(plan: Plan, flags: Sequence[str]) -> None:
    with quiet(), TemporaryDirectory() as temporary:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        from apache_beam.runners.runner import create_runner

        from beam_jobs.transforms import build

        has_runner = any(flag.split("=")[0] == "--runner" for flag in flags)
        flags = [*flags] if has_runner else [_DEFAULT_RUNNER, *flags]
        try:
            # A runner brings options of its own, which Beam knows once the runner is loaded.
            runner = PipelineOptions(flags).view_as(StandardOptions).runner
            create_runner(runner)
        except Exception as error:
            raise ConfigError(f"the Beam job failed: {str(error).strip().splitlines()[-1]}") from error
        on_dataflow = runner.endswith("DataflowRunner")
        if on_dataflow:
            flags = dataflow.ship_project(flags, Path(temporary), tfds=isinstance(plan.source, TfdsDirectory))
        options = PipelineOptions(flags)
        known = options.get_all_options()
        unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
        if unknown:  # Beam would ignore a misspelt flag
            raise ConfigError(f"Beam has no option --{min(unknown)}")
        try:
            if on_dataflow:
                dataflow.check(options)
            pipeline = beam.Pipeline(options=options)
            build(pipeline, plan)
            pipeline.run().wait_until_finish()
        except DataError:
            raise
        except Exception as error:
            if _is_interrupt(error):
                raise KeyboardInterrupt from error
            message = explain(error)
            if message is not None:
                raise DataError(message) from error
            # Dataflow says 'failed, Error:' and then None.
            lines = [line for line in str(error).splitlines() if line.strip() not in ("", "None")]
            raise DataError(f"the Beam job failed: {lines[-1] if lines else type(error).__name__}") from error


def _is_interrupt(error: BaseException | None) -> bool:
    """Say whether it comes of a Ctrl-C or SIGTERM: Beam makes an error of its own of one that meets a step at work."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _raise_problems(plan: Plan, text: str) -> None:
    problems = json.loads(text)
    more = f" ({len(problems)} problems in all)" if len(problems) > 1 else ""
    raise DataError(f"{plan.source.name}: {problems[0]['split']} {problems[0]['message']}{more}")


def prepare(
    source: Source,
    out_dir: epath.PathLike,
    num_shards: int | None = None,
    limit: int | None = None,
    max_bad: int = 0,
    fail_on_duplicates: bool = False,
    pipeline_options: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Turn a source into a data directory: sharded TFRecords and, last, a manifest.

    The same source, limit and number of shards give the same bytes on every runner and in every run. A killed
    job leaves no manifest, and running it again completes it; a failed job leaves nothing.

    Args:
        source: where the images come from.
        out_dir: data directory to write, local or gs://; absent, empty, or left behind by a killed job.
        num_shards: files of each split; None takes about 4,096 images a file, but at least two files.
        limit: keep the first so many images of each split.
        max_bad: so many bad images go to `rejects.jsonl` before the job fails.
        fail_on_duplicates: an image that occurs twice is an error.
        pipeline_options: Beam's own flags, such as `--direct_running_mode=multi_processing`; without
            `--runner` the job runs on FnApiRunner.
        say: takes one line about what is begun, once the directory is ours.

    Returns:
        The manifest, as it was written.

    Raises:
        ConfigError: a number out of its range, a runner or an option that Beam does not have, or a directory that is
            complete or not ours.
        DataError: a record is bad (names split and index), another job writes into the directory, or it cannot be
            written (disk full, no permission).
    """
    with storage_errors(out_dir):
        directory = epath.Path(out_dir)
        plan = make_plan(source, str(directory), num_shards, limit, max_bad, fail_on_duplicates)
        return _prepare(plan, directory, pipeline_options, say)


def _prepare(
    plan: Plan, directory: epath.Path, pipeline_options: Sequence[str], say: Callable[[str], None]
) -> Manifest:
    with _claimed(directory) as existed:
        counts = " and ".join(f"{count:,} {split}" for split, count in plan.num_images.items())
        say(f"{counts} images of {plan.source.name} into {sum(plan.num_shards.values()):,} files")
        try:
            _run(plan, pipeline_options)
            problems = directory / PROBLEMS_NAME
            if problems.exists():
                _raise_problems(plan, problems.read_text())
            if not (directory / MANIFEST_NAME).exists():  # Dask's runner says DONE of steps that it left out
                raise DataError("the Beam job ended without writing a manifest: its runner did not run the whole job")
            manifest = read_manifest(directory)
            _remove_digests(directory, manifest)
            (directory / MARKER_NAME).unlink(missing_ok=True)
            return manifest
        except OSError as error:
            _abandon(directory, existed)
            raise _unwritable(directory, error) from error
        except BaseException:
            _abandon(directory, existed)
            raise


def read_statistics(data_dir: epath.PathLike) -> dict[str, Any]:
    """Return `stats.json` of a data directory: what was counted of its images."""
    with storage_errors(data_dir):
        return json.loads((epath.Path(data_dir) / STATS_NAME).read_text())
