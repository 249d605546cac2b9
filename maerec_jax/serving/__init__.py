"""Reading over HTTP: requests become batches of static shapes, within limits. Needs the extra ``serve``."""
