"""What users do with a recogniser, done with the foreign one by the commands: ``story.py FOLDER``, on eight devices."""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import jax
import PIL.Image

jax.config.update("jax_num_cpu_devices", 8)

from data_pipelines.command import run_command  # noqa: E402
from data_pipelines.rendering import RenderedWords  # noqa: E402
from maerec_jax import Recognizer, train  # noqa: E402
from maerec_jax.evaluate import EvaluateArguments, evaluate  # noqa: E402
from maerec_jax.export import ExportArguments, export  # noqa: E402
from maerec_jax.import_pytorch import ImportArguments, import_pytorch  # noqa: E402
from maerec_jax.predict import PredictArguments, predict  # noqa: E402
from maerec_jax.training import loop  # noqa: E402

HERE = Path(__file__).parent


def interrupted_after(batches: int):
    """``train_batches`` for one run, which gives so many."""
    whole = loop.train_batches

    class Interrupted:
        def __init__(self, *arguments, **settings):
            self.batches = whole(*arguments, **settings)

        def __enter__(self):
            batches_left = iter(range(batches))
            given = self.batches.__enter__()
            return iter(lambda: next(given) if next(batches_left, None) is not None else sys.exit("interrupted"), None)

        def __exit__(self, *error):
            self.batches.__exit__(*error)

    loop.train_batches = Interrupted
    return lambda: setattr(loop, "train_batches", whole)


def main(folder: Path) -> None:
    """Train, interrupted and resumed on another mesh; evaluate, read, export, import, start from it."""
    config = ["--config", str(HERE / "config.py")]
    assert train.main([*config, "--workdir", str(folder / "unbroken")]) == 0
    undo = interrupted_after(12)
    try:
        train.main([*config, "--workdir", str(folder / "run")])
    except SystemExit:
        undo()
    resumed = ["--mesh.data", "2", "--mesh.fsdp", "4"]
    assert train.main([*config, "--workdir", str(folder / "run"), *resumed]) == 0

    (folder / "words").mkdir()
    lines = []
    for index, (image, text) in enumerate(RenderedWords(size=8, characters="0123456789", max_length=4).open()):
        PIL.Image.fromarray(image).save(folder / "words" / f"{index}.png")
        lines.append(json.dumps({"filename": f"words/{index}.png", "text": text}) + "\n")
    (folder / "words.jsonl").write_text("".join(lines))
    images = sorted(map(str, (folder / "words").iterdir()))
    checkpoint = ["--checkpoint", str(folder / "run")]
    sets = ["--data", str(folder), "--sets", "words.jsonl", "--json", str(folder / "table.json")]
    assert run_command(EvaluateArguments, evaluate, "evaluate", [*checkpoint, *sets]) == 0
    with (folder / "read.jsonl").open("w") as file, redirect_stdout(file):
        assert run_command(PredictArguments, predict, "predict", [*checkpoint, *images, "--format", "jsonl"]) == 0
    refused = (["--beam", "3"], ["--int8"], ["--attention", "--visualise", str(folder / "seen")])
    for flags in refused:
        assert run_command(PredictArguments, predict, "predict", [*checkpoint, *images, *flags]) == 1
    for form, flags, status in (("stablehlo", [], 0), ("onnx", [], 1), ("pytorch", ["--released"], 1)):
        ending = ".pth" if form == "pytorch" else f".{form}"
        output = [*checkpoint, "--format", form, "--output", str(folder / f"ctc{ending}"), *flags]
        assert run_command(ExportArguments, export, "export", output) == status
    exported = str(folder / "ctc.safetensors")
    assert (
        run_command(ExportArguments, export, "export", [*checkpoint, "--format", "safetensors", "--output", exported])
        == 0
    )
    assert run_command(ImportArguments, import_pytorch, "import_pytorch", [exported, str(folder / "imported")]) == 0
    for name in ("run", "ctc.safetensors", "imported"):
        words = Recognizer.load(folder / name).read(images)
        (folder / f"{name}.json").write_text(json.dumps([[word.text, word.confidence] for word in words]))
    other = ["--workdir", str(folder / "other"), "--init-from", exported, "--steps", "1"]
    assert train.main([*config, *other, "--model.charset.characters", "0123456789ab"]) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
