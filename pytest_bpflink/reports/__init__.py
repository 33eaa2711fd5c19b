"""The results of a run by kernel: as data, on the terminal, and in the files of a report."""
