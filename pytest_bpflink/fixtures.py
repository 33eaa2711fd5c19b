"""Every fixture of the plugin, and nothing else."""
