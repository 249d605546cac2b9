"""Read word images: ``python -m maerec_jax.predict --checkpoint runs/maerec_s IMAGE_OR_FOLDER ...``."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from maerec_jax.command import run_command


@dataclass(frozen=True)
class PredictArguments:
    """Read the words in image files, and print file, text and confidence for each."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Image files, and folders that are searched with their subfolders."""
    checkpoint: str
    """Workdir of a fine-tuning run, or one of its checkpoints."""
    format: Literal["table", "jsonl"] = "table"
    """Output: a line of columns, or a JSON object, for each image."""
    sheet: str = ""
    """Also draw the words with their readings into this PNG file (the first 48)."""
    turn: bool | None = None
    """Read images that are higher than wide also turned to the left and to the right, and take the surest reading; by
    default if the run was trained so (data.turn_vertical)."""
    batch_size: int = 32
    """Images read at once."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("name image files or folders to read")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")


def predict(arguments: PredictArguments) -> int:
    """Read and print; returns 1 if an image could not be read, else 0."""
    from data_pipelines.decoding import DecodeError
    from data_pipelines.sources import IMAGE_ENDINGS
    from maerec_jax.config import UserError
    from maerec_jax.recognizer import Recognizer
    from maerec_jax.training.pictures import readings_sheet, save_picture

    recognizer = Recognizer.load(arguments.checkpoint, arguments.batch_size, arguments.turn)
    files: list[Path] = []
    for name in arguments.images:
        path = Path(name)
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"no such image or folder: {name}")
    if not files:
        raise UserError(f"no images in {', '.join(arguments.images)}")

    failed, shown = 0, []
    for start in range(0, len(files), arguments.batch_size):
        readable, images = [], []
        for file in files[start : start + arguments.batch_size]:
            try:
                images.append(recognizer.prepare(file))
                readable.append(file)
            except (DecodeError, OSError) as error:
                failed += 1
                print(f"not read: {error}", file=sys.stderr)
        for file, (image, *_), word in zip(readable, images, recognizer.read_prepared(images), strict=True):
            shown.append((image, {"text": None, "reading": word.text, "confidence": word.confidence}))
            if arguments.format == "jsonl":
                print(json.dumps({"file": str(file), **asdict(word)}, ensure_ascii=False))
            else:
                print(f"{word.confidence:6.1%}  {word.text:<24}  {file}")
        del shown[48:]
    picture = readings_sheet([image for image, _ in shown], [sample for _, sample in shown])
    if arguments.sheet and picture is not None:
        save_picture(picture, arguments.sheet)
    if failed:
        print(f"{failed} of {len(files)} images could not be read", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(PredictArguments, predict, "python -m maerec_jax.predict"))
