"""What the project's own tests share: pytester, for tests of the plugin itself."""

import signal

pytest_plugins = ["pytester"]

# A shell starts what goes to its background with Ctrl-C ignored, and so would be all sessions that
# tests start and interrupt. What is caught here is the default in them.
signal.signal(signal.SIGINT, signal.default_int_handler)
