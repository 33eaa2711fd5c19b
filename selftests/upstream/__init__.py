"""What the kernel's own selftests ask of links of one type, one file for each file of upstream's.

A file has upstream's name, and its tests upstream's subtests where there are any. Its docstring
names upstream's file and the release that brought it, and has three parts that `page` makes
docs/selftests.md from: "Beyond upstream, ..." says what more is asked, "Elsewhere: ..." which other
file of `selftests/` asks a part of it, and "Left out: ..." what is not asked, and why.
"""
