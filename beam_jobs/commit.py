"""The last step: all that is not images is written, the manifest last, or nothing but the problems."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from etils import epath

from beam_jobs.page import page
from beam_jobs.plan import Plan
from beam_jobs.shards import Problem
from beam_jobs.statistics import drift
from beam_jobs.summary import Duplicates, Summary, find_duplicates, no_summary
from beam_jobs.tfds_metadata import tfds_files
from vdm_lib.records import MANIFEST_NAME, Manifest, SplitInfo, write_atomically, write_manifest

PROBLEMS_NAME = "problems.json"
"""Written instead of the manifest when the job found a reason not to commit."""
REJECTS_NAME, STATS_NAME, PAGE_NAME = "rejects.jsonl", "stats.json", "index.html"


def _problems(plan: Plan, summaries: dict[str, Summary], rejects: list[Problem]) -> list[Problem]:
    out_dir = epath.Path(plan.out_dir)
    problems = []
    for split, summary in summaries.items():
        for shard in summary.in_order():
            if shard.problem is not None:
                problems.append(shard.problem)
            elif shard.info is not None:
                path = out_dir / shard.info.name
                if not path.exists() or path.stat().length != shard.info.num_bytes:
                    problems.append(Problem(split, shard.task.start, f"{path.name} was changed by another program"))
        missing = plan.num_shards[split] - len(summary.shards)
        if missing:
            problems.append(Problem(split, 0, f"{missing} shards were not written"))
    too_many_rejects = len(rejects) > plan.max_bad
    if not problems and not too_many_rejects:
        for split, summary in summaries.items():
            if not any(len(shard.indices) for shard in summary.shards.values()):
                problems.append(Problem(split, 0, f"split: all of its {plan.num_images[split]} images are bad"))
    if too_many_rejects:
        for reject in rejects:
            problems.append(Problem(reject.split, reject.index, f"image {reject.index}: {reject.message}"))
    return sorted(problems, key=lambda problem: (problem.split, problem.index, problem.message))


def _manifest(plan: Plan, summaries: dict[str, Summary]) -> Manifest:
    source = plan.source
    splits = {}
    for split, summary in summaries.items():
        shards = summary.in_order()
        infos = tuple(shard.info for shard in shards if shard.info is not None)
        splits[split] = SplitInfo(
            num_images=sum(info.num_images for info in infos),
            fingerprint=hashlib.sha256(b"".join(shard.image_digests for shard in shards)).hexdigest(),
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
    duplicates = find_duplicates(summaries)
    if plan.fail_on_duplicates and duplicates.first and not problems:
        count = sum(duplicates.within.values()) + duplicates.between
        problems.append(Problem("train", 0, f"{duplicates.first} ({count} duplicates in all)"))
    if problems:
        text = json.dumps([asdict(problem) for problem in problems])
        write_atomically(out_dir / PROBLEMS_NAME, text.encode())
        return PROBLEMS_NAME
    manifest = _manifest(plan, summaries)
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
