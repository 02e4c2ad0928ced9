"""The last step: all that is not images is written, the manifest last, or nothing but the problems."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from etils import epath

from beam_jobs.digests import digests_path, digests_size, read_digests
from beam_jobs.duplicates import DigestFiles, Duplicates
from beam_jobs.page import page
from beam_jobs.plan import Plan
from beam_jobs.shards import Problem, WrittenShard
from beam_jobs.statistics import drift
from beam_jobs.summary import Summary, no_summary
from beam_jobs.tfds_metadata import tfds_files
from vdm_lib.files.records import MANIFEST_NAME, Manifest, SplitInfo, write_atomically, write_manifest

PROBLEMS_NAME = "problems.json"
"""Written instead of the manifest when the job found a reason not to commit."""
REJECTS_NAME, STATS_NAME, PAGE_NAME = "rejects.jsonl", "stats.json", "index.html"


def _changed(path: epath.Path, num_bytes: int) -> bool:
    return not path.exists() or path.stat().length != num_bytes


def _problems(plan: Plan, summaries: dict[str, Summary], rejects: list[Problem]) -> list[Problem]:
    out_dir = epath.Path(plan.out_dir)
    problems = []
    for split, summary in summaries.items():
        for shard in summary.in_order():
            if shard.problem is not None:
                problems.append(shard.problem)
            elif shard.info is not None:
                path, info = out_dir / shard.info.name, shard.info
                if _changed(path, info.num_bytes) or _changed(digests_path(path), digests_size(info.num_images)):
                    problems.append(Problem(split, shard.task.start, f"{path.name} was changed by another program"))
        missing = plan.num_shards[split] - len(summary.shards)
        if missing:
            problems.append(Problem(split, 0, f"{missing} shards were not written"))
    too_many_rejects = len(rejects) > plan.max_bad
    if not problems and not too_many_rejects:
        for split, summary in summaries.items():
            if not any(shard.info and shard.info.num_images for shard in summary.shards.values()):
                problems.append(Problem(split, 0, f"split: all of its {plan.num_images[split]} images are bad"))
    if too_many_rejects:
        for reject in rejects:
            message = f"image {reject.index}: {reject.message}; --max-bad is {plan.max_bad}"
            problems.append(Problem(reject.split, reject.index, message))
    return sorted(problems, key=lambda problem: (problem.split, problem.index, problem.message))


def _good_indices(shard: WrittenShard) -> np.ndarray:
    """Return the index of each image of a shard in order: int64 [images]."""
    return np.setdiff1d(np.arange(shard.task.start, shard.task.stop), [bad.index for bad in shard.rejects])


def _read_all_digests(plan: Plan, summaries: dict[str, Summary]) -> tuple[dict[str, str], Duplicates]:
    """Return the fingerprint of each split, and the duplicates; every shard is there, and no image is a problem."""
    fingerprints = {}
    with TemporaryDirectory() as folder:
        files = DigestFiles(Path(folder))
        for split, summary in summaries.items():
            checksum = hashlib.sha256()
            for shard in summary.in_order():
                assert shard.info is not None
                of_pixels, of_images = read_digests(epath.Path(plan.out_dir) / shard.info.name)
                checksum.update(of_images)
                files.add(split, of_pixels, _good_indices(shard))
            fingerprints[split] = checksum.hexdigest()
        return fingerprints, files.find(list(summaries))


def _manifest(plan: Plan, summaries: dict[str, Summary], fingerprints: dict[str, str]) -> Manifest:
    source = plan.source
    splits = {}
    for split, summary in summaries.items():
        shards = summary.in_order()
        infos = tuple(shard.info for shard in shards if shard.info is not None)
        splits[split] = SplitInfo(
            num_images=sum(info.num_images for info in infos),
            fingerprint=fingerprints[split],
            shards=infos,
            num_rejected=sum(len(shard.rejects) for shard in shards),
        )
    return Manifest(
        name=source.name,
        source=plan.description,
        image_shape=source.image_shape,
        num_levels=source.num_levels,
        num_classes=source.num_classes,
        class_names=source.class_names,
        splits=splits,
        data_version=source.data_version,
    )


def _statistics(summaries: dict[str, Summary], duplicates: Duplicates) -> dict[str, Any]:
    splits = {
        split: summary.statistics.to_json() | {"duplicates": duplicates.within[split]}
        for split, summary in summaries.items()
    }
    if not {"train", "test"} <= splits.keys():
        return {"splits": splits}
    between = drift(summaries["train"].statistics, summaries["test"].statistics)
    return {"splits": splits, "train_and_test": between | {"test_images_in_train": duplicates.between}}


def _refuse(out_dir: epath.Path, problems: list[Problem]) -> str:
    text = json.dumps([asdict(problem) for problem in problems])
    write_atomically(out_dir / PROBLEMS_NAME, text.encode())
    return PROBLEMS_NAME


def commit(plan: Plan, parts: Iterable[tuple[str, Summary]]) -> str:
    """Write manifest, statistics and page if every shard is on disk, else `problems.json`; return that file's name.

    Args:
        plan: the job.
        parts: the summary of each split.
    """
    out_dir = epath.Path(plan.out_dir)
    summaries = {split: no_summary(plan) for split in plan.num_images}
    for split, summary in parts:
        summaries[split] += summary
    rejects = [reject for summary in summaries.values() for shard in summary.in_order() for reject in shard.rejects]
    problems = _problems(plan, summaries, rejects)
    if problems:
        return _refuse(out_dir, problems)
    fingerprints, duplicates = _read_all_digests(plan, summaries)
    if plan.fail_on_duplicates and duplicates.first:
        count = sum(duplicates.within.values()) + duplicates.between
        return _refuse(out_dir, [Problem("train", 0, f"{duplicates.first} ({count} duplicates in all)")])
    manifest = _manifest(plan, summaries, fingerprints)
    statistics = _statistics(summaries, duplicates)
    files = tfds_files(manifest)
    if rejects:
        lines = [
            {"source": plan.source.name, "split": bad.split, "index": bad.index, "reason": bad.message}
            for bad in rejects
        ]
        files[REJECTS_NAME] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    files[STATS_NAME] = (json.dumps(statistics, indent=1) + "\n").encode()
    samples = {
        split: [record for shard in summary.in_order() for record in shard.samples]
        for split, summary in summaries.items()
    }
    files[PAGE_NAME] = page(manifest, statistics, samples).encode()
    for name, data in files.items():
        write_atomically(out_dir / name, data)
    write_manifest(out_dir, manifest)
    return MANIFEST_NAME
