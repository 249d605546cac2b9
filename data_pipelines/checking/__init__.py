"""Looking at every record of a download, and telling what was found."""
