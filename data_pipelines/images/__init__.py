"""Pixels: from the bytes of an image file to arrays of the model's size, and what is done to them on the way."""
