"""The machines that workers run on."""
