"""The API for tests: objects, programs, maps, links, and the places that programs attach to."""
