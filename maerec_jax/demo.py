"""Try a recogniser in the browser: ``python -m maerec_jax.demo --checkpoint runs/maerec_s``."""

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated

import tyro

from data_pipelines.command import main_of, tell
from data_pipelines.errors import UserError
from maerec_jax.demo_page.uploads import Limits
from maerec_jax.reading.settings import ReadingArguments
from maerec_jax.scenes.regions import DetectionConfig, Detector
from maerec_jax.serving.limits import check_hosts


@dataclass(frozen=True)
class DemoArguments(ReadingArguments):
    """Try a recogniser in the browser: read a picture of one word, or the words of a whole scene.

    The page is served to this machine only by default, and loads nothing from other hosts.

    Uploaded pictures are kept in a temporary folder, which is deleted at the end.
    """

    host: str = "127.0.0.1"
    """Address to listen on; the default is this machine only. There is no password: put a proxy in front."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may use, beside this machine's (behind a proxy: its name); * for any."""
    port: int = 7860
    """Port to listen on; 0 for any free one."""
    root_path: str = ""
    """Path under which a proxy serves the page, for example /words."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)
    batch_size: int = 16
    """Words of a scene read at once, at most."""
    scenes: bool = True
    """Offer whole scenes, if their requirements are installed: pip install -e '.[detect]'"""
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    """How the words of a scene are found."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hosts(self.allowed_hosts)


def demo(arguments: DemoArguments) -> int:
    """Serve the page until Ctrl-C; returns 0."""
    if find_spec("gradio") is None:
        raise UserError("the demo needs gradio: pip install -e '.[demo]' in the project's folder")
    import uvicorn

    from maerec_jax.demo_page.server import make_app, own_folder
    from maerec_jax.serving.connections import address_of, allowed_hosts, listen
    from maerec_jax.weights.finding import load_recognizer

    weights = load_recognizer(arguments.checkpoint, arguments.adapters)
    try:
        with listen(arguments.host, arguments.port) as port, own_folder() as folder:
            from maerec_jax.demo_page.desk import Desk
            from maerec_jax.demo_page.page import build_page

            tell("compiling the model")
            desk = Desk(weights, arguments.reading, arguments.batch_size, _detector(arguments))
            address = port.getsockname()
            hosts = allowed_hosts(arguments.allowed_hosts, arguments.host, address)
            page = build_page(desk, arguments.limits, folder)
            app = make_app(page, arguments.limits, folder, arguments.root_path, hosts)
            tell(f"open {address_of(address)} in a browser; stop with Ctrl-C")
            # Pages hold a connection open as long as they are: the end does not wait for them.
            config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
            uvicorn.Server(config).run(sockets=[port])
    except KeyboardInterrupt:
        tell("demo stopped")
    return 0


def _detector(arguments: DemoArguments) -> Detector | None:
    """Finds the words of scenes; None where that is not wanted or not installed, which is told."""
    if not arguments.scenes:
        return None
    from maerec_jax.scenes.detection import load_detector

    try:
        return load_detector(config=arguments.detection)
    except UserError as error:
        if arguments.detection.detector:
            raise
        tell(f"only single words can be read: {error}")
        return None


main = main_of(DemoArguments, demo, "maerec_jax.demo")

if __name__ == "__main__":
    sys.exit(main())
