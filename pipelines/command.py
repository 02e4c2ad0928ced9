"""The `vdm` command: parses, imports the one job that is asked for, and reports in one line.

Exit codes: 0 done, 1 error, 2 usage, 75 stopped on request with the state saved. Only light modules are imported
here, so that `vdm --help` answers at once.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import configs
from pipelines import tpu_options
from pipelines.quiet import keep_quiet
from vdm_lib.errors import ConfigError, VdmError

EXIT_ERROR, EXIT_USAGE, EXIT_STOPPED = 1, 2, 75


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `vdm` and its subcommands."""
    parser = argparse.ArgumentParser(
        prog="vdm",
        description="Variational diffusion models: data, training, bits per dimension, samples, export.",
        epilog="`vdm COMMAND --help` shows the options and an example.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {importlib.metadata.version('vdm-pipeline')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    def add(name: str, summary: str, *examples: str, usage: str | None = None) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            usage=usage,
            epilog="\n  ".join(["example:" if len(examples) == 1 else "examples:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="print the result as one line of JSON, last")
        return command

    prepare = add("prepare", "write a data set as sharded TFRecords", "vdm prepare digits --out data/digits",
                  "vdm prepare cifar10 --source cifar-10-batches-bin --out data/cifar10")  # fmt: skip
    prepare.add_argument("dataset", help="digits (embedded), cifar10, imagenet32, imagenet64 or images")
    prepare.add_argument("--source", type=_path, help="folder or archive, local or gs://; cifar10: also tfds")
    prepare.add_argument("--size", type=int, help="images: height and width to make")
    prepare.add_argument("--out", type=_path, required=True, help="data directory to make")
    prepare.add_argument("--shards", type=int, help="files per split (default: about 4,096 images each)")
    prepare.add_argument("--limit", type=int, help="keep the first LIMIT images of each split")
    prepare.add_argument("--max-bad", type=int, default=0, metavar="N", help="reject up to N bad images (default 0)")
    prepare.add_argument("--fail-on-duplicates", action="store_true", help="an image that occurs twice is an error")
    prepare.add_argument("--runner", help="Beam runner (default: FnApiRunner); flags not named here go to Beam")

    train = add("train", "train a config, going on from what the workdir holds",
                "vdm train cifar10 model.n_layer=2 --data data/cifar10 --workdir runs/a",
                "vdm train cifar10 --data data/cifar10 --workdir gs://bucket/runs/a \\\n"
                "      --coordinator host0:8476 --num-processes 2 --process-id 0",
                usage="vdm train CONFIG [key=value ...] --data DATA --workdir WORKDIR\n"
                      "                 [--allow-other-data] [--profile STEPS] [--json]\n"
                      "                 [--coordinator HOST:PORT --num-processes N --process-id I]\n"
                      "       vdm train CONFIG [key=value ...] --print-config [--json]")  # fmt: skip
    train.add_argument("config", help="one of: " + ", ".join(configs.NAMES))
    train.add_argument("overrides", nargs="*", metavar="key=value", help="a value of the config, e.g. train.steps=100")
    train.add_argument("--data", type=_path, help="data directory made by vdm prepare")
    train.add_argument("--workdir", type=_path, help="run directory, local or gs://; made if absent")
    train.add_argument(
        "--allow-other-data", action="store_true", help="go on with other images than the run began with"
    )
    train.add_argument("--profile", type=int, default=0, metavar="STEPS",
                       help="trace STEPS steps into WORKDIR/profile, for TensorBoard or Perfetto")  # fmt: skip
    train.add_argument("--coordinator", metavar="HOST:PORT",
                       help="several processes: address of process 0; TPU VMs need none of these three")  # fmt: skip
    train.add_argument("--num-processes", type=int, metavar="N", help="how many processes train together")
    train.add_argument("--process-id", type=int, metavar="I", help="which of them this is, from 0")
    train.add_argument("--print-config", action="store_true", help="print the config as JSON and do nothing")

    evaluate = add("eval", "measure bits per dimension with its error",
                   "vdm eval --workdir runs/a --data data/cifar10",
                   "vdm eval eval.passes=16 --workdir runs/a --data data/cifar10 --step all",
                   "vdm eval --compare runs/a runs/b@600 --data data/cifar10",
                   "vdm eval cifar10 --checkpoint checkpoints-0 --workdir runs/published --data data/cifar10",
                   usage="vdm eval [key=value ...] --workdir WORKDIR --data DATA [--step STEP] [--force]\n"
                         "                [--reference-protocol] [--allow-other-data] [--json]\n"
                         "       vdm eval [key=value ...] --compare RUN[@STEP] RUN[@STEP] --data DATA [--json]\n"
                         "       vdm eval CONFIG [key=value ...] --checkpoint SRC --workdir WORKDIR --data DATA "
                         "[--json]")  # fmt: skip
    evaluate.add_argument("words", nargs="*", metavar="CONFIG | key=value",
                          help="eval.* or model.timesteps of the run, e.g. eval.passes=16; "
                               "with --checkpoint first the config")  # fmt: skip
    evaluate.add_argument("--checkpoint", type=_path, metavar="SRC",
                          help="measure a checkpoint of google-research/vdm (checkpoints-0)")  # fmt: skip
    evaluate.add_argument("--workdir", type=_path, help="run directory; for --checkpoint the report's place")
    evaluate.add_argument("--compare", type=_path, nargs=2, metavar="RUN[@STEP]",
                          help="two checkpoints on the same images, times and noise: which is better")  # fmt: skip
    evaluate.add_argument("--reference-protocol", action="store_true",
                          help="draw images and times as google-research/vdm did: eval.protocol=reference"
                          )  # fmt: skip
    evaluate.add_argument("--data", type=_path, required=True, help="data directory")
    evaluate.add_argument("--step", default="latest", help="a step, latest, or all that have no report yet")
    evaluate.add_argument("--force", action="store_true", help="measure again what has a report")
    evaluate.add_argument("--allow-other-data", action="store_true",
                          help="measure on other images than the run began with: eval/STEP-data=FINGERPRINT.json"
                          )  # fmt: skip

    sample = add("sample", "write a grid of samples", "vdm sample --workdir runs/a --out samples.png")
    sample.add_argument("--workdir", type=_path, required=True, help="run directory")
    sample.add_argument("--num", type=int, default=64, help="number of images (default 64)")
    sample.add_argument("--steps", type=int, default=250, help="steps of the sampler (default 250)")
    sample.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default 0)")
    sample.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    sample.add_argument("--out", type=_path, required=True, metavar="FILE.png", help="picture to write")

    export = add("export", "write a verified bundle that works without this project",
                 "vdm export --workdir runs/a --out bundles/a")  # fmt: skip
    export.add_argument("--workdir", type=_path, required=True, help="run directory")
    export.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    export.add_argument("--out", type=_path, required=True, help="bundle directory to make, local or gs://")
    export.add_argument("--data", type=_path, help="data directory: its version goes on the card")
    export.add_argument("--samples", type=int, metavar="N", help="images in samples.png (default 64; fewer on a CPU)")
    export.add_argument("--sample-steps", type=int, metavar="T", help="steps of each (default 250; fewer on a CPU)")
    export.add_argument("--onnx", action="store_true", help="write model.onnx too; needs the group onnx")

    import_ = add("import", "a checkpoint of google-research/vdm to a run directory",
                  "vdm import checkpoints-0 runs/published cifar10",
                  "vdm import --reverse runs/a checkpoints-0",
                  usage="vdm import SRC DST [CONFIG [key=value ...]] [--json]\n"
                        "       vdm import --reverse SRC DST [--step STEP] [--json]")  # fmt: skip
    import_.add_argument("source", type=_path, metavar="SRC", help="checkpoints-0, or one in it: checkpoints-0/ckpt-2")
    import_.add_argument("destination", type=_path, metavar="DST", help="run directory to make")
    import_.add_argument("words", nargs="*", metavar="CONFIG key=value",
                         help="the experiment; default: the config that has the same parameters")  # fmt: skip
    import_.add_argument("--reverse", action="store_true", help="SRC is a run, DST a checkpoints-0 to make")
    import_.add_argument("--step", type=int, help="with --reverse: step of the checkpoint (default: the newest)")

    info = add("info", "print the parameters of a config", "vdm info cifar10 model.n_layer=2",
               usage="vdm info CONFIG [key=value ...] [--json]")  # fmt: skip
    info.add_argument("config", help="one of: " + ", ".join(configs.NAMES))
    info.add_argument("overrides", nargs="*", metavar="key=value", help="a value of the config")

    plan = add("plan", "whether a config fits a TPU slice, its best step time and price; compiles for it, runs nothing",
               "vdm plan cifar10 --accelerator v3-8",
               "vdm plan cifar10_aug train.batch_size=512 --accelerator all",
               usage="vdm plan CONFIG [key=value ...] --accelerator TYPE[,TYPE]|all [--markdown] [--json]")  # fmt: skip
    plan.add_argument("config", help="one of: " + ", ".join(configs.NAMES))
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="a value of the config")
    plan.add_argument("--accelerator", required=True, metavar="TYPE", help="such as v3-64; several with commas; or all")
    plan.add_argument("--markdown", action="store_true", help="with several: print a table in Markdown")

    tpu_options.add_to(commands)

    verify = add("verify", "check a bundle in a fresh process", "vdm verify bundles/a",
                 "vdm verify bundles/a --data data/cifar10")  # fmt: skip
    verify.add_argument("bundle", type=_path, help="bundle directory")
    verify.add_argument("--data", type=_path, help="data directory of the model: measures bpd again")
    verify.add_argument("--allow-other-data", action="store_true", help="say that the data is other, do not refuse it")

    report = add("report", "write one HTML file that shows a run, or several beside each other",
                 "vdm report --workdir runs/a --data data/cifar10",
                 "vdm report --compare runs/a runs/b --out compare.html")  # fmt: skip
    which = report.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", type=_path, help="run directory")
    which.add_argument("--compare", type=_path, nargs="+", metavar="RUN", help="run directories, two or more")
    report.add_argument("--data", type=_path, help="with --workdir: data directory, whose statistics are shown")
    report.add_argument("--out", type=_path, metavar="FILE.html", help="default: RUN/report.html or compare.html")

    promote = add("promote", "verify a bundle, add it to a registry, promote it if it is not worse",
                  "vdm promote bundles/a --registry registry --why 'first release'")  # fmt: skip
    promote.add_argument("bundle", type=_path, help="bundle, local or gs://; or a version of the registry, with --name")
    promote.add_argument("--name", help="name of the model (default: the experiment)")
    promote.add_argument("--force", action="store_true", help="do not compare it with what is promoted")
    rollback = add("rollback", "promote again what the promoted version replaced",
                   "vdm rollback digits --registry registry --why 'blurred'")  # fmt: skip
    rollback.add_argument("name", help="name of the model")
    for each in (promote, rollback):
        each.add_argument("--registry", type=_path, required=True, help="directory of models, local or gs://")
        each.add_argument("--why", default="", help="for the history")
        each.add_argument("--who", help="for the history (default: the user)")
    return parser


def _prepare(args: argparse.Namespace, beam_flags: list[str]) -> Any:
    runner = [f"--runner={args.runner}"] if args.runner else []
    return _job("prepare")(
        args.dataset, args.out, source=args.source, shards=args.shards, limit=args.limit, size=args.size,
        max_bad=args.max_bad, fail_on_duplicates=args.fail_on_duplicates, runner_args=[*runner, *beam_flags],
    )  # fmt: skip


def _train(args: argparse.Namespace) -> Any:
    config = configs.load(args.config, configs.parse_overrides(args.overrides))
    if args.print_config:
        text = configs.to_json(config)
        print(json.dumps(json.loads(text)) if args.json else text.rstrip("\n"))
        return None
    if args.data is None or args.workdir is None:
        raise ConfigError("train needs --data and --workdir")
    cluster = _job("cluster", "Cluster")(args.coordinator, args.num_processes, args.process_id)
    return _job("train")(
        config, args.data, args.workdir, allow_other_data=args.allow_other_data, profile_steps=args.profile,
        cluster=cluster,
    )  # fmt: skip


def _eval(args: argparse.Namespace) -> Any:
    if args.step not in ("latest", "all") and not args.step.isdecimal():
        raise ConfigError(f"--step is a number, latest or all, got {args.step!r}")
    config, overrides = _config_words(args.words)
    if args.reference_protocol:
        overrides["eval.protocol"] = "reference"
    if args.checkpoint is None and config is not None:
        raise ConfigError(f"a run has its own config: leave out {config}, or give --checkpoint")
    if args.compare is not None:
        if args.checkpoint or args.workdir or args.force or args.step != "latest":
            raise ConfigError("--compare takes two runs and --data, and writes no report")
        return _job("compare")(*args.compare, args.data, overrides=overrides)
    if args.workdir is None:
        raise ConfigError("eval needs --workdir, or two runs to --compare")
    if args.checkpoint is None:
        return _job("evaluate")(
            args.workdir, args.data, overrides=overrides, step=args.step, force=args.force,
            allow_other_data=args.allow_other_data,
        )  # fmt: skip
    if config is None:
        raise ConfigError("--checkpoint needs the config it was trained as, such as cifar10, before the options")
    return _job("evaluate", "run_reference")(
        configs.load(config, overrides), args.checkpoint, args.workdir, args.data
    )  # fmt: skip


def _import(args: argparse.Namespace) -> Any:
    name, overrides = _config_words(args.words)
    if args.reverse:
        if args.words:
            raise ConfigError("--reverse takes the config from the run: leave out " + " ".join(args.words))
        return _job("import_checkpoint", "run_reverse")(args.source, args.destination, args.step)
    if name is None and overrides:
        raise ConfigError("values need the config that they change, such as cifar10")
    config = None if name is None else configs.load(name, overrides)
    return _job("import_checkpoint")(args.source, args.destination, config)


def _info(args: argparse.Namespace) -> Any:
    return _job("info")(configs.load(args.config, configs.parse_overrides(args.overrides)))


def _plan(args: argparse.Namespace) -> Any:
    result = _job("plan")(configs.load(args.config, configs.parse_overrides(args.overrides)), args.accelerator)
    if not args.markdown:
        return result
    if not hasattr(result, "markdown"):
        raise ConfigError("--markdown makes a table of several slices: give --accelerator all, or names with commas")
    print(result.markdown())
    return None


def _config_words(words: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Return the config's name, if the first word is one, and the key=value words after it."""
    if words and "=" not in words[0]:
        return words[0], configs.parse_overrides(words[1:])
    return None, configs.parse_overrides(words)


def _sample(args: argparse.Namespace) -> Any:
    return _job("sample")(
        args.workdir, args.out, num=args.num, steps=args.steps, seed=args.seed, step=args.step
    )  # fmt: skip


def _job(name: str, function: str = "run") -> Any:
    """Return a function of a job; importing it is what costs seconds."""
    return getattr(importlib.import_module(f"pipelines.{name}"), function)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; key=value words may also stand after the options, flags of Beam after those of prepare.

    argparse takes the words of a list from one place only.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if args.command == "prepare":
        args.beam_flags, rest = rest, []
    words = getattr(args, "overrides", getattr(args, "words", None))
    for word in rest:
        if words is None or word.startswith("-") or "=" not in word:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        words.append(word)
    return args


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a path must not be empty")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code; errors are one line on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv:
        build_parser().print_help(sys.stderr)
        return EXIT_USAGE
    beam_flags: list[str] = []
    if argv[:1] == ["prepare"] and "--" in argv:
        cut = argv.index("--")
        argv, beam_flags = argv[:cut], argv[cut + 1 :]
    args = _parse(argv)
    keep_quiet()
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        # Ended like Ctrl-C, a job removes what it has half written.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        match args.command:
            case "prepare":
                result = _prepare(args, [*args.beam_flags, *beam_flags])
            case "train":
                result = _train(args)
            case "eval":
                result = _eval(args)
            case "sample":
                result = _sample(args)
            case "import":
                result = _import(args)
            case "info":
                result = _info(args)
            case "plan":
                result = _plan(args)
            case "tpu":
                result = _job("tpu")(args)
            case "export":
                result = _job("export")(
                    args.workdir, args.out, step=args.step, data=args.data, num_samples=args.samples,
                    sample_steps=args.sample_steps, onnx=args.onnx,
                )  # fmt: skip
            case "report" if args.compare:
                if args.data is not None:
                    raise ConfigError("--compare shows no data: leave out --data")
                result = _job("report", "compare")(args.compare, out=args.out)
            case "report":
                result = _job("report")(args.workdir, out=args.out, data=args.data)
            case "promote":
                result = _job("promote")(
                    args.bundle, args.registry, name=args.name, who=args.who, why=args.why, force=args.force
                )
            case "rollback":
                result = _job("promote", "rollback")(args.name, args.registry, who=args.who, why=args.why)
            case _:
                result = _job("verify")(args.bundle, args.data, allow_other_data=args.allow_other_data)
        if result is not None:
            print(json.dumps(asdict(result)) if args.json else result, flush=True)
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except ConfigError as error:
        print(f"vdm {args.command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except VdmError as error:
        print(f"vdm {args.command}: {error}", file=sys.stderr)
        return EXIT_ERROR
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"vdm {args.command}: cannot read or write{where}: {error.strerror or error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print(f"vdm {args.command}: interrupted", file=sys.stderr)
        return EXIT_ERROR
    return EXIT_STOPPED if getattr(result, "stopped", False) else 0


if __name__ == "__main__":
    sys.exit(main())
