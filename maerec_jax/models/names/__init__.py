"""Name tables: where each tensor of the reference's PyTorch state dicts lies in our parameter trees, a file a model."""
