"""What tests of the kernel share: numbered programs, calls as a stranger, and witnesses."""
