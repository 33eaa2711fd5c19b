"""xdist's controller: which worker runs which item, and what becomes of dead workers."""
