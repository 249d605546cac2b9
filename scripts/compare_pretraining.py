"""Compare the two ways to pre-train, for an equal time: python scripts/compare_pretraining.py --root /path/to/Union14M

Pre-trains the same small encoder as MAE and as CrossMAE (arXiv 2111.06377 and 2401.14391) for as many minutes as told,
then fine-tunes the same recogniser from both, and from nothing, for an equal number of steps. How many steps of
pre-training fit into the time is measured first, so that each learning rate runs down its whole schedule. Prints a
table of both stages: speed, steps, validation loss, and words read right, of the validation data and the benchmark.

The sizes keep the proportions of ViT-S: a decoder that does most of MAE's work. With --pin every run has one core to
itself, and the two ways to pre-train run at the same time. A comparison that was stopped goes on in the same --out.
Data: Union14M-L's training lists in mmocr-0.x, and Union14M-U's LMDBs, under --root; any sample of them will do.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_pipelines.images.augmentation import Augmentation
from data_pipelines.rendering import RenderedWords
from data_pipelines.sources.files import Annotations, LmdbWords
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig, read_json, to_json
from maerec_jax.costs.work import step_work
from maerec_jax.models.cross_mae import CrossMAEConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.maerec import MAERecConfig
from maerec_jax.models.text_decoder import TextDecoderConfig
from maerec_jax.models.vit import ViTConfig

REPOSITORY = Path(__file__).resolve().parents[1]
CONSOLE = Console(width=None if sys.stdout.isatty() else 150)
PRETRAINED = ("mae", "cross_mae")
ARMS = (*PRETRAINED, "none")
VALIDATION = "Union14M-L/train_annos/mmocr-0.x/val_annos.jsonl"
# Accuracy on them has another meaning.
MISLEADING = ("incomplete", "incomplete_ori")
# A config file for the ordinary command, of the JSON beside it.
CONFIG_FILE = """from pathlib import Path
from maerec_jax.config import read_json
def get_config(): return read_json(Path(__file__).with_suffix(".json"))
"""


def encoder(arguments: argparse.Namespace) -> ViTConfig:
    """The encoder of all runs."""
    dim, depth, heads = arguments.encoder
    return ViTConfig(dim=dim, depth=depth, heads=heads, patch_size=tuple(arguments.patch), position_table="grid")


def pretraining(arguments: argparse.Namespace, arm: str, seed: int, steps: int) -> TrainConfig:
    """A run of pre-training: on real words and some rendered ones, validated on real ones."""
    dim, depth, heads = arguments.decoder
    sizes = {"encoder": encoder(arguments), "decoder_dim": dim, "decoder_depth": depth, "decoder_heads": heads}
    sizes |= {"mask_ratio": arguments.mask_ratio, "norm_pix": arguments.norm_pix}
    cross = {"prediction_ratio": arguments.prediction_ratio}
    names = ("book32_lmdb", "cc_lmdb", "openvino_lmdb")
    return TrainConfig(
        model=MAEConfig(**sizes) if arm == "mae" else CrossMAEConfig(**sizes, **cross),
        data=DataConfig(
            root=arguments.root,
            train=(
                *(LmdbWords(f"Union14M-U/{name}", labelled=False) for name in names),
                RenderedWords(weight=0.3, difficulty=0.6),
            ),
            validation=(Annotations(VALIDATION),),
            interpolation="bicubic",
        ),
        optimizer=OptimizerConfig(
            learning_rate=arguments.learning_rate,
            warmup_steps=max(1, steps // 10),
            weight_decay=0.05,
            betas=(0.9, 0.95),
        ),
        batch_size=128,
        steps=steps,
        validate_every=steps,
        log_every=max(1, steps // 20),
        seed=seed,
    )


def fine_tuning(arguments: argparse.Namespace, seed: int, start: Path | None) -> TrainConfig:
    """A run of fine-tuning, from a pre-trained encoder or a fresh one: as in configs/two_cores_maerec.py."""
    annotations = "Union14M-L/train_annos/mmocr-0.x"
    levels = ("easy", "medium", "hard", "normal", "challenging")
    steps = arguments.steps
    return TrainConfig(
        model=MAERecConfig(
            encoder=encoder(arguments),
            decoder=TextDecoderConfig(dim=128, layers=2, heads=4, inner_dim=512, dropout=0.0, max_length=26),
        ),
        data=DataConfig(
            root=arguments.root,
            train=(
                *(Annotations(f"{annotations}/train_{level}.jsonl") for level in levels),
                RenderedWords(weight=0.5, difficulty=0.6),
            ),
            validation=(Annotations(VALIDATION),),
            augmentation=Augmentation(scale=(0.8, 1.2), shear=20.0, translation=0.1, distortion=0.3),
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=max(1, min(300, steps // 10)), weight_decay=0.05, clip_norm=1.0
        ),
        batch_size=64,
        steps=steps,
        validate_every=max(1, steps // 4),
        log_every=max(1, steps // 40),
        ema_decay=0.999,
        init_from=str(start) if start else "",
        seed=seed,
    )


@dataclass(frozen=True)
class Job:
    """A command to run, and what it is called in the log."""

    name: str
    command: list[str]
    log: Path


def training(config: TrainConfig, workdir: Path) -> Job:
    """A run of maerec_jax.train in a workdir; one that is there already goes on."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    file = workdir.with_suffix(".py")
    file.write_text(CONFIG_FILE)
    file.with_suffix(".json").write_text(to_json(replace(config, workdir=str(workdir))))
    command = [sys.executable, "-m", "maerec_jax.train", "--config", str(file)]
    return Job(workdir.name, command, workdir.with_suffix(".log"))


def run(jobs: Sequence[Job], cores: Sequence[int]) -> None:
    """Run commands, each on one of the cores, as many at a time as there are; one after the other without cores."""
    slots: list[int | None] = list(cores) or [None]
    waiting = list(jobs)
    running: dict[subprocess.Popen, tuple[Job, int | None, float]] = {}
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    try:
        while waiting or running:
            while waiting and slots:
                job, core = waiting.pop(0), slots.pop(0)
                with job.log.open("w") as log:
                    process = subprocess.Popen(job.command, env=environment, stdout=log, stderr=log)
                if core is not None:
                    os.sched_setaffinity(process.pid, {core})
                running[process] = (job, core, time.monotonic())
            for process in [process for process in running if process.poll() is not None]:
                job, core, begin = running.pop(process)
                slots.append(core)
                if process.returncode:
                    raise SystemExit(f"{job.name} failed, see {job.log}:\n{job.log.read_text()[-2000:]}")
                CONSOLE.print(f"{job.name}: {time.monotonic() - begin:,.0f} s", highlight=False)
            time.sleep(0.2)
    finally:
        for process in running:
            process.terminate()


def logged(workdir: Path, group: str) -> list[dict]:
    """What a run has logged in a group, in order."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["group"] == group]


def speed(workdir: Path) -> float:
    """Images a second over a whole run; compiling, validating and saving are left out."""
    rates = (line.get("images_per_second") for line in logged(workdir, "train"))
    return statistics.harmonic_mean([rate for rate in rates if rate])


def plan(arguments: argparse.Namespace, cores: Sequence[int]) -> dict[str, int]:
    """Steps of pre-training for each way that take the time asked for, as fast as short runs are now."""
    file, folder = arguments.out / "plan.json", arguments.out / "speed"
    options = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("root", "out", "pin", "seeds", "baseline")
    }
    if file.is_file():
        known = json.loads(file.read_text())
        if known["options"] != options:
            raise SystemExit(f"{arguments.out} holds a comparison with other options: use another --out")
        return known["steps"]
    work = {arm: step_work(pretraining(arguments, arm, 0, 1).model, (32, 128)).model for arm in PRETRAINED}
    # About as long for both, so that they always run beside each other.
    steps = {arm: round(arguments.speed_steps * work["mae"] / work[arm]) for arm in PRETRAINED}
    run([training(pretraining(arguments, arm, 0, steps[arm]), folder / arm) for arm in PRETRAINED], cores)
    steps = {arm: max(1, round(60 * arguments.minutes * speed(folder / arm) / 128)) for arm in PRETRAINED}
    file.write_text(json.dumps({"options": options, "steps": steps}))
    return steps


def evaluation(arguments: argparse.Namespace, workdir: Path) -> Job:
    """Read the validation words and those of the benchmark with the last weights of a run."""
    benchmarks = Path(arguments.root) / "Union14M-L" / "Union14M-Benchmarks"
    sets = sorted(str(file.relative_to(arguments.root)) for file in benchmarks.glob("*/annotation.jsonl"))
    checkpoint, out = workdir / "checkpoints" / str(arguments.steps), workdir.with_suffix(".accuracy.json")
    command = [sys.executable, "-m", "maerec_jax.evaluate", "--checkpoint", str(checkpoint), "--data", arguments.root]
    command += ["--json", str(out), "--sets", VALIDATION, *sets]
    return Job(f"{workdir.name}, read", command, workdir.with_suffix(".accuracy.log"))


def accuracies(file: Path) -> dict[str, float]:
    """WA and WAICS, in per cent, of the validation words, of all words of the benchmark, and WA of each subset."""
    sets = json.loads(file.read_text())["sets"]
    found = {name: {"words": entry["words"], **entry["metrics"]} for name, entry in sets.items()}
    held_out = found.pop(VALIDATION)
    subsets = {Path(name).parent.name: metrics for name, metrics in found.items()}
    usual = [metrics for name, metrics in subsets.items() if name not in MISLEADING]
    numbers, words = {}, sum(metrics["words"] for metrics in usual)
    for short, name in (("WA", "word_accuracy"), ("WAICS", "word_accuracy_ignore_case_symbols")):
        numbers[short] = 100 * held_out[name]
        numbers[f"benchmark {short}"] = 100 * sum(m[name] * m["words"] for m in usual) / max(words, 1)
    return numbers | {name: 100 * metrics["word_accuracy"] for name, metrics in subsets.items()}


def results(arguments: argparse.Namespace, arm: str, seed: int) -> dict[str, float]:
    """All numbers of one arm and seed."""
    numbers = {}
    if arm != "none":
        workdir = arguments.out / f"pretraining_{arm}_{seed}"
        steps = read_json(workdir / "config.json").steps
        numbers = {"images/s": speed(workdir), "steps": steps, "minutes": steps * 128 / speed(workdir) / 60}
        numbers["loss"] = logged(workdir, "validation")[-1]["loss"]
    return numbers | accuracies(arguments.out / f"fine_tuning_{arm}_{seed}.accuracy.json")


def show(found: dict[str, list[dict[str, float]]]) -> None:
    """The table: a line for each run, and for several seeds the mean of each arm."""
    columns = ["images/s", "steps", "minutes", "loss", "WA", "WAICS", "benchmark WA", "benchmark WAICS"]
    digits = dict.fromkeys(columns, 1) | {"images/s": 0, "steps": 0, "loss": 4}
    table = Table("pre-trained as", *columns)
    subsets = Table("pre-trained as", *(names := [n for n in found["mae"][0] if n not in columns]), title="WA (%)")
    for arm, runs in found.items():
        for seed, numbers in enumerate(runs):
            cells = (f"{numbers[c]:,.{digits[c]}f}" if c in numbers else "-" for c in columns)
            table.add_row(f"{arm}, seed {seed}", *cells)
        mean = {name: statistics.mean(numbers[name] for numbers in runs) for name in runs[0]}
        if len(runs) > 1:
            table.add_row(f"{arm}, mean", *(f"{mean[c]:,.{digits[c]}f}" if c in mean else "-" for c in columns))
            table.add_section()
        subsets.add_row(arm, *(f"{mean[name]:.1f}" for name in names))
    CONSOLE.print(table)
    CONSOLE.print(subsets)


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Leaves paragraphs as they are, and tells defaults."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--root", required=True, help="data root with Union14M-L and Union14M-U")
    parser.add_argument("--out", type=Path, default=Path("runs/compare_pretraining"), help="folder for all runs")
    parser.add_argument("--minutes", type=float, default=20.0, help="of pre-training, for each of the two ways")
    parser.add_argument("--steps", type=int, default=4000, help="of fine-tuning, 64 words each")
    parser.add_argument("--seeds", type=int, default=1, help="how often all is done")
    parser.add_argument(
        "--baseline", action=argparse.BooleanOptionalAction, default=True, help="fine-tune from nothing"
    )
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, help="a core for each run (if it can)")
    parser.add_argument("--encoder", type=int, nargs=3, default=[128, 6, 4], help="width, depth and heads")
    parser.add_argument("--decoder", type=int, nargs=3, default=[160, 6, 4], help="of both: width, depth and heads")
    parser.add_argument("--patch", type=int, nargs=2, default=[16, 8], help="height and width in pixels")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="share of the patches that is hidden")
    parser.add_argument("--prediction-ratio", type=float, default=0.25, help="share that CrossMAE predicts")
    parser.add_argument("--norm-pix", action=argparse.BooleanOptionalAction, default=True, help="normalise patches")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of pre-training")
    parser.add_argument("--speed-steps", type=int, default=60, help="steps of MAE by which its speed is measured")
    arguments = parser.parse_args()
    arguments.root = str(Path(arguments.root).absolute())
    arguments.out = arguments.out.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if arguments.pin and len(cores) < 2:
        parser.error("--pin needs two cores, and an operating system that can bind programs to them")
    cores = cores if arguments.pin is not False and len(cores) > 1 else []

    steps = plan(arguments, cores[:2])
    for seed in range(arguments.seeds):
        workdirs = {arm: arguments.out / f"pretraining_{arm}_{seed}" for arm in PRETRAINED}
        pair = [training(pretraining(arguments, arm, seed, steps[arm]), workdirs[arm]) for arm in PRETRAINED]
        run(pair[:: 1 - 2 * (seed % 2)], cores[:2])  # on each core in turn, should one be faster
    jobs, readings = [], []
    arms = ARMS if arguments.baseline else PRETRAINED
    for seed, arm in itertools.product(range(arguments.seeds), arms):
        start = None if arm == "none" else arguments.out / f"pretraining_{arm}_{seed}"
        workdir = arguments.out / f"fine_tuning_{arm}_{seed}"
        jobs.append(training(fine_tuning(arguments, seed, start), workdir))
        readings.append(evaluation(arguments, workdir))
    run(jobs, cores)
    run(readings, cores)
    found = {arm: [results(arguments, arm, seed) for seed in range(arguments.seeds)] for arm in arms}
    (arguments.out / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    show(found)


if __name__ == "__main__":
    main()
