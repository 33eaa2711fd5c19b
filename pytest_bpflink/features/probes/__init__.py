"""Probes: each makes the kernel do a thing, and looks whether it was done.

One that a link type is there has a link run a program. Those of `names` have less to look at: what
the kernel accepts, and what it says of itself. A probe returns where the kernel has it, and raises
`BpfError` where it has not.
"""
