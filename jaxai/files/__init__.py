"""Files that are written whole or not at all, and read with one line of error: what runs and reports share."""
