"""Files that are written whole or not at all, and read with errors of one line; shared by runs and reports."""
