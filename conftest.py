"""What the project's own tests share: pytester, for tests of the plugin itself."""

pytest_plugins = ["pytester"]
