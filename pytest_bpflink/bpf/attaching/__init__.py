"""How programs attach, and where: cgroups, devices, network namespaces, events."""
