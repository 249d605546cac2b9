"""Memory of training steps on CPUs: used again by the next step instead of being given back in between.

XLA asks the C library for the temporaries of a step, gigabytes of them, each time that it runs one, and frees them at
its end. glibc gives pieces of that size back to the system, which then has to hand out the same memory anew, page by
page and zeroed: a third of the time of a step (docs/history/speed.md). No other platform is concerned.
"""

import jax

from data_pipelines.freed_memory import keep_freed_memory as keep_freed_memory


def run_steps_in_this_thread() -> None:
    """Let programs for a single CPU device run in the thread that calls them, whose memory ``keep_freed_memory`` keeps.

    JAX runs them in a thread of its own otherwise. For the start of a command: it has an effect only before JAX is
    first used, and none on other platforms or on programs for several devices.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
