"""What people use: objects, programs, maps, links, and the places that programs attach to."""
