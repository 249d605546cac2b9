"""Read word images over HTTP: ``python -m maerec_jax.serve --checkpoint runs/maerec_s``."""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from data_pipelines.command import keep_compiled_programs, main_of, tell
from data_pipelines.errors import UserError
from data_pipelines.images.crops import Crops
from maerec_jax.reading.settings import ReadingArguments
from maerec_jax.scenes.regions import DetectionConfig
from maerec_jax.serving.limits import Limits, check_hosts


@dataclass(frozen=True)
class ServeArguments(ReadingArguments):
    """Read word images over HTTP: POST /words takes images and returns JSON; /docs describes the API.

    Prints "ready:" and the address once every batch shape is compiled; until then it answers 503.

    SIGTERM and Ctrl-C stop it: accepted requests are finished, new ones are refused.

    There is no TLS and no password: anyone who can reach it can use it (see docs/serving.md).
    """

    host: str = "127.0.0.1"
    """Address to listen on; the default can be reached from this machine only."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may use, beside this machine's (behind a proxy: its name); * for any."""
    port: int = 8000
    """Port to listen on; 0 for any free one."""
    batch_delay_ms: float = 4.0
    """Milliseconds that an image waits for others to join its batch."""
    decode_threads: int = 2
    """Threads that decode images."""
    detect: bool = False
    """Also find and read the words of whole pictures: POST /scenes. Needs: pip install -e '.[detect]'"""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    crops: Crops = "box"
    """How found words are cut out: box, an upright rectangle; rectified, turned level; app, a box with margins."""
    detect_threads: int = 1
    """Pictures searched for words at the same time."""
    access_log: bool = False
    """Log every request to stderr."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hosts(self.allowed_hosts)
        if self.batch_delay_ms < 0:
            raise ValueError(f"--batch-delay-ms must not be negative, but is {self.batch_delay_ms}")
        if min(self.decode_threads, self.detect_threads) < 1:
            raise ValueError("--decode-threads and --detect-threads must be at least 1")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"--port must be 0 to 65535, not {self.port}")
        if not self.detect and (self.crops != "box" or self.detection != DetectionConfig()):
            raise ValueError("--crops and --detection need --detect")


def serve(arguments: ServeArguments) -> int:
    """Serve until a signal; returns 0."""
    from maerec_jax.distributed.host_memory import run_steps_in_this_thread
    from maerec_jax.reading.recognizer import Recognizer
    from maerec_jax.scenes.detection import load_detector

    try:
        from maerec_jax.serving.scenes import Scenes
        from maerec_jax.serving.server import serve_forever
        from maerec_jax.serving.service import Service
    except ModuleNotFoundError as error:
        raise UserError(f"the service needs {error.name}: pip install -e '.[serve]' in the project's folder") from error

    run_steps_in_this_thread()
    keep_compiled_programs()
    recognizer = Recognizer.load(
        arguments.checkpoint, arguments.reading, arguments.batch_size, tell=tell, adapters=arguments.adapters
    )
    service = Service(recognizer, arguments.limits, arguments.batch_delay_ms / 1000, arguments.decode_threads)
    scenes = None
    if arguments.detect:
        detector = load_detector(config=arguments.detection)
        if hasattr(detector, "compile"):
            tell("compiling the detector")
            detector.compile()
        scenes = Scenes(service, detector, arguments.crops, arguments.detect_threads)
    serve_forever(service, scenes, arguments.host, arguments.port, arguments.access_log, arguments.allowed_hosts)
    return 0


main = main_of(ServeArguments, serve, "maerec_jax.serve")

if __name__ == "__main__":
    sys.exit(main())
