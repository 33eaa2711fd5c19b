"""Probes: each uses a feature of the kernel, and looks for the effect.

The probe of a link type makes a link and sees its program run. Probes in `names` see less: whether
the kernel accepts a call, and which names its BTF has. A probe returns if the kernel has the
feature, and raises `BpfError` if not.
"""
