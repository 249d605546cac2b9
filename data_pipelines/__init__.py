"""Everything between files and a NumPy batch: sources of word images, decoding, and the grain pipeline."""
